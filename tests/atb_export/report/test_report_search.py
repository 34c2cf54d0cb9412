from __future__ import annotations

import copy
import re
from typing import Any
from xml.etree import ElementTree

import pytest

from atb_export.report import ReportError
from atb_export.report.candidates import measured, scored, staircase, targets
from atb_export.report.checked import checked
from atb_export.report.flops import flops_chart
from atb_export.report.growth import growth_chart, moves, spread
from atb_export.report.plot import Plot
from atb_export.report.prediction import mape, prediction_chart
from atb_export.report.search import search_charts, summary
from atb_export.report.timing import parts, time_chart
from search.statistics import band, spearman


def texts(svg: str) -> list[str]:
    return ["".join(e.itertext()).replace("\u202f", " ") for e in ElementTree.fromstring(svg).iter("text")]


def drawn(plot: Plot | None) -> tuple[list[str], list[str]]:
    """What is written in the wide and in the narrow picture."""
    assert plot is not None
    picture = plot.picture()
    return texts(picture.wide), texts(picture.narrow)


def caption(plot: Plot | None) -> str:
    assert plot is not None
    return plot.caption.replace("\u202f", " ")


@pytest.fixture
def few(result: dict[str, Any]) -> dict[str, Any]:
    """Six candidates in three generations with round numbers; the second generation adds nothing."""
    one = next(c for c in result["candidates"] if c["accuracy"] is not None)
    numbers = [  # generation, ms, predicted, accuracy, GFLOP
        (0, 1.0, None, 0.70, 2.0),
        (0, 2.0, None, 0.80, 4.0),
        (1, 2.0, 2.2, 0.75, 3.0),
        (2, 0.5, 0.55, 0.72, 1.0),
        (2, 1.0, 1.1, 0.78, 5.0),
        (2, 1.1, 1.1, 0.50, 6.0),
    ]
    result["candidates"] = [
        copy.deepcopy(one)
        | {"generation": g, "latencies": [{"ms": ms, "ci_ms": [ms, ms]}], "predicted_ms": guess and [guess]}
        | {"accuracy": accuracy, "complete": accuracy > 0.5, "flops": int(1e9 * flops)}
        for g, ms, guess, accuracy, flops in numbers
    ]
    result["search"]["constraints_ms"] = [1.0]
    return result


def test_a_staircase_is_what_nothing_beats_in_both(few: dict[str, Any]) -> None:
    assert staircase(measured(few)) == [(0.5, 0.72), (1.0, 0.78), (2.0, 0.80)]
    assert staircase([c for c in measured(few) if c.generation == 0]) == [(1.0, 0.70), (2.0, 0.80)]


def test_generations_that_added_nothing_are_not_drawn(few: dict[str, Any]) -> None:
    assert moves(scored(few)) == [0, 2]
    for words in drawn(growth_chart(few)):
        at = words.index("front after generation")
        assert words[at + 1 : at + 3] == ["0", "2"]


def test_at_most_five_staircases_are_drawn_evenly() -> None:
    assert spread([3, 5]) == [3, 5]
    assert spread(list(range(41))) == [0, 10, 20, 30, 40]


def test_the_growth_names_limit_and_winner_and_shows_everyone(result: dict[str, Any]) -> None:
    plot = growth_chart(result)
    for words in drawn(plot):
        assert {"limit 0.460 ms", "winner", "front after generation"} <= set(words)
    assert plot is not None
    tips = re.findall("<title>([^<]*)</title>", plot.picture().wide)
    assert len(tips) == sum(c["accuracy"] is not None for c in result["candidates"])
    assert sum("stopped early" in tip for tip in tips) == sum(not c["complete"] for c in result["candidates"])
    assert all("generation " in tip for tip in tips)


def test_one_stopped_early_stands_on_no_front(few: dict[str, Any]) -> None:
    few["candidates"][-1] |= {"accuracy": 0.99, "complete": False, "rows": 50}
    assert staircase(measured(few))[-1] == (2.0, 0.80)
    assert "3 of 5 scored candidates stand on the last front." in caption(growth_chart(few))
    assert "Crosses: 1 that were stopped early" in caption(growth_chart(few))


def test_the_prediction_says_how_good_it_was(few: dict[str, Any]) -> None:
    assert mape([2.2, 1.1], [2.0, 1.0]) == pytest.approx(0.1)
    words = caption(prediction_chart(few))
    assert words == "Spearman 0.95, MAPE 7.5 % over 4 engines predicted beforehand."
    for written in drawn(prediction_chart(few)):
        assert {"Spearman 0.95", "MAPE 7.5 %"} <= set(written)
    plot = prediction_chart(few)
    assert plot is not None
    assert "only steer" in plot.says


def test_flops_are_ranked_over_all_and_inside_the_band(result: dict[str, Any]) -> None:
    here = measured(result)
    flops, ms = [c.flops or 0.0 for c in here], [c.ms for c in here]
    inside = band(flops, ms, constraint_ms=0.46)
    assert inside.correlation is not None
    words = caption(flops_chart(result))
    assert f"Rank correlation {spearman(flops, ms):.2f} over all {len(here)} engines" in words
    assert f"{inside.correlation:.2f} among the {inside.engines} inside the band of 0.368 to 0.575 ms" in words
    for written in drawn(flops_chart(result)):
        wanted = {"winner", "FLOPs' choice", f"in the band: {inside.correlation:.2f}", "limit 0.460 ms"}
        assert wanted <= set(written)


def test_precisions_are_told_apart_where_there_are_several(result: dict[str, Any]) -> None:
    for written in drawn(flops_chart(result)):
        at = written.index("compiled in")
        assert written[at + 1 : at + 3] == ["bf16", "f32"]
    result["candidates"] = [c for c in result["candidates"] if c["design"]["precisions"] == ["bf16"]]
    for written in drawn(flops_chart(result)):
        assert "compiled in" not in written


def test_every_second_is_in_one_part(result: dict[str, Any]) -> None:
    result["candidates"] = [
        {**result["candidates"][0], "seconds": {"graph": 1.0, "compile": 2.0, "verify": 3.0}},
        {**result["candidates"][1], "seconds": {"measure": 4.0, "accuracy": 5.0, "queue": 6.0}},
    ]
    result["search"]["seconds"] = 30.0
    found = {part.name: part.seconds for part in parts(result)}
    assert found == {"graph": 1, "compile": 2, "verify": 3, "measure": 4, "accuracy": 5, "waiting, other": 15}
    assert caption(time_chart(result)) == "30 s for 2 candidates, 15 s each."
    for written in drawn(time_chart(result)):
        assert {"waiting, other", "15 s · 50 %", "compile", "2.0 s · 7 %"} <= set(written)


def test_work_at_once_is_not_called_waiting(result: dict[str, Any]) -> None:
    result["search"]["seconds"] = 10.0
    assert "waiting, other" not in {part.name for part in parts(result)}
    assert "Several were at work at once: by the clock it was 10 s." in caption(time_chart(result))
    result["candidates"][0]["seconds"]["queue"] = 6.0
    assert parts(result)[-1].seconds == 6.0


def test_each_target_has_its_panel_and_its_numbers(double_result: dict[str, Any]) -> None:
    assert [t.limit_ms for t in targets(double_result)] == [0.46, 0.12]
    one = measured_one(double_result)
    for i in (0, 1):
        seen = measured(double_result, i)[0]
        guess = one["predicted_ms"] and one["predicted_ms"][i]
        wanted = (one["latencies"][i]["ms"], one["design"]["precisions"][i], guess)
        assert (seen.ms, seen.precision, seen.predicted_ms) == wanted
    for plot in search_charts(double_result):
        for written in drawn(plot):
            named = [w for w in written if w.startswith(("openvino-CPU", "tensorrt-cuda"))]
            assert len(named) == (0 if plot.name == "time" else 2)
        if plot.name in {"prediction", "flops"}:
            assert "tensorrt-cuda:0-fp16-b1-l64-t1: " in plot.caption


def test_a_target_without_predictions_has_no_panel(double_result: dict[str, Any]) -> None:
    result = copy.deepcopy(double_result)
    for candidate in result["candidates"]:
        if candidate["predicted_ms"]:
            candidate["predicted_ms"][1] = None
    for written in drawn(prediction_chart(result)):
        assert not [w for w in written if w.startswith("tensorrt")]


def test_charts_without_numbers_are_none(result: dict[str, Any]) -> None:
    bare = {**result, "candidates": [{**c, "predicted_ms": None, "seconds": {}} for c in result["candidates"]]}
    assert prediction_chart(bare) is None
    assert time_chart(bare) is None
    empty = {**result, "candidates": result["candidates"][:1]}
    assert growth_chart(empty) is None
    assert flops_chart(empty) is None
    assert search_charts({**result, "candidates": [], "search": None}) == []
    assert summary({**result, "search": None}) == []


def test_without_a_search_the_target_is_the_results(result: dict[str, Any]) -> None:
    result["search"] = None
    (target,) = targets(result)
    assert (target.label, target.limit_ms) == ("openvino", 0.46)
    assert [plot.name for plot in search_charts(result)] == ["growth", "prediction", "flops", "time"]


def test_the_same_numbers_give_the_same_bytes(result: dict[str, Any]) -> None:
    first, again = search_charts(result), search_charts(copy.deepcopy(result))
    assert [p.picture() for p in first] == [p.picture() for p in again]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latencies": []}, "a latency above 0 ms on each of 1 targets"),
        ({"latencies": [{"ms": -1.0, "ci_ms": None}]}, "a latency above 0 ms"),
        ({"latencies": [{"ms": float("nan"), "ci_ms": None}]}, "a latency above 0 ms"),
        ({"latencies": [3.0]}, "candidate 0 lacks a part or has one of another kind"),
        ({"design": {"subnet": {}}}, "candidate 0 lacks a part"),
        ({"design": {"subnet": {}, "precisions": ["bf16", "f32"]}}, "a precision for each of 1 targets"),
        ({"design": {"subnet": "deep", "precisions": ["bf16"]}}, "a design has a subnet"),
        ({"status": "guessed"}, "measured, failed or spared, got 'guessed'"),
        ({"predicted_ms": [1.0, 2.0]}, "predicted_ms has a number for each of 1 targets"),
        ({"generation": -1}, "generation counts from 0, got -1"),
    ],
)
def test_candidates_that_are_none_are_refused(result: dict[str, Any], change: dict[str, Any], message: str) -> None:
    result["candidates"] = [{**measured_one(result), **change}]
    with pytest.raises(ReportError, match=re.escape(message)):
        checked(result)


def measured_one(result: dict[str, Any]) -> dict[str, Any]:
    return next(c for c in result["candidates"] if c["status"] == "measured")


@pytest.mark.parametrize(
    "change", [{"targets": []}, {"constraints_ms": [1.0, 2.0]}, {"targets": ["a", "b"], "constraints_ms": None}]
)
def test_a_search_has_a_constraint_for_each_target(result: dict[str, Any], change: dict[str, Any]) -> None:
    result["search"] |= change
    with pytest.raises(ReportError, match=r"one (constraint )?for each"):
        checked(result)


def test_what_was_spared_an_engine_has_no_latency_to_check(result: dict[str, Any]) -> None:
    spared = {**copy.deepcopy(result["candidates"][0]), "status": "spared", "latencies": []}
    more = {**result, "candidates": [*result["candidates"], spared]}
    assert len(measured(checked(more))) == len(measured(result))
