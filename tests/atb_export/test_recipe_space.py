"""The table [space]: lists, ranges and presets, what a teacher leaves of them, and every mistake at once."""

from __future__ import annotations

from typing import get_args

import pytest

from atb_export.recipe import RecipeError, parse_recipe
from atb_export.recipe_space import PresetName, Space
from supernet.cells import PLAIN
from supernet.presets import PRESETS, preset
from supernet.space import SearchSpace, SubnetConfig

REST = """
name = "small"
output = "runs/small"
[teacher]
model = "teacher"
[task]
path = "a.csv"
search_dev_rows = 10
test_rows = 10
[constraint]
max_ms = 1
[[target]]
backend = "openvino"
length = 64
[space]
"""
LISTS = """depths = [1, 2]
hidden_sizes = [64]
heads = [2, 4]
head_sizes = [16]
ffn_sizes = [128]
"""
MINILM = SubnetConfig.uniform(hidden_size=384, depth=6, heads=12, ffn_size=1536)
BERT = SubnetConfig.uniform(hidden_size=768, depth=12, heads=12, ffn_size=3072)


def parsed(text: str) -> Space:
    return parse_recipe((REST + text).encode()).space


def mistakes(text: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        parsed(text)
    return [str(mistake) for mistake in caught.value.mistakes]


def refusals(space: Space, whole: SubnetConfig) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        space.build(whole)
    return [str(mistake) for mistake in caught.value.mistakes]


def test_the_names_are_those_of_the_presets() -> None:
    assert get_args(PresetName) == tuple(PRESETS)


def test_a_range_is_the_list_it_stands_for() -> None:
    space = parsed(
        LISTS.replace("[128]", "{ min = 128, max = 1537, step = 4 }").replace("[2, 4]", "{ min = 2, max = 5 }")
    )
    assert space.ffn_sizes == tuple(range(128, 1537, 4))
    assert space.heads == (2, 3, 4, 5)
    built = space.build(BERT)
    assert (built.ffn_sizes, built.heads, built.ffn_stacks) == (space.ffn_sizes, space.heads, (1,))
    spelt = parsed(LISTS.replace("[2, 4]", "[2, 3, 4, 5]"))
    assert spelt.heads == space.heads


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{ min = 8, max = 4 }", "min (8) exceeds max (4)"),
        ("{ min = 8 }", "max is missing"),
        ("{ }", "min is missing; max is missing"),
        ("{ min = 8, max = 16, stp = 4 }", "unknown key 'stp'; did you mean \"step\"?"),
        ("{ min = 0, max = 16 }", "min must be a whole number from 1 to 65536"),
        ("{ min = 1, max = 65537 }", "max must be a whole number from 1 to 65536"),
        ("{ min = 1, max = 16, step = 0 }", "step must be a whole number"),
        ("{ min = true, max = 16 }", "min must be a whole number"),
        ("{ min = 1, max = 16.0 }", "max must be a whole number"),
        ("{ min = 1, max = 4097 }", "has 4,097 choices, at most 4,096 can be searched; take a longer step"),
    ],
)
def test_a_range_that_is_none(written: str, said: str) -> None:
    (line,) = mistakes(LISTS.replace("[128]", written))
    assert line.startswith("space.ffn_sizes = {")
    assert "a range is { min = 128, max = 1536, step = 4 }: " in line
    assert said in line


def test_the_longest_range_is_taken() -> None:
    assert len(parsed(LISTS.replace("[128]", "{ min = 1, max = 4096 }")).ffn_sizes or ()) == 4096


def test_all_mistakes_at_once() -> None:
    lines = mistakes(
        """
        preset = "autotinybert-k"
        depths = { min = 3, max = 1 }
        hidden_sizes = [64, 64]
        heads = "4"
        head_sizes = [0]
        ffn_stacks = [1, 5]
        first_layers = 1
        layers = 3
        """
    )
    expected = [
        'space.preset = "autotinybert-k": must be one of "autotinybert-mlm", "autotinybert-kd", "efficientbert", "per-',
        "space.depths = { min = 3, max = 1 }: a range is",
        "space.hidden_sizes = [64, 64]: names [64] more than once",
        'space.heads = "4": must be a list in brackets',
        "space.head_sizes[0] = 0: must be 1 or more",
        "space.ffn_stacks[1] = 5: must be 4 or less",
        "space.first_layers = 1: must be true or false",
        "space.layers = 3: unknown key",
    ]
    for start in expected:
        assert sum(line.startswith(start) for line in lines) == 1, (start, lines)
    assert len(lines) == len(expected)
    assert 'did you mean "autotinybert-kd"?' in lines[0]


def test_without_a_preset_every_list_is_needed() -> None:
    lines = mistakes("depths = [1]\nheads = { min = 1, max = 2 }\n")
    assert [line.split(":")[0] for line in lines] == ["space.hidden_sizes", "space.head_sizes", "space.ffn_sizes"]
    assert all("is missing (the sizes" in line and "a preset would have it" in line for line in lines)


# --- within a teacher -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_alone(name: str) -> None:
    space = parsed(f'preset = "{name}"\n')
    assert space.space() == preset(name)
    if name != "efficientbert":
        built = space.build(BERT)
        assert built == PRESETS[name].space(12).within(BERT)
        assert built.largest().fits(BERT)


def test_a_preset_is_cut_to_the_teacher() -> None:
    built = parsed('preset = "per-layer"\n').build(MINILM)
    assert built.largest() == MINILM
    assert len(built.layer_sets) == 2**6 - 1
    assert built.head_sizes == (16, 20, 24, 28, 32)
    stacked = parsed('preset = "efficientbert"\n').build(BERT)  # a plain teacher has one cell a layer
    assert stacked.ffn_stacks == (1,)
    assert {len(kept) for kept in stacked.layer_sets} == {6}


def test_what_is_written_replaces_the_presets() -> None:
    text = 'preset = "autotinybert-kd"\ndepths = [2, 4]\nffn_sizes = { min = 256, max = 512, step = 128 }\n'
    built = parsed(text).build(MINILM)
    assert built == SearchSpace.first_layers(
        source_layers=6,
        depths=[2, 4],
        hidden_sizes=tuple(range(128, 385, 4)),
        heads=(12,),
        head_sizes=tuple(range(15, 33)),
        ffn_sizes=(256, 384, 512),
        per_layer=False,
    )
    free = parsed(text + "first_layers = false\nper_layer = true\n").build(MINILM)
    assert free.per_layer
    assert len(free.layer_sets) == 15 + 15


def test_first_layers_only() -> None:
    built = parsed(LISTS + "first_layers = true\n").build(MINILM)
    assert built.layer_sets == ((0,), (0, 1))


def test_what_is_written_must_fit_the_teacher_and_all_is_told() -> None:
    space = parsed(
        "depths = [2, 9]\nhidden_sizes = [64]\nheads = [13]\nhead_sizes = [16]\n"
        "ffn_sizes = { min = 1500, max = 1600 }\nffn_stacks = [1, 2]\n"
    )
    lines = refusals(space, MINILM)
    assert lines[0] == "space.depths = [2, 9]: the teacher has 6 layers, so depths are 1 to 6; got [9]"
    assert lines[1].startswith(
        "space.heads = [13]: [13] does not fit in the teacher: hidden size 384, 12 heads of 32, feed-forward 1536, 1 "
    )
    assert lines[2].startswith("space.ffn_sizes = [1500, 1501, ")
    assert "[1537, 1538, 1539, ... 1600] does not fit" in lines[2]
    assert lines[3].startswith("space.ffn_stacks = [1, 2]: [2] does not fit")
    assert len(lines) == 4
    assert all(len(line) < 300 for line in lines)


def test_a_preset_that_leaves_nothing_is_told() -> None:
    (line,) = refusals(parsed('preset = "autotinybert-mlm"\n'), MINILM)
    assert line.startswith('space.preset = "autotinybert-mlm": head_sizes start at 64, but no more than 32 can be cut')
    assert parsed('preset = "autotinybert-mlm"\nhead_sizes = [32]\n').build(MINILM).head_sizes == (32,)
    short = SubnetConfig.uniform(hidden_size=768, depth=4, heads=12, ffn_size=3072)
    (line,) = refusals(parsed('preset = "efficientbert"\n'), short)
    assert "depths start at 6, but the supernet has 4 layers" in line


def test_too_many_sets_of_layers() -> None:
    space = parsed(LISTS.replace("[1, 2]", "[12]"))
    deep = SubnetConfig.uniform(hidden_size=64, depth=24, heads=4, ffn_size=128)
    (line,) = refusals(space, deep)
    assert line.startswith("space.depths = [12]: gives 2,704,156 sets of 24 layers, at most 200,000")
    assert parsed(LISTS.replace("[1, 2]", "[12]") + "first_layers = true\n").build(deep).layer_sets == (
        tuple(range(12)),
    )
    with pytest.raises(RecipeError, match="sets of 256 layers"):
        parsed(LISTS.replace("[1, 2]", "{ min = 1, max = 256 }")).space()
    (line,) = mistakes(LISTS.replace("[1, 2]", "[257]"))
    assert line.startswith("space.depths[0] = 257: must be 256 or less")


def test_a_preset_changes_the_fingerprint() -> None:
    recipes = [parse_recipe((REST + x).encode()) for x in (LISTS, LISTS + 'preset = "per-layer"\n')]
    assert len({x.fingerprint("space") for x in recipes}) == 2


def test_cells_in_any_form_and_each_once() -> None:
    space = parsed(LISTS + 'cells = ["gelu", "add(x, linear2(relu(linear1(x))))"]\n')
    built = space.build(MINILM)
    assert [str(cell) for cell in built.cells] == ["linear2(gelu(linear1(x)))", "add(linear2(relu(linear1(x))), x)"]
    assert built.size() == 6 * 4 + 15 * 16
    assert parsed(LISTS).build(MINILM).cells == (PLAIN,)
    assert parsed('preset = "efficientbert"\ncells = ["relu", "gelu"]\n').space().size() == 32**6
    (line,) = mistakes(LISTS + 'cells = ["gelu", "linear2(gelu( linear1(x) ))"]\n')
    assert line.endswith("names ['linear2(gelu(linear1(x)))'] more than once")


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ('cells = ["os.system(x)"]', "space.cells[0] = \"os.system(x)\": 'os.system(x)' is no feed-forward cell"),
        ('cells = ["relu", "linear2(x)"]', "it has linear1 0 times"),
        ("cells = [3]", "a feed-forward cell is a text"),
        ("cells = []", "space.cells"),
        ('slicing = "rows"', "space.slicing"),
    ],
)
def test_what_is_no_cell_and_no_slicing(written: str, told: str) -> None:
    (line,) = mistakes(LISTS + written + "\n")
    assert told in line


def test_slicing_is_one_of_the_published_or_both() -> None:
    assert parsed(LISTS).slicing == "both"
    heads = LISTS.replace("head_sizes = [16]", "head_sizes = [32]") + 'slicing = "heads"\n'
    assert parsed(heads).build(MINILM).head_sizes == (32,)
    dims = LISTS.replace("heads = [2, 4]", "heads = [12]") + 'slicing = "dims"\n'
    assert parsed(dims).build(MINILM).heads == (12,)
    (line,) = refusals(parsed(LISTS + 'slicing = "heads"\n'), MINILM)
    assert line == (
        "space.slicing = \"heads\": slicing = 'heads' keeps first whole heads: head_sizes has one choice, "
        "the supernet's [32], got (16,)"
    )
    (line,) = refusals(parsed('preset = "per-layer"\nslicing = "dims"\n'), MINILM)
    assert "heads has one choice, the supernet's [12], got (1, 2, 3" in line
    published = 'preset = "autotinybert-{}"\nslicing = "{}"\n'
    assert parsed(published.format("mlm", "heads")).build(BERT).head_sizes == (64,)
    assert parsed(published.format("kd", "dims")).build(BERT).heads == (12,)
    refusals(parsed(published.format("kd", "heads")), BERT)


def test_keys_that_came_later_leave_old_fingerprints_alone() -> None:
    recipes = [LISTS, LISTS + 'slicing = "both"\n', LISTS + 'slicing = "dims"\n', LISTS + 'cells = ["relu"]\n']
    prints = [parse_recipe((REST + x).encode()).fingerprint("space") for x in recipes]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3
