"""Feed-forward cells as expressions: one form, closed grammar, small steps; and a dimension of subnets and spaces."""

from __future__ import annotations

import ast
import copy
import dataclasses
import hashlib
import json
import pickle
from pathlib import Path
from random import Random

import pytest

import supernet.cells
from supernet.cells import ACTIVATIONS, BINARIES, MAX_OPERATIONS, MAX_TEXT, PLAIN, Cell
from supernet.presets import preset
from supernet.space import LayerConfig, SearchSpace, SubnetConfig

GATED = Cell.parse("mul(sigmoid(x), linear2(relu(linear1(x))))")
FOUR = "add(max(x, gelu(x)), mul(x, x))"


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("gelu", "linear2(gelu(linear1(x)))"),
        (" swish ", "linear2(swish(linear1(x)))"),
        ("linear2( linear1(x))", "linear2(linear1(x))"),
        ("add(x,\n linear2(relu(linear1(x))))", "add(linear2(relu(linear1(x))), x)"),
        ("max(tanh(x), linear2(linear1(mul(x, gelu(x)))))", "max(linear2(linear1(mul(gelu(x), x))), tanh(x))"),
        ("linear2(mul(linear1(x), cut(x)))", "linear2(mul(cut(x), linear1(x)))"),
        ("linear2(add(cut(max(x, elu(x))), linear1(x)))", "linear2(add(cut(max(elu(x), x)), linear1(x)))"),
    ],
)
def test_a_cell_has_one_form(written: str, canonical: str) -> None:
    cell = Cell.parse(written)
    assert str(cell) == cell.text == canonical
    assert cell == Cell(canonical) == Cell.parse(canonical)
    assert hash(cell) == hash(Cell(canonical))


def test_equal_expressions_are_equal_whatever_the_order_of_what_commutes() -> None:
    for op in BINARIES:
        assert Cell(f"{op}(x, linear2(linear1({op}(tanh(x), x))))") == Cell(
            f"{op}(linear2(linear1({op}(x, tanh(x)))), x)"
        )
    assert Cell("add(x, linear2(linear1(x)))") != Cell("mul(x, linear2(linear1(x)))")
    assert sorted([GATED, PLAIN]) == [PLAIN, GATED]
    assert PLAIN.is_plain
    assert not GATED.is_plain


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "it ends too early"),
        ("x", "it has linear1 0 times"),
        ("linear1(x)", "it has linear2 0 times"),
        ("linear2(linear1(linear1(x)))", "it has linear1 2 times"),
        ("linear1(linear2(x))", "linear2 takes the feed-forward size, and is given the hidden size"),
        ("gelu(linear1(linear2(cut(x))))", "its result has the feed-forward width"),
        ("linear2(add(linear1(x), x))", r"add takes two of one width, .* cut\(\.\.\.\) makes F of N"),
        ("linear2(cut(linear1(x)))", "cut takes the hidden size, and is given the feed-forward size"),
        ("linear2(gelu(linear1(x)))x", "'x' follows where it should end"),
        ("linear2(gelu(linear1(x))", "'\\)' is wanted and 'the end' is there"),
        ("linear2(gelu(linear1(x, x)))", "linear1 takes 1 in brackets; '\\)' is wanted and ',' is there"),
        ("add(linear2(linear1(x)))", "add takes 2 in brackets; ',' is wanted"),
        ("linear2(gelu linear1(x))", "gelu takes 1 in brackets"),
        ("x(linear2(linear1(x)))", "'\\(' follows where it should end"),
        ("linear2(silu(linear1(x)))", "'silu' stands where one of x, linear1"),
        ("__import__('os')", '"\'" is no part of it|no part of it'),
        ("linear2(gelu(linear1(x)))#", "'#' is no part of it"),
        ("linear2(gelu(linear1(1)))", "'1' is no part of it"),
        ("gelu(" * 40, "nested more than"),
        ("gelu(" * 13 + "linear2(linear1(x))" + ")" * 13, "nested more than 15 deep"),
        (f"add(mul({FOUR}, {FOUR}), linear2(linear1({FOUR})))", "it has 14 operations, at most 12 are computed"),
        (" " * (MAX_TEXT + 1), "at most 400 characters, got 401"),
    ],
)
def test_what_is_no_cell_is_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Cell.parse(text)


@pytest.mark.parametrize("value", [None, 3, ["gelu"], b"gelu"])
def test_what_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="a feed-forward cell is a text"):
        Cell.parse(value)  # type: ignore[arg-type]


def test_a_hostile_text_costs_nothing() -> None:
    for text in ("add(" * 99, "(" * 399, "add(x," * 60, "x" * 400, "," * 400, "\x00", "ｇｅｌｕ", "gelu\u200b"):
        with pytest.raises(ValueError, match="no feed-forward cell"):
            Cell.parse(text)


def test_no_text_is_ever_run() -> None:
    """The module has no eval, exec or compile, and imports the standard library only."""
    tree = ast.parse(Path(supernet.cells.__file__).read_text())
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not names & {"eval", "exec", "compile", "__import__", "getattr"}
    froms = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any(module and module.startswith(("supernet", "torch")) for module in froms)


def test_operations_are_what_is_computed_beside_the_products() -> None:
    counts = {"linear2(linear1(x))": 0, "gelu": 1, "linear2(relu(mul(cut(x), linear1(x))))": 2, GATED.text: 3}
    assert {text: Cell(text).operations for text in counts} == counts
    assert [Cell(text).passes for text in counts] == [(0, 0), (0, 1), (0, 2), (2, 1)]
    assert [Cell(text).cuts for text in counts] == [False, False, True, False]


@pytest.mark.parametrize("seed", range(20))
def test_drawn_cells_are_cells_of_the_size_asked_for(seed: int) -> None:
    rng = Random(seed)
    for operations in range(1, MAX_OPERATIONS + 1):
        cell = Cell.sample(rng, operations=operations)
        assert cell.operations == operations
        assert Cell.parse(cell.text) == cell
    assert 1 <= Cell.sample(rng).operations <= 5
    assert Cell.sample(Random(seed)) == Cell.sample(Random(seed))
    for count in (0, MAX_OPERATIONS + 1):
        with pytest.raises(ValueError, match="1 to 12 operations"):
            Cell.sample(rng, operations=count)


def test_draws_reach_every_operation_at_every_place() -> None:
    rng = Random(0)
    drawn = {Cell.sample(rng) for _ in range(3000)}
    assert len(drawn) > 1000
    text = " ".join(cell.text for cell in drawn)
    for op in ACTIVATIONS:
        assert f"{op}(linear1(" in text
        assert f"{op}(linear2(" in text
        assert f"linear1({op}(" in text
        assert f"cut({op}(" in text
    for op in BINARIES:
        assert f"{op}(cut(x), linear1(" in text
        assert f"{op}(linear2(" in text
        assert f"linear1({op}(" in text
    assert not any(f"{a}({b}(" in text for a in ACTIVATIONS for b in ACTIVATIONS)


@pytest.mark.parametrize("seed", range(5))
def test_a_step_goes_to_another_cell_and_can_be_taken_back(seed: int) -> None:
    rng = Random(seed)
    cell = Cell.sample(rng)
    for _ in range(30):
        other = cell.mutate(rng)
        assert other != cell
        assert other in cell.neighbours()
        assert other.operations <= cell.operations + 1  # a branch that is taken out may hold many
        if cell.operations - other.operations in (0, 1) and "cut" not in cell.text:
            assert cell in other.neighbours()
        cell = other
    assert len(set(cell.neighbours())) == len(cell.neighbours())


def test_steps_connect_cells() -> None:
    found, new = {PLAIN}, {PLAIN}
    for _ in range(3):
        new = {y for x in new for y in x.neighbours() if y.operations <= 2} - found
        found |= new
    assert {Cell("linear2(linear1(x))"), Cell("elu"), Cell("linear2(relu(mul(cut(x), linear1(x))))")} <= found
    assert Cell("add(linear2(relu(linear1(x))), x)") in found
    assert PLAIN in Cell("linear2(linear1(x))").neighbours()


def test_a_cell_survives_copies() -> None:
    assert copy.deepcopy(GATED) == GATED
    assert pickle.loads(pickle.dumps(GATED)) == GATED  # as workers of a search get it
    assert dataclasses.replace(GATED, text="gelu") == PLAIN


# --- as a dimension --------------------------------------------------------------------------------------------------


def layer(**changes: object) -> LayerConfig:
    return LayerConfig(**({"source": 0, "heads": 2, "head_size": 4, "ffn_size": 16} | changes))  # type: ignore[arg-type]


def subnet(*cells: Cell) -> SubnetConfig:
    return SubnetConfig(hidden_size=8, layers=tuple(layer(source=i, cell=cell) for i, cell in enumerate(cells)))


def test_the_plain_cell_is_not_written_so_that_old_keys_stay() -> None:
    plain, other = subnet(PLAIN, PLAIN), subnet(PLAIN, GATED)
    assert plain == SubnetConfig.uniform(hidden_size=8, depth=2, heads=2, ffn_size=16)
    assert plain.key == "bfa91146cc08"
    assert [set(x) for x in other.to_json()["layers"]] == [
        {"source", "heads", "head_size", "ffn_size"},
        {"source", "heads", "head_size", "ffn_size", "cell"},
    ]
    assert len({plain.key, other.key, subnet(GATED, PLAIN).key}) == 3
    assert SubnetConfig.from_json(json.loads(json.dumps(other.to_json()))) == other
    spelt = other.to_json()
    spelt["layers"][1]["cell"] = "mul(linear2(relu(linear1(x))),sigmoid(x))"
    assert SubnetConfig.from_json(spelt).key == other.key
    assert str(other) == "2L-8 [0:2x4/16 1:2x4/16=mul(linear2(relu(linear1(x))),sigmoid(x))]"


@pytest.mark.parametrize("cell", ["gelu(x)", 3, None, ["gelu"]])
def test_a_subnet_with_what_is_no_cell_is_refused(cell: object) -> None:
    data = subnet(PLAIN).to_json()
    data["layers"][0]["cell"] = cell
    with pytest.raises(ValueError, match="feed-forward cell"):
        SubnetConfig.from_json(data)


def test_a_cell_is_no_size_so_it_fits_any_supernet_and_stock_bert_none() -> None:
    assert subnet(GATED, PLAIN).fits(subnet(PLAIN, PLAIN))
    assert subnet(PLAIN).is_stock_bert
    assert not subnet(GATED).is_stock_bert
    assert subnet(PLAIN, GATED).renumbered() == subnet(PLAIN, GATED)


def make(per_layer: bool = True, cells: tuple[Cell, ...] = (PLAIN, GATED, Cell("relu"))) -> SearchSpace:
    sizes = {"hidden_sizes": (8, 16), "heads": (2,), "head_sizes": (4,), "ffn_sizes": (16,)}
    return SearchSpace.of_depths(source_layers=2, depths=[1, 2], cells=cells, per_layer=per_layer, **sizes)


@pytest.mark.parametrize("per_layer", [True, False])
def test_a_space_with_cells_is_counted_drawn_and_connected(per_layer: bool) -> None:
    space, rng = make(per_layer), Random(0)
    assert space.size() == (2 * (2 * 3 + 9) if per_layer else 2 * (2 * 3 + 3))
    drawn = {space.sample(rng) for _ in range(1500)}
    assert len(drawn) == space.size()
    assert all(space.contains(x) for x in drawn)
    walked, here = set(), space.smallest()
    for _ in range(3000):
        here = space.mutate(space.crossover(here, space.sample(rng), rng), rng)
        walked.add(here)
    assert walked == drawn
    assert not space.contains(subnet(Cell("tanh"), PLAIN))
    assert space.contains(subnet(PLAIN, GATED)) == per_layer
    assert {x.cell for x in (*space.largest().layers, *space.smallest().layers)} == {PLAIN}


def test_alike_layers_take_the_cell_of_either_parent() -> None:
    space, rng = make(per_layer=False), Random(0)
    a = SubnetConfig.uniform(hidden_size=8, depth=2, heads=2, ffn_size=16, head_size=4, cell=GATED)
    children = {space.crossover(a, space.smallest(), rng).layers[0].cell for _ in range(50)}
    assert children == {PLAIN, GATED}


def test_a_mutation_of_cells_alone_always_finds_another() -> None:
    space = dataclasses.replace(make(), hidden_sizes=(8,), layer_sets=((0, 1),))
    here = space.smallest()
    assert all(space.mutate(here, Random(seed)) != here for seed in range(100))


def test_cells_of_a_space_in_json_and_in_its_fingerprint() -> None:
    space = make()
    data = json.loads(json.dumps(space.to_json()))
    assert data["cells"] == [cell.text for cell in space.cells]
    assert SearchSpace.from_json(data) == space
    plain = make(cells=(PLAIN,))
    assert "cells" not in plain.to_json()
    assert SearchSpace.from_json(plain.to_json()) == plain
    assert len({space.fingerprint, plain.fingerprint, make(cells=(PLAIN, GATED)).fingerprint}) == 3
    assert space.within(subnet(PLAIN, PLAIN)).cells == space.cells


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        ((), "cells needs at least one choice"),
        ((PLAIN, PLAIN), "cells repeats a choice"),
        ([PLAIN], "cells is a tuple"),
    ],
)
def test_cells_a_space_refuses(cells: tuple[Cell, ...], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make(cells=cells)
    with pytest.raises(ValueError, match="cells is a list"):
        SearchSpace.from_json(make().to_json() | {"cells": "gelu"})
    with pytest.raises(ValueError, match="feed-forward cell"):
        SearchSpace.from_json(make().to_json() | {"cells": [1]})


@pytest.mark.parametrize(
    ("name", "walk"),
    [
        ("autotinybert-mlm", "f4b146bdfd3c"),
        ("autotinybert-kd", "60e073b7b1df"),
        ("efficientbert", "1754a66054c5"),
        ("per-layer", "f5bb588764f4"),
    ],
)
def test_spaces_without_a_choice_of_cells_draw_what_they_drew_before_there_were_any(name: str, walk: str) -> None:
    space, rng, keys = preset(name), Random(7), ""
    a, b = space.sample(rng), space.sample(rng)
    for _ in range(50):
        child = space.crossover(a, b, rng)
        a, b = b, space.mutate(child, rng)
        keys += child.key + a.key + b.key
    assert hashlib.sha256(keys.encode()).hexdigest()[:12] == walk
