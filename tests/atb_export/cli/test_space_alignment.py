"""`atb space aligned`: multiples that were measured, and kept for the next time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import atb_export.alignment
from atb_export.alignment import Alignment, Staircase
from runtime.environment import environment, hardware_id, runtime_version

SIZES = tuple(range(128, 193, 4))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The targets that were measured; the staircases are made up."""
    asked: list[str] = []

    def find(target: Any, *, progress: Callable[[int, int, str], None]) -> Alignment:
        asked.append(target.label)
        progress(0, 1, "hidden_sizes")
        steps = {"hidden_sizes": 32, "ffn_sizes": 16}
        return Alignment(
            target=target,
            effective_precision="f32",
            hardware=hardware_id(environment()),
            runtime=runtime_version(target.backend),
            staircases=tuple(
                Staircase(dimension=name, sizes=SIZES, ms=tuple(0.01 * -(-x // step) * step for x in SIZES), noise=0.0)
                for name, step in steps.items()
            ),
        )

    monkeypatch.setattr(atb_export.alignment, "find_multiples", find)
    return asked


def test_a_space_is_cut_to_what_was_measured_and_that_is_kept(
    atb: Callable[..., Any], tmp_path: Path, measured: list[str]
) -> None:
    call = ("space", "aligned", "--target", "openvino", "--precision", "f32", "--alignment", "kept.json", "--json")
    answer = atb(*call, cwd=tmp_path)
    assert answer.code == 0, answer.err
    assert answer.document["hidden_sizes"][:2] == [128, 160]
    assert answer.document["ffn_sizes"][:2] == [128, 144]
    assert answer.document["head_sizes"][:2] == [16, 20]
    assert answer.document["alignment"]["multiples"] == {"hidden_sizes": 32, "ffn_sizes": 16}
    assert "openvino-CPU-f32-b1-l64-t1" in answer.out
    assert measured == ["openvino-CPU-f32-b1-l64-t1"]
    assert atb(*call, cwd=tmp_path).document == answer.document
    assert len(measured) == 1
    other = atb(*call, "--length", "32", "--multiple", "ffn_sizes=64", cwd=tmp_path)
    assert measured[1:] == ["openvino-CPU-f32-b1-l32-t1"]
    assert other.document["ffn_sizes"][:2] == [128, 192]
    assert json.loads((tmp_path / "kept.json").read_text())["target"]["shape"]["length"] == 32


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["aligned"], "say which, --target openvino"),
        (["aligned", "--target", "openvino", "--precision", "half"], "precision is one of"),
        (["aligned", "--target", "openvino", "--alignment", "broken.json"], "does not hold an alignment"),
    ],
)
def test_refusals(
    atb: Callable[..., Any], tmp_path: Path, measured: list[str], arguments: list[str], says: str
) -> None:
    (tmp_path / "broken.json").write_text("{}")
    assert says in atb("space", *arguments, cwd=tmp_path).refusal
    assert measured == []
