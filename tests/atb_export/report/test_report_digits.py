from __future__ import annotations

import math
from typing import Any

import pytest

from atb_export.report import digits


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (digits.ms(0.42134), "0.421 ms"),
        (digits.ms(1240.2), "1240 ms"),
        (digits.ms(None), digits.NONE),
        (digits.ms(math.nan), digits.NONE),
        (digits.ms_range([0.4121, 0.4133]), "0.4121 to 0.4133 ms"),
        (digits.ms_range(None), ""),
        (digits.percent(0.98361), "98.4 %"),
        (digits.rank(0.4127), "0.41"),
        (digits.rank(0.9968), "0.997"),
        (digits.rank(-1), "−1.00"),
        (digits.rank(None), digits.NONE),
        (digits.score(0.842, "accuracy", 0.0086), "84.2 ± 0.9 %"),
        (digits.score(0.842, "pearson"), "0.842"),
        (digits.difference(-0.004, "accuracy", 0.0066), "−0.4 ± 0.7 points"),
        (digits.difference(-0.0001, "accuracy"), "0.0 points"),
        (digits.p_value(0.0), "< 0.001"),
        (digits.p_value(0.0123, "p"), "p = 0.012"),
        (digits.count(22_713_216), "22.7 M"),
        (digits.count(374_000_000.0), "374 M"),
        (digits.count(999_999), "1.00 M"),
        (digits.size(812), "812 B"),
        (digits.size(44_123_456), "44.1 MB"),
        (digits.whole(30000), "30 000"),
        (digits.duration(4.21), "4.2 s"),
        (digits.duration(81.4), "81 s"),
        (digits.duration(134), "2 min 14 s"),
        (digits.duration(3725), "1 h 02 min"),
        (digits.scientific(3.14e-6), "3.1 × 10⁻⁶"),
        (digits.scientific(0), "0"),
        (digits.clean("a\x00b\nc", 4), "a b…"),
        (digits.shape(None), digits.NONE),
    ],
)
def test_numbers_read_well(made: str, expected: str) -> None:
    assert made.replace("\u202f", " ") == expected


def test_a_shape_names_every_layer(result: dict[str, Any]) -> None:
    assert digits.shape(result["baselines"][2]["subnet"]) == "hidden 384 · 1: 12×32, 1536 · 5: 12×32, 1536"


def test_a_shape_says_where_cells_are_stacked() -> None:
    layer = {"source": 2, "heads": 4, "head_size": 32, "ffn_size": 256, "ffn_stack": 3}
    assert digits.shape({"hidden_size": 96, "layers": [layer]}) == "hidden 96 · 2: 4×32, 3×256"
