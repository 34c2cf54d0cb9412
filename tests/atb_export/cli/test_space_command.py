"""`atb space`: presets and recipes, cut to a teacher where there is one to read."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from supernet.cost import flops, parameters
from supernet.facts import ModelFacts
from supernet.presets import PRESETS, aligned, preset
from supernet.space import SubnetConfig

Atb = Callable[..., Any]
FACTS = ModelFacts(vocab_size=30522, max_position_embeddings=512)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_as_it_is(name: str, atb: Atb, tmp_path: Path) -> None:
    answer = atb("space", name, "--seed", 3, "--samples", 4, "--length", 32, "--json", cwd=tmp_path)
    assert answer.code == 0, answer.err
    space, found = preset(name), answer.document
    assert (found["size"], found["fingerprint"]) == (space.size(), space.fingerprint)
    rng = Random(3)
    drawn = [space.sample(rng) for _ in range(4)]
    assert [SubnetConfig.from_json(x["subnet"]) for x in found["samples"]] == drawn
    for subnet, x in zip(
        (space.smallest(), space.largest(), *drawn),
        (found["smallest"], found["largest"], *found["samples"]),
        strict=True,
    ):
        assert x["key"] == subnet.key
        assert x["parameters"] == parameters(subnet, FACTS)
        assert x["flops"] == flops(subnet, length=32)
        assert str(subnet) in answer.out
    assert found["ffn_sizes"] == list(space.ffn_sizes)
    assert PRESETS[name].about in answer.out
    assert "GFLOP at 32" in answer.out


def test_what_people_read(atb: Atb, tmp_path: Path) -> None:
    out = atb("space", "autotinybert-kd", cwd=tmp_path).out
    for line in (
        "47,462,800 subnets; layers alike",
        "depth               8        1, 2, 3, 4, 5, 6, 7, 8 (the first layers)",
        "feed-forward size   737      128 .. 3072, step 4",
        "head size           50       15 .. 64, step 1",
        "parameters are those with 30,522 words, 512 positions and 2 labels",
    ):
        assert line in out
    assert "4.92e42 subnets; each layer has its own sizes" in atb("space", "per-layer", cwd=tmp_path).out


def test_a_preset_within_a_teacher(atb: Atb, tmp_path: Path, tiny_teacher: Path) -> None:
    options = ["--teacher", tiny_teacher, "--json"]
    text = atb("space", "per-layer", *options, cwd=tmp_path).refusal
    assert f"per-layer cannot be cut to the teacher {tiny_teacher}: hidden_sizes start at 128" in text
    config = json.loads((tiny_teacher / "config.json").read_text())
    (tmp_path / "wide").mkdir()
    wide = config | {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4}
    (tmp_path / "wide" / "config.json").write_text(json.dumps(wide))
    answer = atb("space", "per-layer", "--teacher", "./wide", "--json", cwd=tmp_path)
    whole = SubnetConfig.uniform(hidden_size=256, depth=4, heads=4, ffn_size=512)
    space = PRESETS["per-layer"].space(4).within(whole)
    assert answer.document["fingerprint"] == space.fingerprint
    assert SubnetConfig.from_json(answer.document["teacher"]) == whole
    assert answer.document["facts"]["vocab_size"] == 200
    assert "within the teacher ./wide: 4 layers, hidden size 256, 4 heads of 64, feed-forward size 512" in answer.out


@pytest.mark.parametrize(
    ("content", "said"), [(None, "No such file"), ("{}", "not that of a BERT"), ("[]", "not that of a BERT"), ("{", "")]
)
def test_a_teacher_that_cannot_be_read(content: str | None, said: str, atb: Atb, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    if content is not None:
        (tmp_path / "model" / "config.json").write_text(content)
    text = atb("space", "per-layer", "--teacher", "model", cwd=tmp_path).refusal
    assert "per-layer cannot be cut to the teacher model: " in text
    assert said in text
    assert "nothing is downloaded" in atb("space", "per-layer", "--teacher", "some/hub-name", cwd=tmp_path).refusal
    assert "there is no './gone'" in atb("space", "per-layer", "--teacher", "./gone", cwd=tmp_path).refusal


def test_multiples(atb: Atb, tmp_path: Path) -> None:
    options = ["--multiple", "ffn_sizes=32", "--multiple", "hidden_sizes=64", "--json"]
    answer = atb("space", "per-layer", *options, cwd=tmp_path)
    space = aligned(preset("per-layer"), {"ffn_sizes": 32, "hidden_sizes": 64})
    assert answer.document["fingerprint"] == space.fingerprint
    assert "multiples only: ffn_sizes of 32, hidden_sizes of 64" in answer.out
    text = atb("space", "per-layer", "--multiple", "head_sizes=128", cwd=tmp_path).refusal
    assert "no choice of head_sizes is a multiple of 128" in text


@pytest.mark.parametrize(
    "wrong", ["ffn_sizes", "depths=2", "ffn_sizes=0", "ffn_sizes=x", "ffn_sizes=-4", "=", "heads=²"]
)
def test_multiples_that_are_none(wrong: str, atb: Atb, tmp_path: Path) -> None:
    answer = atb("space", "per-layer", "--multiple", wrong, cwd=tmp_path)
    assert answer.code == 2
    assert "is not DIMENSION=MULTIPLE; dimensions are hidden_sizes, heads" in answer.refusal


def test_a_recipe_within_its_teacher(atb: Atb, tmp_path: Path, tiny_recipe: Callable[..., str]) -> None:
    (tmp_path / "r.toml").write_text(tiny_recipe())
    answer = atb("space", "r.toml", "--json", cwd=tmp_path)
    assert answer.code == 0, answer.err
    assert answer.document["size"] == 4 * 2 * 8 + 6 * 2 * 64
    assert answer.document["length"] == 24
    assert answer.document["facts"]["vocab_size"] == 200
    assert (answer.document["source_layers"], answer.document["layer_sets"]) == (4, 10)
    assert "(of 4 layers, 10 sets)" in answer.out
    (tmp_path / "r.toml").write_text(tiny_recipe(space__ffn_sizes=[32, 4096]))
    assert "[4096] does not fit in the teacher" in atb("space", "r.toml", cwd=tmp_path).refusal


def test_a_recipe_whose_teacher_is_elsewhere(atb: Atb, tmp_path: Path, tiny_recipe: Callable[..., str]) -> None:
    (tmp_path / "r.toml").write_text(tiny_recipe(teacher__model="some/hub-name"))
    answer = atb("space", "r.toml", "--json", cwd=tmp_path)
    assert answer.code == 0, answer.err
    assert answer.document["teacher"] is None
    assert answer.document["source_layers"] == 2
    assert "the teacher some/hub-name cannot be read without loading it: it is a hub name" in answer.out
    assert "as it is written, in a supernet of 2 layers" in answer.out
    sizes = dict.fromkeys(("depths", "hidden_sizes", "heads", "head_sizes", "ffn_sizes"), None)
    text = tiny_recipe(
        teacher__model="some/hub-name", space__preset="per-layer", **{f"space__{k}": v for k, v in sizes.items()}
    )
    (tmp_path / "r.toml").write_text(text)
    answer = atb("space", "r.toml", "--json", cwd=tmp_path)
    assert answer.document["fingerprint"] == preset("per-layer").fingerprint
    assert "tiny, per-layer: any up to 8 layers" in answer.out


def test_neither_preset_nor_recipe(atb: Atb, tmp_path: Path) -> None:
    text = atb("space", "per-layr", cwd=tmp_path).refusal
    assert "there is no preset and no recipe file 'per-layr'; did you mean \"per-layer\"?" in text
    assert "No such file" in atb("space", "gone.toml", cwd=tmp_path).refusal


def test_a_huge_space_is_told_too(atb: Atb, tmp_path: Path, tiny_recipe: Callable[..., str]) -> None:
    """More subnets than a float can count."""
    changes = {"space__depths": [250], "space__first_layers": True, "teacher__model": "some/hub-name"}
    (tmp_path / "r.toml").write_text(tiny_recipe(**changes, space__ffn_sizes=list(range(1, 60))))
    answer = atb("space", "r.toml", "--samples", 0, "--json", cwd=tmp_path)
    assert answer.code == 0, answer.err
    assert answer.document["size"] is None
    assert answer.document["log10_size"] > 300
    assert "e593 subnets" in answer.out
    assert answer.document["samples"] == []


def test_a_preset_needs_no_torch() -> None:
    script = (
        "import sys; from atb_export.cli.main import run; code = run(['space', 'per-layer', '--json'])\n"
        "heavy = {'torch', 'transformers', 'onnx', 'openvino', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(code or (str(heavy) if heavy else 0))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
