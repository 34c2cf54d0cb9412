from __future__ import annotations

import struct
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from atb_export.report import ReportError, write_pictures
from atb_export.report.palette import DARK, LIGHT
from atb_export.report.pictures import NAMES, conditions


def size_of_png(data: bytes) -> tuple[int, int]:
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


@pytest.fixture(scope="module")
def folder(full_result: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    found = write_pictures(full_result, folder)
    assert sorted(found) == sorted(folder.iterdir())
    return folder


def test_every_chart_is_there_in_both_formats(folder: Path) -> None:
    assert {p.name for p in folder.iterdir()} == {f"{name}.{kind}" for name in NAMES for kind in ("png", "svg")}
    for name in NAMES:
        width, height = size_of_png((folder / f"{name}.png").read_bytes())
        assert width > 1600
        assert height > 400


def test_a_file_says_by_itself_what_it_shows_and_for_which_conditions(folder: Path) -> None:
    for name in NAMES:
        root = ElementTree.fromstring((folder / f"{name}.svg").read_bytes())
        words = " ".join("".join(e.itertext()) for e in root.iter("{http://www.w3.org/2000/svg}text"))
        for part in ("OpenVINO on CPU", "bf16/f32", "1 thread", "batch 1", "length 64", "Xeon"):
            assert part in words, name
        assert root.find("{http://www.w3.org/2000/svg}title") is not None
    growth = (folder / "growth.svg").read_text()
    assert "The front growing" in growth
    assert "latency, p50 in ms" in growth
    prediction = (folder / "prediction.svg").read_text()
    assert "Predictions only steer" in prediction


def test_a_file_has_colours_of_its_own_on_white(folder: Path) -> None:
    for name in NAMES:
        svg = (folder / f"{name}.svg").read_text()
        assert "var(--" not in svg
        assert "#0f0e" not in svg  # the stand-ins for the page's variables
        assert "fill: #ffffff" in svg


def test_both_modes_of_the_page_have_the_same_names() -> None:
    assert list(LIGHT) == list(DARK)


def test_the_same_result_gives_the_same_bytes(full_result: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    for path in write_pictures(full_result, tmp_path):
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name


def test_pictures_of_an_earlier_result_do_not_stay(result: dict[str, Any], tmp_path: Path) -> None:
    for name in ("prediction.svg", "prediction.png", "mine.png"):
        (tmp_path / name).write_bytes(b"old")
    for candidate in result["candidates"]:
        candidate["predicted_ms"] = None
    names = {p.name for p in write_pictures(result, tmp_path)}
    assert names == {f"{x}.{kind}" for x in NAMES if x != "prediction" for kind in ("png", "svg")}
    assert {p.name for p in tmp_path.iterdir()} == names | {"mine.png"}


def test_nothing_to_draw_makes_no_folder(result: dict[str, Any], tmp_path: Path) -> None:
    assert write_pictures({**result, "candidates": []}, tmp_path / "pictures") == []
    assert not (tmp_path / "pictures").exists()


def test_all_targets_are_among_the_conditions(full_result: dict[str, Any], double_result: dict[str, Any]) -> None:
    assert "tensorrt-cuda:0-fp16-b1-l64-t1" in conditions(double_result)
    assert "tensorrt" not in conditions(full_result)


def test_another_schema_is_refused(result: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="schema 2"):
        write_pictures({**result, "schema": 1}, tmp_path)
    assert list(tmp_path.iterdir()) == []
