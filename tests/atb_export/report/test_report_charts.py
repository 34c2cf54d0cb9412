from __future__ import annotations

import re
import warnings
from typing import Any
from xml.etree import ElementTree

import pytest

from atb_export.report.axes import Picture
from atb_export.report.charts import front_chart
from atb_export.report.labels import Box
from atb_export.report.paired import paired_chart
from atb_export.report.search import search_charts
from atb_export.report.shape import shape_chart
from atb_export.report.sweep import sweep_chart


def texts(svg: str) -> list[str]:
    return ["".join(e.itertext()).replace("\u202f", " ") for e in ElementTree.fromstring(svg).iter("text")]


def both(picture: Picture | None) -> tuple[str, str]:
    assert picture is not None
    return picture.wide, picture.narrow


def test_the_front_names_every_finished_model_once(result: dict[str, Any]) -> None:
    for svg in both(front_chart(result)):
        written = texts(svg)
        for name in ("winner", "teacher", "tinybert4", "cut3", "cut2"):
            assert written.count(name) == 1
        assert "limit 0.460 ms" in written


def test_every_candidate_can_be_read_off_by_pointing(result: dict[str, Any]) -> None:
    complete = sum(c["accuracy"] is not None and c["complete"] for c in result["candidates"])
    titles = re.findall("<title>", front_chart(result).wide)
    assert len(titles) == complete + 5


def test_names_in_a_crowd_do_not_cover_each_other(result: dict[str, Any]) -> None:
    """Four models within 2 % of each other, as hand-designed shapes may well be."""
    for i, model in enumerate(result["baselines"]):
        model["latency_ms"] = result["winner"]["latency_ms"] * (1 + 0.01 * i)
        model["accuracy"] = result["winner"]["accuracy"] - 0.001 * i
    svg = ElementTree.fromstring(front_chart(result).wide)
    boxes = []
    for element in svg.iter("text"):
        text = "".join(element.itertext())
        if text in {"winner", "tinybert4", "cut3", "cut2"}:
            place = element.attrib.get("transform", "")
            x, y = (float(v) for v in re.findall(r"-?[\d.]+", place)[-2:]) if "translate" in place else (0.0, 0.0)
            x, y = float(element.attrib.get("x", x)), float(element.attrib.get("y", y))
            boxes.append(Box(left=0, right=1, bottom=y, top=y + 8))
    assert len(boxes) == 4
    heights = sorted(box.bottom for box in boxes)
    assert heights == sorted(set(heights))


def test_the_shape_says_what_was_kept(result: dict[str, Any]) -> None:
    result["winner"]["subnet"] = {
        "hidden_size": 256,
        "layers": [{"source": 5, "heads": 8, "head_size": 32, "ffn_size": 768}],
    }
    for svg in both(shape_chart(result)):
        written = texts(svg)
        assert "8 of 12 × 32" in written
        assert "768 of 1536" in written
        assert "hidden size 256 of 384" in written
        assert [t for t in written if t.startswith("layer")] == [f"layer {i}" for i in range(6)]


def test_no_shape_without_a_subnet(result: dict[str, Any]) -> None:
    result["winner"]["subnet"] = None
    assert shape_chart(result) is None


@pytest.mark.parametrize(("lengths", "title"), [((16, 64), "batch 4"), ((64,), "length 64")])
def test_the_sweep_has_one_panel_for_each_batch_or_else_length(
    result: dict[str, Any], lengths: tuple[int, ...], title: str
) -> None:
    result["sweep"] = [row for row in result["sweep"] if row["length"] in lengths]
    for svg in both(sweep_chart(result)):
        assert title in texts(svg)


def test_charts_without_data_are_none(result: dict[str, Any]) -> None:
    empty = {**result, "sweep": [], "paired": [], "candidates": result["candidates"][:1]}
    assert sweep_chart(empty) is None
    assert paired_chart(empty) is None


def test_stacked_cells_are_drawn_and_counted(result: dict[str, Any]) -> None:
    before = shape_chart(result)
    layer = result["winner"]["subnet"]["layers"][0]
    layer["ffn_stack"] = 3
    after = shape_chart(result)
    for plain, stacked in zip(both(before), both(after), strict=True):
        assert any(t.endswith(", 3 cells") for t in texts(stacked))
        assert stacked.count("<path") == plain.count("<path") + 2


def test_one_point_and_equal_points_make_a_chart(result: dict[str, Any]) -> None:
    result["baselines"] = []
    same = {"latencies": [{"ms": 0.4, "ci_ms": [0.4, 0.4]}], "accuracy": 0.8, "predicted_ms": [0.4], "flops": 9}
    scored = [c for c in result["candidates"] if c["status"] == "measured" and c["complete"]]
    result["candidates"] = [{**c, **same} for c in scored[:2]]
    result["teacher"] |= {"latency_ms": 0.4, "accuracy": 0.8}
    result["winner"] |= {"latency_ms": 0.4, "accuracy": 0.8}
    result["constraint"]["max_ms"] = 0.4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "<svg" in front_chart(result).wide
        for plot in search_charts(result):
            assert "<svg" in plot.picture().narrow


def test_names_in_other_scripts_raise_no_warning(result: dict[str, Any]) -> None:
    result["baselines"][0]["name"] = "猫 🐈 $x_1$"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "猫 🐈 $x_1$" in texts(front_chart(result).wide)
