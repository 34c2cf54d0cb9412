from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from atb_export.report import ReportError, write_report
from atb_export.report.digits import NONE
from atb_export.report.page import render

ALL_SECTIONS = {
    "front", "shape", "baselines", "paired", "sweep", "search", "parity", "failures", "seconds", "conditions",
}  # fmt: skip
VOID = {"meta", "link", "br"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; checks that what opens also closes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.sections: set[str] = set()
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag in {"td", "li", "div", "dt", "dd"}:
            self.text += " "
        if tag not in VOID:
            self._open.append(tag)
        self._note(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._note(tag, attrs)

    def _note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        here = dict(attrs)
        if here.get("id"):
            self.ids.append(str(here["id"]))
            if tag == "section":
                self.sections.add(str(here["id"]))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] != "style":
            self.text += data


def visible(page: Page) -> str:
    return " ".join(page.text.split()).replace("\u202f", " ")


@pytest.fixture(scope="module")
def html(full_result: dict[str, Any]) -> str:
    return render(full_result)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_every_part_of_a_full_result_has_its_section(page: Page) -> None:
    assert page.sections == ALL_SECTIONS


def test_the_page_needs_nothing_beside_itself(page: Page) -> None:
    for _, name, value in page.attributes:
        if name in {"src", "href", "xlink:href", "srcset", "action", "data"}:
            assert value == "data:," or value.startswith("#"), (name, value)
        assert "http" not in value or name == "http-equiv"
    assert not page.tags & {"script", "iframe", "img", "object", "embed", "base", "image"}


def test_the_style_fetches_nothing(html: str) -> None:
    style = "".join(re.findall(r"<style>(.*?)</style>", html, re.S))
    assert "url(" not in style
    assert "@import" not in style


def test_ids_are_unique_and_references_resolve(page: Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    for _, name, value in page.attributes:
        if name == "href" and value.startswith("#"):
            assert value[1:] in page.ids
        for reference in re.findall(r"url\(#([^)]*)\)", value):
            assert reference in page.ids


def test_charts_take_every_colour_from_the_page(html: str) -> None:
    charts = re.findall(r"<svg.*?</svg>", html, re.S)
    assert len(charts) == 16
    for chart in charts:
        assert re.findall(r"(?:fill|stroke): #[0-9a-f]+", chart) == []
        for variable in set(re.findall(r"var\((--\w+)\)", chart)):
            assert html.count(f"{variable}: #") == 2, variable  # light and dark


def test_the_headline_carries_the_numbers(result: dict[str, Any], page: Page) -> None:
    text = visible(page)
    ratio = result["winner"]["latency_ms"] / result["teacher"]["latency_ms"]
    assert f"98.4 % of the teacher’s accuracy at {ratio:.2f} of its latency" in text
    assert "OpenVINO on CPU in bf16, batch 1, length 64, 1 thread" in text
    assert "61.4 MB" in text
    assert "memory 8.20 GB" in text
    assert "The limit was 0.460 ms (33 % of the teacher’s) at the median: met ." in text.replace("met.", "met .")


def test_a_missed_limit_is_said(result: dict[str, Any]) -> None:
    result["constraint"]["max_ms"] = 0.1
    assert "not met" in visible(Page(render(result)))


def test_a_difference_that_is_none_is_called_so(page: Page) -> None:
    text = visible(page)
    assert "winner and cut2. In accuracy this is not a difference: +0.4 ± 0.7 points (p = 0.61)" in text
    assert "winner and tinybert4. More accurate: +3.1 ± 0.9 points (p < 0.001)" in text
    assert "By the plain numbers the winner dominates tinybert4." in text
    assert "winner and cut3." in text
    assert "Neither dominates the other." in text


def test_a_baseline_that_dominates_is_not_hidden(result: dict[str, Any]) -> None:
    cut2 = result["baselines"][2]
    cut2["accuracy"], cut2["latency_ms"] = result["winner"]["accuracy"], result["winner"]["latency_ms"] * 0.9
    cut2["latency_ci_ms"] = [0.9 * x for x in result["winner"]["latency_ci_ms"]]
    text = visible(Page(render(result)))
    assert "By the plain numbers cut2 dominates the winner." in text
    assert "cut2 is 1.11× as fast." in text


def test_pairs_written_the_other_way_round_are_turned(result: dict[str, Any]) -> None:
    for pair in result["paired"]:
        pair["a"], pair["b"], pair["difference"] = pair["b"], pair["a"], -pair["difference"]
    text = visible(Page(render(result)))
    assert "winner and tinybert4. More accurate: +3.1 ± 0.9 points" in text
    assert "tinybert4 − winner −3.1 ± 0.9 points" in text


def test_overlapping_latencies_are_not_called_faster(result: dict[str, Any]) -> None:
    result["baselines"][2]["latency_ci_ms"] = [0.1, 0.5]
    assert "In latency their intervals overlap" in visible(Page(render(result)))


def test_parity_shows_passed_refused_and_skipped_with_its_reason(page: Page) -> None:
    text = visible(page)
    assert "5 passed, 1 refused, 1 skipped." in text
    assert "this machine has no NVIDIA driver to run it" in text
    assert "2.4 × 10⁻⁶" in text


def test_failed_candidates_are_counted_by_reason(result: dict[str, Any], page: Page) -> None:
    failed = sum(c["status"] == "failed" for c in result["candidates"])
    assert f"{failed}× openvino-CPU-bf16: worst logit differs by 0.31" in visible(page)


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        ({"baselines": []}, {"baselines"}),
        ({"baselines": [], "paired": []}, {"baselines", "paired"}),
        ({"sweep": []}, {"sweep"}),
        ({"parity": []}, {"parity"}),
        ({"seconds": {}}, {"seconds"}),
        ({"candidates": [], "flops_choice": None}, {"search", "failures"}),
        ({"candidates": []}, {"failures"}),
        ({"flops_choice": None, "spearman_flops_latency": None, "search": None}, set()),
    ],
)
def test_a_missing_part_leaves_its_section_out(result: dict[str, Any], changes: dict[str, Any], gone: set[str]) -> None:
    assert Page(render({**result, **changes})).sections == ALL_SECTIONS - gone


def test_a_search_without_predictions_leaves_their_chart_out(result: dict[str, Any]) -> None:
    for candidate in result["candidates"]:
        candidate["predicted_ms"] = None
    text = visible(Page(render(result)))
    assert "Latency predicted against measured" not in text
    assert "The front growing" in text


def test_the_least_result_still_makes_a_page(result: dict[str, Any]) -> None:
    least = {k: result[k] for k in ("schema", "task", "teacher", "winner", "constraint", "target")}
    for name in ("teacher", "winner"):
        least[name] = {**least[name], "bundle_bytes": None, "latency_ci_ms": None, "accuracy_se": None}
    assert Page(render(least)).sections == {"front", "shape", "conditions"}


def test_unknown_numbers_become_a_dash(result: dict[str, Any]) -> None:
    result["search"] |= {"seconds": None, "constraints_ms": [None], "stopped": None}
    result["candidates"] = [c for c in result["candidates"] if c["status"] == "measured"][:2]
    for candidate in result["candidates"]:
        candidate["flops"] = 7
    result["flops_choice"] |= {"accuracy": None, "latency_ms": None, "note": None}
    text = visible(Page(render(result)))
    assert f"Rank correlation {NONE} over all 2 engines." in text
    assert not re.search(r"\bnan\b|\bNone\b", text)


def test_a_regression_is_not_shown_in_percent(result: dict[str, Any]) -> None:
    result["task"] |= {"kind": "regression", "metric": "spearman"}
    assert "0.842 ± 0.009" in visible(Page(render(result)))


HOSTILE = (
    "<script>alert(1)</script>\"'><img src=http://x/y onerror=z> $\\frac{1}{2}$ {{ 7*7 }} \x00\ud800\u202e&amp; 猫 🐈"
)


def _poisoned(value: Any) -> Any:
    if isinstance(value, str) and value not in {"measured", "failed", "accuracy", "winner", "teacher", "p50"}:
        return HOSTILE
    if isinstance(value, dict):
        return {k: _poisoned(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_poisoned(v) for v in value]
    return value


def test_hostile_strings_stay_text_wherever_they_stand(result: dict[str, Any], tmp_path: Path) -> None:
    poisoned = _poisoned(copy.deepcopy(result))
    poisoned["environment"][HOSTILE] = {HOSTILE: HOSTILE}
    poisoned["seconds"][HOSTILE] = 3.0
    poisoned["sweep"] += [{**row, "model": HOSTILE} for row in poisoned["sweep"][:4]]
    write_report(poisoned, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert not page.tags & {"script", "img"}
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert "<script>alert(1)</script>" in page.text
    assert "{{ 7*7 }}" in page.text
    assert "\x00" not in html
    assert "\u202e" not in html


def test_the_search_is_told_in_words(result: dict[str, Any], page: Page) -> None:
    text = visible(page)
    measured = sum(c["status"] == "measured" for c in result["candidates"])
    assert f"NSGA-II, 5 generations, {measured} of 24 candidates measured in " in text
    assert "It ended when it had measured as many engines as it was given." in text
    assert "Measured on openvino-CPU-bf16-b1-l64-t1 within 0.460 ms." in text
    assert "Predictions only steer the search: every latency that is reported was measured." in text
    assert text.index("A search on FLOPs would have picked") < text.index("Where the time of the search went")


def test_a_page_of_two_targets_is_whole(double_result: dict[str, Any]) -> None:
    text = visible(page := Page(render(double_result)))
    assert "tensorrt-cuda:0-fp16-b1-l64-t1 within 0.120 ms" in text
    assert len(page.ids) == len(set(page.ids))


def test_the_same_result_gives_the_same_bytes(result: dict[str, Any], html: str) -> None:
    assert html == render(json.loads(json.dumps(result)))


def test_the_result_is_left_as_it_was(result: dict[str, Any]) -> None:
    before = copy.deepcopy(result)
    render(result)
    assert result == before


def test_what_is_missing_is_named(result: dict[str, Any]) -> None:
    del result["winner"], result["target"]
    with pytest.raises(ReportError, match="lacks winner, target"):
        render(result)


def test_another_schema_is_refused(result: dict[str, Any]) -> None:
    with pytest.raises(ReportError, match="reads results of schema 2, this one is of schema 1"):
        render({**result, "schema": 1})


def test_a_model_without_a_latency_is_refused(result: dict[str, Any]) -> None:
    result["baselines"][0]["latency_ms"] = None
    with pytest.raises(ReportError, match="latency_ms; 'tinybert4'"):
        render(result)


def test_the_file_appears_whole_or_not_at_all(
    result: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "runs" / "report.html"
    write_report(result, path)
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        write_report({**result, "recipe": "other"}, path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
