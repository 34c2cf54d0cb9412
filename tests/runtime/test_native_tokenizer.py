"""The native tokenizer answers what `tokenizers` answers, and refuses what it does not compute exactly."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("tokenizers")
ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "serving" / "tokenizer_exactness.py"
WORDS = ("a", "b", "##b", "foo", "##o", "é", "e", "東", "##東", ".", "x")


@pytest.fixture(scope="module")
def exactness() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tokenizer_exactness", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tool(exactness: ModuleType) -> Path:
    found: Path | None = exactness.find_tool()
    if found is None:
        pytest.skip("atb-tokenize is not built: cmake -B build -DATB_TESTS=ON, or name it in ATB_TOKENIZE")
    return found


def differences(
    exactness: ModuleType, tool: Path, tokenizer: dict[str, Any], texts: list[Any], **cut: Any
) -> list[str]:
    outcome = exactness.Outcome()
    outcome.compare("", tool, exactness.Case(tokenizer, **cut), texts)
    assert outcome.counts.get("", 0) == len(texts), "the tokenizer was refused"
    return list(outcome.shown)


def added(content: str, **flags: bool) -> dict[str, Any]:
    off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": 0, "content": content, **off, **flags}


@pytest.mark.parametrize("part", ["code", "random", "real"])
def test_it_answers_what_tokenizers_answers(tool: Path, part: str) -> None:
    command = [sys.executable, SCRIPT, "--quick", "--tool", tool, "--parts", part, "--strings", "6000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = {k: v for k, v in json.loads(done.stdout.splitlines()[-1]).items() if isinstance(v, int)}
    if part != "real":  # which needs texts and a tokenizer that not every machine has
        assert sum(counts.values()) >= 6000


def test_spaces_of_added_tokens_go_to_the_first_that_takes_them(exactness: ModuleType, tool: Path) -> None:
    tokens = [added("x", rstrip=True), added(" ", lstrip=True, rstrip=True), added("東", lstrip=True, normalized=True)]
    tokenizer = exactness.tokenizer_json(WORDS, exactness.NORMALIZERS[0], added_tokens=tokens)
    texts = ["x a", "x  a", "a  a", "a x 東 b", "  東東", "b\t東 x", " ", "", "x", "a東 "]
    assert differences(exactness, tool, tokenizer, texts) == []


@pytest.mark.parametrize("strategy", ["longest_first", "only_first", "only_second"])
@pytest.mark.parametrize("left", [False, True])
def test_every_pair_of_lengths_is_cut_alike(exactness: ModuleType, tool: Path, strategy: str, left: bool) -> None:
    tokenizer = exactness.tokenizer_json(WORDS, exactness.NORMALIZERS[0])
    sides = [" ".join("aebx"[i % 4] for i in range(n)) for n in range(8)]
    texts = [*sides, *((x, y) for x in sides for y in sides)]
    for length in range(3, 12):
        cut = {"length": length, "strategy": strategy, "left": left}
        assert differences(exactness, tool, tokenizer, texts, **cut) == []


def test_without_a_post_processor_every_type_is_0(exactness: ModuleType, tool: Path) -> None:
    tokenizer = exactness.tokenizer_json(WORDS, None, post_processor=None)
    assert differences(exactness, tool, tokenizer, ["a B", ("a", "b e"), ("", ""), ""]) == []


def test_its_own_truncation_and_padding_do_not_matter(exactness: ModuleType, tool: Path) -> None:
    padding = {
        "strategy": {"Fixed": 9},
        "direction": "Left",
        "pad_to_multiple_of": 8,
        "pad_id": 3,
        "pad_type_id": 1,
        "pad_token": "[PAD]",
    }
    truncation = {"direction": "Left", "max_length": 3, "strategy": "OnlySecond", "stride": 1}
    tokenizer = exactness.tokenizer_json(WORDS, exactness.NORMALIZERS[0], padding=padding, truncation=truncation)
    assert differences(exactness, tool, tokenizer, ["a b foo", ("a", "b"), "a " * 40], length=16) == []


@pytest.mark.parametrize(
    ("section", "value", "named"),
    [
        ("normalizer", {"type": "NFC"}, "normalizer is of type NFC"),
        ("normalizer", {"type": "Sequence", "normalizers": []}, "normalizer is of type Sequence"),
        ("pre_tokenizer", {"type": "Whitespace"}, "pre_tokenizer is of type Whitespace"),
        ("pre_tokenizer", None, "pre_tokenizer is missing"),
        ("post_processor", {"type": "Sequence", "processors": []}, "post_processor is of type Sequence"),
        ("model", {"type": "BPE", "vocab": {}, "merges": []}, "model is of type BPE"),
        ("version", "2.0", "version is"),
    ],
)
def test_what_it_does_not_compute_is_refused_by_name(
    exactness: ModuleType, tool: Path, section: str, value: Any, named: str
) -> None:
    tokenizer = exactness.tokenizer_json(WORDS, exactness.NORMALIZERS[0]) | {section: value}
    line = json.dumps({"json": json.dumps(tokenizer)})
    done = subprocess.run([tool], input=f"{line}\n", capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["kind"] == "bundle"
    assert named in answer["error"]
