"""What a search asks for first: cuts by hand, and earlier fronts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from atb_export.opening import MOST_EARLIER, earlier_fronts, hand_made_cuts
from search.candidate import Candidate, Timing
from search.design import Design, DesignSpace
from search.store import Store
from supernet.cells import PLAIN, Cell
from supernet.space import SearchSpace

SPACE = SearchSpace.of_depths(
    source_layers=6, depths=[2, 3, 6], hidden_sizes=(32, 64), heads=(2, 4), head_sizes=(8, 16), ffn_sizes=(32, 128)
)
DESIGNS = DesignSpace(subnets=SPACE, precisions=(("f32", "bf16"),))
TARGETS = ["openvino-CPU-f32-b1-l16-t1"]


def test_a_cut_for_each_depth_spread_over_the_layers_and_whole_otherwise() -> None:
    cuts = hand_made_cuts(SPACE)
    assert [x.sources for x in cuts] == [(1, 5), (1, 3, 5), (0, 1, 2, 3, 4, 5)]
    for x in cuts:
        assert SPACE.contains(x)
        assert x.hidden_size == 64
        assert {layer.sizes for layer in x.layers} == {(4, 16, 128, 1)}


def test_hand_made_cuts_compute_the_first_cell_of_the_space() -> None:
    space = replace(SPACE, cells=(Cell("relu"), PLAIN))
    assert all(space.contains(x) for x in hand_made_cuts(space))
    assert {layer.cell for x in hand_made_cuts(space) for layer in x.layers} == {Cell("relu")}


def test_where_only_the_first_layers_may_stay_the_cuts_keep_those() -> None:
    space = SearchSpace.first_layers(
        source_layers=6,
        depths=[1, 3],
        hidden_sizes=(32,),
        heads=(2,),
        head_sizes=(8,),
        ffn_sizes=(32,),
        per_layer=False,
    )
    cuts = hand_made_cuts(space)
    assert [x.sources for x in cuts] == [(0,), (0, 1, 2)]
    assert all(map(space.contains, cuts))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store.sqlite") as found:
        yield found


def candidate(design: Design, accuracy: float, ms: float, **more: Any) -> Candidate:
    latencies = tuple(Timing(ms=ms, ci_ms=(ms, ms)) for _ in design.precisions)
    return Candidate(design=design, flops=1, latencies=latencies, accuracy=accuracy, rows=9, **more)


def record(store: Store, search: str, candidates: list[Any], **header: Any) -> None:
    history = store.history(search, {"targets": TARGETS, **header})
    for x in candidates:
        history.append(x.to_json() if isinstance(x, Candidate) else x)


def designs(count: int, space: DesignSpace = DESIGNS) -> list[Design]:
    rng = Random(1)
    return list(dict.fromkeys(space.sample(rng) for _ in range(2 * count)))[:count]


def test_the_fronts_of_earlier_searches_most_accurate_first(store: Store) -> None:
    a, b, c, d, e = designs(5)
    record(store, "one", [candidate(a, 0.7, 1.0), candidate(b, 0.6, 2.0), candidate(c, 0.8, 3.0)])
    record(store, "two", [candidate(a, 0.75, 1.0), candidate(d, 0.9, 2.0), candidate(e, 0.95, 1.0, complete=False)])
    assert earlier_fronts(store, DESIGNS, TARGETS, without="me") == [d, c, a], "b is behind a, e was never scored whole"
    assert earlier_fronts(store, DESIGNS, TARGETS, without="two") == [c, a]


def test_other_targets_other_spaces_and_what_cannot_be_read_have_nothing_to_offer(store: Store) -> None:
    a, b = designs(2)
    wider = DesignSpace(
        subnets=SearchSpace.of_depths(
            source_layers=6, depths=[2], hidden_sizes=(96,), heads=(2,), head_sizes=(8,), ffn_sizes=(32,)
        ),
        precisions=(("f32",),),
    )
    record(store, "other target", [candidate(a, 0.9, 1.0)], targets=["onnxruntime-CPU-f32-b1-l16-t1"])
    record(store, "other space", [candidate(wider.smallest(), 0.9, 1.0), candidate(b, 0.8, 0.5)])
    record(store, "a stranger's", [{"design": 1}])
    record(store, "nothing", [])
    assert earlier_fronts(store, DESIGNS, TARGETS, without="me") == [b]
    assert earlier_fronts(store, wider, TARGETS, without="me") == [wider.smallest()]


def test_no_more_than_a_few(store: Store) -> None:
    many = designs(3 * MOST_EARLIER)
    record(store, "one", [candidate(x, 0.5 + i / 100, 1.0 + i) for i, x in enumerate(many)])
    assert earlier_fronts(store, DESIGNS, TARGETS, without="me") == many[::-1][:MOST_EARLIER]
