from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from atb_export.recipe import MAX_RECIPE_BYTES, Recipe, RecipeError, load_recipe, parse_recipe
from runtime.target import EngineTarget, Shape
from supernet.data.source import Source
from supernet.space import SubnetConfig

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.toml"
WHOLE = SubnetConfig.uniform(hidden_size=64, depth=4, heads=4, head_size=16, ffn_size=128)
SMALL = """
name = "small"
output = "runs/small"
[teacher]
model = "teacher"
[task]
path = "a.csv"
search_dev_rows = 10
test_rows = 10
[space]
depths = [1, 2]
hidden_sizes = [64]
heads = [2, 4]
head_sizes = [16]
ffn_sizes = [128]
[constraint]
max_ms = 1
[[target]]
backend = "openvino"
length = 64
"""


def mistakes(text: str | bytes) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text.encode() if isinstance(text, str) else text)
    return [str(mistake) for mistake in caught.value.mistakes]


def changed(old: str, new: str) -> str:
    assert SMALL.count(old) == 1
    return SMALL.replace(old, new)


def test_the_quick_start_is_a_recipe() -> None:
    recipe = load_recipe(QUICKSTART)
    assert recipe.name == "quickstart"
    assert recipe.task.sources()["all"].where == {"source": "rotten_tomatoes"}
    assert recipe.transfer is not None
    assert recipe.transfer.source().label is None
    assert recipe.compare.baselines == ("tinybert4", "cut3", "cut2")
    assert {target.backend for target in recipe.targets} >= {"openvino", "tensorrt"}


def test_a_small_recipe_and_its_defaults() -> None:
    recipe = parse_recipe(SMALL.encode())
    assert (recipe.seed, recipe.transfer, recipe.compare.baselines) == (1, None, ())
    assert recipe.constraint.max_ms == 1.0
    assert recipe.supernet.loss.soft_label == 1.0
    assert recipe.targets[0].build() == EngineTarget(backend="openvino", shape=Shape(batch=1, length=64))
    space = recipe.space.build(WHOLE)
    assert (space.ffn_stacks, space.per_layer) == ((1,), True)
    assert space.layer_sets == ((0,), (1,), (2,), (3,), (0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
    with pytest.raises(ValidationError):
        recipe.seed = 2  # type: ignore[misc]


def test_an_unknown_key_is_told_its_neighbours() -> None:
    (line,) = mistakes(changed("[constraint]", "dephts = [2]\n[constraint]"))
    assert line == (
        'space.dephts = [2]: unknown key; did you mean "depths"? '
        "known: preset, depths, hidden_sizes, heads, head_sizes, ffn_sizes, ffn_stacks, cells, slicing, first_layers, "
        "per_layer"
    )
    assert mistakes(changed("name =", "zzz = 1\nname ="))[0].startswith("zzz = 1: unknown key; known: name, seed")


def test_all_mistakes_are_told_at_once() -> None:
    text = """
        name = "a b"
        seed = true
        output = "/tmp/x"
        [teacher]
        modl = "x"
        epochs = -1
        learning_rate = nan
        [task]
        kind = "clasification"
        path = "x.csv"
        test = "y.csv"
        text = ["label"]
        where = { source = 3 }
        [transfer]
        path = "x"
        min_words = 50
        [space]
        depths = []
        hidden_sizes = [384, 384, 0]
        heads = 4
        head_sizes = [true]
        [supernet]
        steps = 100000000
        loss = { soft_label = 0, hidden = 0, attention = 0 }
        [search]
        population = 1
        [constraint]
        max_ms = 1
        of_teacher = 0.3
        [[target]]
        backend = "openvin"
        length = 64
        [[target]]
        backend = "tensorrt"
        length = 64
        precision = "fp16"
        [[target]]
        backend = "openvin"
        length = 64
        batch = 1
        [compare]
        baselines = ["cut4", "cut2", "cut2"]
        [searh]
    """
    lines = mistakes(text)
    expected = [
        'name = "a b": is not of the right form (letters',
        "seed = true: must be a whole number",
        'output = "/tmp/x": must be a folder below the current directory',
        "teacher.model: is missing (a model directory",
        'teacher.modl = "x": unknown key; did you mean "model"? known: model, epochs',
        "teacher.epochs = -1: must be 0 or more",
        "teacher.learning_rate = nan: must be a finite number",
        'task.kind = "clasification": must be one of "classification", "regression", "glue", "squad"; '
        'did you mean "classification"?',
        'task.path = "x.csv": give path with row counts or a file for each split, not both',
        "task.search_dev_rows: is missing (rows the search",
        "task.test_rows: is missing (rows every",
        "task.label: must not be one of the text columns",
        "task.where.source = 3: must be text in quotes",
        "transfer.min_words = 50: min_words (50) exceeds max_words (40)",
        "space.depths = []: needs at least 1 item(s)",
        "space.hidden_sizes = [384, 384, 0]: names [384] more than once",
        "space.hidden_sizes[2] = 0: must be 1 or more",
        "space.heads = 4: must be a list in brackets",
        "space.head_sizes[0] = true: must be a whole number",
        "space.ffn_sizes: is missing (",
        "supernet.steps = 100000000: must be 10000000 or less",
        "supernet.loss: at least one of soft_label, hidden, attention, hard_label, attention_kl, relations, "
        "embedding, mlm must be more than 0",
        "search.population = 1: must be 2 or more",
        "constraint: needs exactly one of max_ms (milliseconds) and of_teacher",
        'target[0].backend = "openvin": unknown backend; did you mean "openvino"? known: openvino',
        'target[1].precision = "fp16": must be one of "auto", "f32", "bf16", "f16", "int8"; did you mean "f16"?',
        "target[1].device: TensorRT builds for compute capabilities",
        'target[2].backend = "openvin": unknown backend',
        "target = [",
        'compare.baselines[0] = "cut4": must be one of "tinybert4", "cut3", "cut2"',
        "compare.baselines = [",
        'searh = {}: unknown key; did you mean "search"?',
    ]
    for start in expected:
        assert sum(line.startswith(start) for line in lines) == 1, (start, lines)
    assert len(lines) == len(expected)
    with pytest.raises(RecipeError, match=f"recipe: {len(expected)} mistakes in the recipe\n  name"):
        parse_recipe(text.encode())


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (changed("max_ms = 1", ""), "constraint: needs exactly one of .* got neither"),
        (changed("max_ms = 1", "max_ms = 0"), "constraint.max_ms = 0: must be more than 0"),
        (changed("max_ms = 1", "of_teacher = 1.5"), "constraint.of_teacher = 1.5: must be 1.0 or less"),
        (changed("max_ms = 1", 'max_ms = 1\nstatistic = "p99"'), 'must be one of "p50"'),
        (changed("[[target]]", "[target]"), r"must be a list of tables: write \[\[target\]\]"),
        (changed("[teacher]", "[[teacher]]"), "teacher = .* must be a table of keys and values"),
        (changed('model = "teacher"', 'model = ""'), 'teacher.model = "": must not be empty'),
        (changed('model = "teacher"', 'model = "a\\u0000"'), "teacher.model"),
        (changed('"runs/small"', '"../x"'), "output = .*no .."),
        (changed('"runs/small"', '"C:\\\\x"'), "output = .*no absolute"),
        (changed('"runs/small"', '"."'), "output = "),
        (changed('path = "a.csv"', ""), "task: needs rows"),
        (changed('path = "a.csv"', 'train = "a.csv"'), "task.test: is missing"),
        (changed('path = "a.csv"', 'train = "a"\ntest = "b"'), "task.test_rows = 10: goes with path"),
        (changed('path = "a.csv"', 'path = "a.csv"\ntext = ["a", "b", "c"]'), "takes at most 2 items"),
        (changed("depths = [1, 2]", f"depths = {list(range(1, 70))}"), "space.depths = .*takes at most 64 items"),
        (changed("depths = [1, 2]", "depths = [1.0]"), r"space.depths\[0\] = 1.0: must be a whole number"),
        (changed("length = 64", 'length = 64\ndevice = "a b"'), r"target\[0\].device"),
        (changed("length = 64", ""), r"target\[0\].length: is missing"),
    ],
)
def test_one_mistake(text: str, line: str) -> None:
    assert any(re.search(line, said) for said in mistakes(text)), mistakes(text)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("name = \n", "line 1, column 8: not TOML"),
        ("a = 1\na = 2\n", "not TOML: Cannot overwrite"),
        (b"\xff", "not UTF-8"),
        (b"\x00", "line 1, column 1: not TOML"),
        ("a = " + "[" * 50_000, "not TOML"),
        (".".join("a" * 5000) + " = 1", "nests its tables and lists deeper than 16"),
        ("[[target]]\n" + ".".join("a" * 5000) + " = 1", "deeper than 16"),
        ("a = " + "9" * 5000, "not TOML"),
        ("#" * (MAX_RECIPE_BYTES + 1), "takes at most 64,000 bytes"),
        ("seed = 0x" + "f" * 6000, "seed = 0xfff"),
        ('"\\u001b[31m" = "\\u009b"', r'"\u001b[31m" = "\u009b": unknown key'),
        ("", "teacher: is missing: the recipe needs a table [teacher]"),
    ],
)
def test_a_strangers_file_is_told_what_is_wrong(content: str | bytes, line: str) -> None:
    found = mistakes(content)
    assert any(line in said for said in found), found
    assert all(said.isprintable() and len(said) < 500 for said in found)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "quickstart.toml").write_text(SMALL)
    assert load_recipe(tmp_path / "quickstart.toml").name == "small"
    with pytest.raises(RecipeError, match=r"No such file.*holds quickstart\.toml"):
        load_recipe(tmp_path / "quikstart.toml")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path)


def test_where_the_rows_of_a_task_come_from() -> None:
    files = 'train = "glue/SST-2"\ntest = "glue/SST-2#dev"\ntext = ["sentence"]\nkind = "regression"'
    text = changed('path = "a.csv"', files).replace("test_rows = 10", "")
    assert parse_recipe(text.encode()).task.sources() == {
        "train": Source(path="glue/SST-2", split="train", text=("sentence",), label="label", numeric=True),
        "test": Source(path="glue/SST-2", split="dev", text=("sentence",), label="label", numeric=True),
    }
    text = text.replace("search_dev_rows = 10", 'search_dev = "glue/SST-2"')
    assert parse_recipe(text.encode()).task.sources()["search_dev"].split == "dev"
    assert parse_recipe(SMALL.encode()).task.sources() == {"all": Source(path="a.csv", label="label")}


def test_a_fingerprint_changes_with_its_sections_and_the_seed_only() -> None:
    recipe = parse_recipe(SMALL.encode())
    first = recipe.fingerprint("teacher", "task")
    assert len(first) == 64
    assert recipe.fingerprint("task", "teacher") == first
    assert parse_recipe(changed("name =", "seed = 1\nname =").encode()).fingerprint("teacher", "task") == first
    assert parse_recipe(changed("max_ms = 1", "max_ms = 2").encode()).fingerprint("teacher", "task") == first
    assert parse_recipe(changed('"teacher"', '"other"').encode()).fingerprint("teacher", "task") != first
    assert parse_recipe(changed("name =", "seed = 2\nname =").encode()).fingerprint("teacher", "task") != first
    with pytest.raises(ValueError, match="got tasks"):
        recipe.fingerprint("tasks")


def test_a_fingerprint_is_the_same_in_every_process(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(SMALL)
    code = "import sys; from atb_export.recipe import *; print(load_recipe(sys.argv[1]).fingerprint('task', 'space'))"
    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.toml")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert said.stdout.strip() == parse_recipe(SMALL.encode()).fingerprint("task", "space")


def test_a_recipe_is_made_of_data_that_stays_as_it_was() -> None:
    data = {"name": "x", "output": "runs/x", "target": [{"backend": "nothing"}]}
    before = copy.deepcopy(data)
    with pytest.raises(ValidationError):
        Recipe.model_validate(data)
    assert data == before
