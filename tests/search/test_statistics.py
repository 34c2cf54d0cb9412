from __future__ import annotations

import json
import math
from random import Random

import pytest
from scipy import stats

from search.statistics import band, mcnemar, paired, spearman


@pytest.mark.parametrize("seed", range(20))
def test_spearman_is_scipys_with_ties(seed: int) -> None:
    rng = Random(seed)
    grid = rng.choice((3, 10, 100_000))
    x = [rng.randrange(grid) for _ in range(40)]
    y = [0.3 * a + rng.randrange(grid) for a in x]
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_spearman_at_its_ends() -> None:
    assert spearman([1, 2, 3, 4], [1, 10, 100, 1000]) == 1.0
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == -1.0
    assert spearman([1, 1, 1], [1, 2, 3]) is None
    assert spearman([1], [1]) is None
    assert spearman([], []) is None


def test_spearman_refuses() -> None:
    with pytest.raises(ValueError, match="as many x as y"):
        spearman([1, 2], [1])
    with pytest.raises(ValueError, match="finite"):
        spearman([1, math.nan], [1, 2])


def test_band_takes_only_what_is_near_the_constraint() -> None:
    latency = [0.5, 0.8, 1.0, 1.1, 1.25, 1.3, 9.0]
    flops = [1, 5, 4, 3, 2, 90, 100]
    found = band(flops, latency, constraint_ms=1.0)
    assert found.engines == 4
    assert found.correlation == -1.0
    assert found.band_ms == (0.8, 1.25)
    assert (spearman(flops, latency) or 0) > 0
    assert band(flops, latency, constraint_ms=100.0).correlation is None
    with pytest.raises(ValueError, match="as many x as latencies"):
        band([1], latency, constraint_ms=1.0)


def test_mcnemar_of_known_values() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(0, 5) == 0.0625
    assert mcnemar(1, 9) == pytest.approx(22 / 1024)
    assert mcnemar(10, 0) == pytest.approx(2 / 1024)
    with pytest.raises(ValueError, match="two counts"):
        mcnemar(-1, 2)


@pytest.mark.parametrize(("b", "c"), [(3, 8), (59, 6), (121, 150), (1500, 1600), (4000, 0), (7, 7)])
def test_mcnemar_is_scipys_binomial_test(b: int, c: int) -> None:
    assert mcnemar(b, c) == pytest.approx(stats.binomtest(b, b + c).pvalue, rel=1e-9)
    assert mcnemar(b, c) == mcnemar(c, b)


def test_paired_counts_the_rows_only_one_got_right() -> None:
    a = [True] * 90 + [True] * 15 + [False] * 5 + [False] * 10
    b = [True] * 90 + [False] * 15 + [True] * 5 + [False] * 10
    found = paired(a, b, a="winner", b="cut2")
    assert (found.only_a, found.only_b, found.rows) == (15, 5, 120)
    assert found.difference == pytest.approx(10 / 120)
    differences = [int(x) - int(y) for x, y in zip(a, b, strict=True)]
    assert found.se == pytest.approx(stats.tstd(differences) / math.sqrt(120) * math.sqrt(119 / 120))
    assert found.p_value == pytest.approx(0.041389, abs=1e-6)
    assert found.verdict == "winner is more accurate"
    back = paired(b, a, a="cut2", b="winner")
    assert back.difference == -found.difference
    assert back.verdict == "winner is more accurate"


def test_paired_says_when_a_difference_is_none() -> None:
    found = paired([True] * 11 + [False] * 9, [True] * 10 + [False] * 10, a="winner", b="cut2")
    assert found.difference == pytest.approx(0.05)
    assert found.verdict == "no difference that the test rows can show"
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert set(data) == {"a", "b", "difference", "se", "p_value", "verdict"}
    same = paired([True, False], [True, False])
    assert (same.difference, same.se, same.p_value) == (0, 0, 1)


def test_paired_refuses_other_rows() -> None:
    with pytest.raises(ValueError, match="the same rows of both"):
        paired([True], [True, False])
    with pytest.raises(ValueError, match="the same rows of both"):
        paired([], [])
