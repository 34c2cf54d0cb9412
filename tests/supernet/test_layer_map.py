"""Which of a teacher's layers teaches which of a student's."""

from __future__ import annotations

from typing import Any

import pytest

from supernet.layer_map import LayerMap


@pytest.mark.parametrize(
    ("sources", "targets"),
    [([0, 1, 2, 3], [0, 1, 2, 3]), ([0, 3], [2, 3]), ([1, 2], [1, 3]), ([0], [3]), ([3], [3]), ([0, 2], [1, 3])],
)
def test_a_kept_layer_stands_in_for_the_dropped_ones_after_it(sources: list[int], targets: list[int]) -> None:
    """Here layers count from 0: the output of the last one that it stands for, and its own attention."""
    found = LayerMap().pairs(sources, 4)
    assert [(m - 1, layer - 1) for m, layer in found] == list(enumerate(targets))
    attention = LayerMap().pairs(sources, 4, of="attention")
    assert [(m - 1, layer - 1) for m, layer in attention] == list(enumerate(sources))


def test_tinyberts_map() -> None:
    """g(m) = 3m for 4 of 12 layers, 2m for 6; the embedding is layer 0 and has its own term."""
    assert LayerMap("uniform").pairs(4, 12) == ((1, 3), (2, 6), (3, 9), (4, 12))
    assert LayerMap("uniform").pairs(6, 12) == tuple((m, 2 * m) for m in range(1, 7))
    assert LayerMap("uniform").pairs(4, 12, of="attention") == LayerMap("uniform").pairs(4, 12)
    assert LayerMap("uniform").pairs((1, 5, 8, 10), 12) == LayerMap("uniform").pairs(4, 12)


@pytest.mark.parametrize("teacher", range(1, 14))
@pytest.mark.parametrize("student", range(1, 14))
def test_uniform_spreads_over_any_two_depths(student: int, teacher: int) -> None:
    """Ascending, each of the shallower one's layers once, and the last learns from the last."""
    pairs = LayerMap("uniform").pairs(student, teacher)
    assert pairs[-1] == (student, teacher)
    assert len(pairs) == min(student, teacher)
    for column in zip(*pairs, strict=True):
        assert list(column) == sorted(set(column))
        assert column[0] >= 1


def test_last_learns_from_last() -> None:
    assert LayerMap("last").pairs(3, 12) == ((3, 12),) == LayerMap("last").pairs((0, 4, 7), 12)
    assert LayerMap("last").pairs(15, 12) == ((15, 12),)


def test_an_explicit_map_follows_the_source() -> None:
    explicit = LayerMap((2, 0, 6, 12))
    assert explicit.pairs(4, 12) == ((1, 2), (3, 6), (4, 12))
    assert explicit.pairs((2, 3), 12) == ((1, 6), (2, 12))  # shared weights always have the same teacher
    assert explicit.pairs((0, 1, 5), 12) == ((1, 2),)
    assert explicit.pairs(6, 12) == ((1, 2), (3, 6), (4, 12))  # deeper than the map
    assert explicit.pairs((1,), 12) == ()
    with pytest.raises(ValueError, match="names layer 12, the teacher has 6 layers"):
        explicit.pairs(4, 6)


def test_layers_beyond_the_teachers_take_no_part_in_a_span() -> None:
    assert LayerMap().pairs(5, 3) == ((1, 1), (2, 2), (3, 3))
    assert LayerMap().pairs((0, 2, 4), 3) == ((1, 2), (2, 3))
    assert LayerMap().pairs((3, 4), 3) == ()


@pytest.mark.parametrize("names", ["span", "uniform", "last", (3, 6, 9, 12), (0, 2)])
def test_json(names: Any) -> None:
    assert LayerMap.from_json(LayerMap(names).to_json()) == LayerMap(names)


@pytest.mark.parametrize("wrong", ["uniforme", (), (0, 0), (-1, 2), (1.0,), [1, 2], None, ("3",), (True,)])
def test_what_is_no_map_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="a layer map"):
        LayerMap(wrong)
