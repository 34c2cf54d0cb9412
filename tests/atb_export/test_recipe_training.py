"""Stages, students and what they need, as a recipe has them."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from atb_export.recipe import RecipeError, StudentRecipe, load_student_recipe, parse_recipe
from atb_export.recipe_sections import Gene
from atb_export.recipe_student import Student, StudentName
from search.phases import GENES
from supernet.layer_map import LayerMap
from supernet.published import PUBLISHED
from supernet.sampler import Sampler
from supernet.stage import LossWeights
from supernet.subnet import SubnetConfig

BASE = """
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


def mistakes(more: str, text: str = BASE) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        parse_recipe((text + more).encode())
    return [str(x) for x in caught.value.mistakes]


def test_a_fingerprint_counts_defaults_with_their_values() -> None:
    recipe = parse_recipe(BASE.encode())
    named = parse_recipe((BASE + '[supernet]\nteacher = "task"\nsampler = "sandwich"\nstage = []').encode())
    assert named.fingerprint("supernet") == recipe.fingerprint("supernet")
    other = parse_recipe((BASE + '[supernet]\nsampler = "uniform"').encode())
    assert other.fingerprint("supernet") != recipe.fingerprint("supernet")
    assert other.fingerprint("distill") == recipe.fingerprint("distill")


def test_a_section_without_stages_is_one_stage() -> None:
    recipe = parse_recipe((BASE + "[supernet]\nsteps = 7\nrandom_subnets = 2").encode())
    (stage,) = recipe.supernet.stages()
    assert (stage.name, stage.steps, stage.learning_rate, stage.teacher, stage.data) == (
        "supernet",
        7,
        3e-4,
        "task",
        "all",
    )
    assert stage.losses == LossWeights()
    assert stage.sampler == Sampler("sandwich", random_subnets=2)
    assert recipe.distill.stages()[0].sampler == Sampler("whole")
    assert recipe.stage_names() == ()


def test_a_stage_takes_what_it_does_not_name_from_its_section() -> None:
    text = """
    [supernet]
    steps = 7
    learning_rate = 1e-3
    sampler = "uniform"
    loss = { soft_label = 2.0 }
    [[supernet.stage]]
    name = "one"
    learning_rate = 2e-3
    layer_map = [2, 0, 4]
    loss = { hidden = 1.0 }
    [[supernet.stage]]
    name = "two"
    in_place = true
    sampler = "sandwich"
    [[distill.stage]]
    name = "three"
    """
    recipe = parse_recipe((BASE + text).encode())
    one, two = recipe.supernet.stages()
    assert (one.steps, one.learning_rate, one.sampler.kind) == (7, 2e-3, "uniform")
    assert one.layer_map == LayerMap((2, 0, 4))
    # What a stage's own loss does not name is 0; a stage without one has its section's, whose terms have defaults.
    assert one.losses == LossWeights(soft_label=0, hidden=1.0, attention=0)
    assert two.losses == LossWeights(soft_label=2.0)
    assert (two.learning_rate, two.sampler) == (1e-3, Sampler("sandwich", in_place=True))
    assert recipe.stage_names() == ("one", "two", "three")
    assert [x.name for x in recipe.supernet.stages(skip={"one", "three"})] == ["two"]
    assert recipe.distill.stages(skip={"three"}) == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[supernet.stage]]\nname = "A"', 'supernet.stage[0].name = "A": is not of the right form'),
        ('[[supernet.stage]]\nnam = "a"', 'supernet.stage[0].nam = "a": unknown key; did you mean "name"?'),
        (
            '[[distill.stage]]\nname = "a"\nteacher = "tsk"',
            'distill.stage[0].teacher = "tsk": must be one of "task", "pretrained", "multitask", "none"; '
            'did you mean "task"?',
        ),
        (
            '[[distill.stage]]\nname = "a"\nlayer_map = "unifrom"',
            'distill.stage[0].layer_map = "unifrom": must be one of "span", "uniform", "last" or a list',
        ),
        ('[[distill.stage]]\nname = "a"\nlayer_map = [0]', "distill.stage[0].layer_map = [0]: lists, for each layer"),
        ('[[distill.stage]]\nname = "a"\nloss = {}', "distill.stage[0].loss: at least one of soft_label"),
        ('[[distill.stage]]\nname = "a"\nsampler = "uniform"', 'distill.stage[0].sampler = "uniform": unknown key'),
        ('[distill.stage]\nname = "a"', "must be a list of tables: write [[distill.stage]]"),
        (
            '[[supernet.stage]]\nname = "a"\n[[supernet.stage]]\nname = "a"',
            "two stages are named a; give each a name of its own",
        ),
        ('[[supernet.stage]]\nname = "a"\n[[distill.stage]]\nname = "a"', "stages of [supernet] are named a too"),
        (
            '[[supernet.stage]]\nname = "a"\nteacher = "none"',
            "stage 'a': without a teacher only hard_label and mlm can be learned",
        ),
        (
            '[[supernet.stage]]\nname = "a"\nsampler = "uniform"\nin_place = true',
            "in_place needs the largest subnet beside others in each step",
        ),
        (
            '[supernet]\nprojection = "layer"\nloss = { hidden = 0 }',
            "a projection serves the hidden and embedding losses",
        ),
        (
            '[[distill.stage]]\nname = "a"\ndata = "transfer"',
            "stage 'a' of [distill] learns from transfer text: the recipe needs a table [transfer]",
        ),
        (
            '[distill]\ndata = "augmented"',
            "[distill] learns from augmented rows: the recipe needs a table [augmentation]",
        ),
        (
            '[supernet]\nteacher = "multitask"',
            "[supernet] has a teacher of several tasks: list the others as [[teacher.tasks]]",
        ),
        (
            '[supernet]\nteacher = "pretrained"',
            "[supernet]: a teacher that never saw the task has no answers: set soft_label to 0",
        ),
        ('[supernet]\nsampler = "attentive"', "an attentive sampler looks at constraint.of_teacher"),
        ('[[search.phase]]\nname = "a"\nfree = ["cell"]', 'did you mean "cells"?'),
        ('[[search.phase]]\nname = "a"\nfree = []', "search.phase[0].free = []: needs at least 1 item(s)"),
        (
            '[[search.phase]]\nname = "a"\nfree = ["cells"]\n[[search.phase]]\nname = "a"\nfree = ["heads"]',
            "two phases are named a",
        ),
        ('[search]\nmethod = "fsat"', 'did you mean "fast"?'),
        ('[student]\npreset = "tinybrt4"', 'did you mean "tinybert4"'),
        ('[student]\npreset = "tinybert4"\ndepth = 3', "has its own depth; drop it, or them"),
        (
            "[student]\ndepth = 3\nheads = 2\nffn_size = 4",
            "student.hidden_size: is missing; a shape is depth, hidden_size",
        ),
        (
            "[student]\ndepth = 3\nheads = 5\nffn_size = 4\nhidden_size = 24",
            "do not divide the hidden size 24; name a head_size",
        ),
        (
            '[student]\npreset = "tinybert4"\nlayers = [1, 2]',
            "names the 4 layers of the teacher to start from, ascending",
        ),
        (
            '[student]\ndepth = 1\nheads = 2\nffn_size = 4\nhidden_size = 24\ncell = "linear1(x)"',
            "'linear1(x)' is no feed-forward cell",
        ),
        (
            '[student]\ndepth = 1\nheads = 2\nffn_size = 4\nhidden_size = 24\nembedding = "trigram"',
            'is the width of a table that is projected: it goes with "factorised" and "trigram"',
        ),
        ('[engine]\nmixed_precision = "bf61"', 'did you mean "bf16"?'),
        ("[augmentation]\nprobability = 1.5", "augmentation.probability = 1.5: must be 1.0 or less"),
    ],
)
def test_mistakes_are_told_with_what_to_write(text: str, said: str) -> None:
    found = mistakes(text)
    assert any(said in line for line in found), found


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('path = "a.csv"', 'kind = "glue"', "task.name: is missing (the GLUE task"),
        ('path = "a.csv"', 'kind = "glue"\nname = "sst2"', "task.test_rows = 10: does not go with a GLUE task"),
        ('path = "a.csv"', 'path = "a.csv"\nname = "sst2"', 'task.name = "sst2": is of a GLUE task'),
        (
            'model = "teacher"',
            'model = "teacher"\n[[teacher.tasks]]\nkind = "glue"',
            "teacher.tasks[0].name: is missing",
        ),
        (
            'model = "teacher"',
            "model = \"teacher\"\n[[teacher.tasks]]\nlabel = 'x'",
            "teacher.tasks[0].path: is missing",
        ),
    ],
)
def test_mistakes_about_tasks(old: str, new: str, said: str) -> None:
    found = mistakes("", BASE.replace(old, new))
    assert any(said in line for line in found), found


def test_a_recipe_without_a_search_is_for_distill(tmp_path: Path) -> None:
    text = BASE[: BASE.index("[space]")] + '[student]\npreset = "tinybert4"\n'
    path = tmp_path / "r.toml"
    path.write_text(text)
    recipe = load_student_recipe(path)
    assert isinstance(recipe, StudentRecipe)
    with pytest.raises(RecipeError, match=r"student = .*: is for `atb distill`; a recipe without .space. has nothing"):
        parse_recipe(text.encode())
    path.write_text(BASE)
    with pytest.raises(RecipeError, match="student: is missing: `atb distill` teaches a hand-written shape"):
        load_student_recipe(path)
    path.write_text(BASE + '[student]\npreset = "tinybert4"\n')
    assert load_student_recipe(path).student is not None


def test_phases_may_free_every_gene() -> None:
    assert get_args(Gene) == GENES


def test_published_students_are_named_and_sized_as_published() -> None:
    assert set(get_args(StudentName)) == set(PUBLISHED)
    assert Student(preset="tinybert4").shape == SubnetConfig.uniform(hidden_size=312, depth=4, heads=12, ffn_size=1200)
    kd = Student(preset="autotinybert-kd-s1").shape
    assert (kd.depth, kd.hidden_size, kd.layers[0].ffn_size, kd.layers[0].qkv_size) == (5, 564, 1024, 528)
    cells = [(x.ffn_stack, x.ffn_size) for x in Student(preset="efficientbert").shape.layers]
    assert cells == [(4, 270), (2, 540), (1, 270), (2, 270), (1, 270), (2, 180)]
    own = Student(depth=2, hidden_size=24, heads=4, ffn_size=40, head_size=5, cell="relu").shape
    assert [str(x) for x in own.layers] == ["0:4x5/40=linear2(relu(linear1(x)))", "1:4x5/40=linear2(relu(linear1(x)))"]
