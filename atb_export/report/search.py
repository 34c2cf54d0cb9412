"""How the search went: its charts, in the order they are read."""

from __future__ import annotations

from atb_export.report import digits
from atb_export.report.axes import Result
from atb_export.report.candidates import measured, targets
from atb_export.report.flops import flops_chart
from atb_export.report.growth import growth_chart
from atb_export.report.plot import Plot
from atb_export.report.prediction import prediction_chart
from atb_export.report.timing import time_chart

_METHODS = {"nsga2": "NSGA-II", "random": "random search", "autotinybert": "AutoTinyBERT's evolver"}
_ENDS = {
    "engines": "It ended when it had measured as many engines as it was given.",
    "seconds": "It ended when its time was over.",
    "failures": "It ended because too many candidates failed.",
    "exhausted": "It ended because there was nothing left to propose.",
}


def search_charts(result: Result) -> list[Plot]:
    """Those of the four that the result has the numbers for."""
    made = (growth_chart(result), prediction_chart(result), flops_chart(result), time_chart(result))
    return [plot for plot in made if plot is not None]


def summary(result: Result) -> list[str]:
    """The search in a few sentences; none where the result does not speak of it."""
    searched = result.get("search") or {}
    if not searched:
        return []
    here = measured(result)
    method = str(searched.get("method") or "")
    words = [_METHODS.get(method, method)] if method else []
    if searched.get("generations"):
        words.append(f"{digits.whole(searched['generations'])} generations")
    words.append(f"{digits.whole(len(here))} of {digits.whole(len(result['candidates']))} candidates measured")
    if digits.number(searched.get("seconds")):
        words.append(f"in {digits.duration(searched['seconds'])}")
    lines = [", ".join(words).replace(", in ", " in ") + "."]
    if searched.get("stopped"):
        stopped = str(searched["stopped"])
        lines.append(_ENDS.get(stopped, f"Stopped: {stopped.rstrip('.')}."))
    goals = [
        f"{t.label}" + (f" within {digits.ms(t.limit_ms)}" if t.limit_ms is not None else "") for t in targets(result)
    ]
    lines.append(f"Measured on {'; '.join(goals)}.")
    return lines
