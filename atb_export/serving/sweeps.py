"""Rates from calm to overload, and the knee: the highest rate that a server keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from atb_export.serving.load import LoadReport
from runtime.scenarios import RateSearch

Run = Callable[[float], LoadReport]
"""One open-loop run at a rate."""

STEP = 1.3
START = 0.1  # of the closed loop's throughput
MOST = 2.0
WORSE = 10.0  # without a bound of the user's: how many times the calm p99 a kept rate may have
LOST = 0.001  # the share of requests that may fail


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Reports in the order they were measured; `knee` is the last one that kept the bound, None where none did."""

    reports: tuple[LoadReport, ...]
    max_ms: float
    knee: LoadReport | None


def sweep(run: Run, *, capacity_per_s: float, max_ms: float | None) -> Sweep:
    """Rates in steps of `STEP` from a tenth of what a closed loop got, up to the first that is not kept, and then
    between the two by bisection, with a confirmation.

    A rate is kept where at most `LOST` of the requests fail and p99 stays within `max_ms`; without one, within `WORSE`
    times the p99 of the lowest rate.
    """
    found: list[LoadReport] = []

    def at(rate: float) -> LoadReport:
        found.append(run(rate))
        return found[-1]

    def kept(report: LoadReport, bound: float) -> bool:
        return report.failed <= LOST * report.meant and report.p99_ms <= bound

    rate = capacity_per_s * START
    calm = at(rate)
    bound = max_ms if max_ms is not None else WORSE * calm.p99_ms
    last = rate if kept(calm, bound) else None
    while last is not None and rate < capacity_per_s * MOST:
        rate *= STEP
        if not kept(at(rate), bound):
            break
        last = rate
    knee = None
    search = RateSearch(guess_per_s=last or rate)
    while (next_rate := search.rate_per_s) is not None:
        report = at(next_rate)
        search.tell(kept(report, bound))
        if search.found_per_s is not None:
            knee = report
    return Sweep(reports=tuple(found), max_ms=bound, knee=knee)
