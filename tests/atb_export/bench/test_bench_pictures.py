"""The charts and the page of a benchmark, of any number of cells and scenarios."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from atb_export.bench.page import render, write_page
from atb_export.bench.pictures import NAMES, plots, write_pictures
from atb_export.bench.result import BenchResult

Make = Callable[..., BenchResult]
SWEEP = tuple((batch, length, threads) for batch in (1, 8) for length in (16, 64) for threads in (1, 2))


class Page(HTMLParser):
    """What opens must close; text, tags and section ids are kept."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text, self.tags, self.ids = "", set[str](), list[str]()
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in {"meta", "link", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if self.open and self.open[-1] != "style" else ""


@pytest.mark.parametrize("cells", [((1, 64, 1),), SWEEP], ids=["one cell", "a sweep"])
@pytest.mark.parametrize("bisected", [True, False])
def test_every_scenario_has_its_files_and_its_section(
    bench_result: Make, tmp_path: Path, cells: Any, bisected: bool
) -> None:
    result = bench_result(cells=cells, bisected=bisected)
    found = write_pictures(result, tmp_path)
    assert {x.name for x in found} == {f"{name}.{kind}" for name in NAMES for kind in ("png", "svg")}
    for name in NAMES:
        words = " ".join(ElementTree.parse(tmp_path / f"{name}.svg").getroot().itertext())
        assert "Test CPU <1>, 2 CPUs" in words
        assert "OpenVINO 2026.4" in words
        assert ("1 thread" in words) == (len(cells) == 1)
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    page = Page(render(result))
    assert {"singlestream", "offline", "server", "skipped", "conditions"} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert "script" not in page.tags
    assert "a <b>name</b> & $x$" in page.text
    assert "too long <script>" in page.text
    over = " over 8 shapes" if len(cells) > 1 else ""
    assert re.search(
        rf"bundle is 2\.[67]\d times as fast as a <b>name</b> & \$x\$ that is rather long.*{over}", page.text
    )
    assert ("no rate keeps 4.00" in page.text) == bisected


def test_a_page_needs_nothing_from_elsewhere_and_is_the_same_twice(bench_result: Make, tmp_path: Path) -> None:
    write_page(bench_result(), tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    assert html == render(bench_result())
    assert re.findall(r"(?:src|href)=\"(?!#|data:)[^\"]*", html) == []
    assert "url(http" not in html


def test_scenarios_that_were_not_played_have_no_chart(bench_result: Make, tmp_path: Path) -> None:
    result = bench_result()
    write_pictures(result, tmp_path)
    alone = replace(result, single_stream=(), server=(), skipped=())
    assert [x.name for x in write_pictures(alone, tmp_path)] == ["throughput.svg", "throughput.png"]
    assert {x.name for x in tmp_path.iterdir()} == {"throughput.svg", "throughput.png"}
    page = Page(render(alone))
    assert {"singlestream", "server", "skipped"} & set(page.ids) == set()
    assert [x.name for x in plots(replace(result, offline=()))] == ["latency", "server"]


def test_the_title_sets_the_quickest_beside_the_reference(bench_result: Make) -> None:
    result = replace(bench_result(), reference="torch")
    assert re.search(r"<h1>bundle is 3\.[89]\d times as fast as torch</h1>", render(result))
    alone = replace(result, single_stream=result.single_stream[:1], server=(), offline=())
    assert "<h1>bundle answers nine in ten queries within 0.9" in render(alone)


def test_an_unequal_comparison_is_called_one(bench_result: Make) -> None:
    result = bench_result()
    first, *others = result.single_stream
    rows = (replace(first, who=replace(first.who, effective_precision="bf16")), *others)
    html = render(replace(result, reference="torch", single_stream=rows))
    assert re.search(r"<h1>bundle \(bf16\) is [\d.]+ times as fast as torch \(f32\)</h1>", html)


def test_a_late_load_generator_is_told(bench_result: Make) -> None:
    result = bench_result()
    assert result.late == []
    assert "The machine was busy" not in render(result)
    row = result.server[0]
    assert row.report is not None
    starts = tuple(ms + 0.4 for ms in row.report.starts_ms)
    late = replace(row, report=replace(row.report, starts_ms=starts, ends_ms=tuple(x + 0.8 for x in starts)))
    busy = replace(result, server=(late, *result.server[1:]))
    assert busy.late == ["bundle"]
    assert "The machine was busy: bundle began up to 0.4" in render(busy)


def test_documents_hold_no_infinity_and_raw_samples_only_when_asked(bench_result: Make) -> None:
    result = bench_result()
    assert any(not math.isfinite(ms) for x in result.server for _, ms in x.probes)
    short, raw = result.to_json(raw=False), result.to_json(raw=True)
    assert json.loads(json.dumps(short, allow_nan=False)) == json.loads(json.dumps(short))
    assert all("report" not in row for row in short["rows"])
    assert all("report" in row for row in raw["rows"] if row.get("rate_per_s", 1) is not None)
    row = next(x for x in raw["rows"] if x["scenario"] == "singlestream")
    assert row["p90_ms"] == pytest.approx(sorted(row["report"]["samples_ms"])[35], rel=0.02)
