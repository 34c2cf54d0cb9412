"""`atb pick`: reading and choosing on searches made of numbers; the whole way is in test_recipe_commands.py."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from atb_export.errors import AtbError
from atb_export.picking import Found, at_knee, by_key, fastest_above, found_in_store, within
from search.candidate import Candidate, Timing
from search.design import Design
from search.front import front
from search.store import Store
from supernet.space import SubnetConfig

Atb = Callable[..., Any]
OV, ORT = "openvino-CPU-f32-b1-l24-t1", "onnxruntime-CPU-f32-b1-l24-t1"
# hidden size -> accuracy, ms on the first and on the second target
NUMBERS = {
    8: (0.70, 0.50, 0.9),
    16: (0.80, 0.60, 1.2),
    24: (0.81, 1.00, 1.1),
    32: (0.90, 1.50, 2.0),
    40: (0.75, 1.60, 2.1),
}


def candidate(
    hidden: int, accuracy: float | None, *ms: float, precisions: Sequence[str] = (), width: float = 0.02, **more: Any
) -> Candidate:
    subnet = SubnetConfig.uniform(hidden_size=hidden, depth=2, heads=2, head_size=4, ffn_size=32, sources=(1, 3))
    return Candidate(
        design=Design(subnet=subnet, precisions=tuple(precisions) or ("f32",) * len(ms)),
        flops=1000 * hidden,
        latencies=tuple(Timing(ms=x, ci_ms=(x * (1 - width), x * (1 + width))) for x in ms),
        accuracy=accuracy,
        rows=60,
        **more,
    )


FAILED = Candidate(
    design=Design(subnet=SubnetConfig.uniform(hidden_size=64, depth=1, heads=1, ffn_size=8), precisions=("f32", "f32")),
    flops=1,
    status="failed",
    reason="does not compile",
)


def rows(targets: int = 2) -> list[Candidate]:
    found = [candidate(h, score, *ms[:targets]) for h, (score, *ms) in NUMBERS.items()]
    return found + ([FAILED] if targets == 2 else [])


def record(path: Path, search: str, candidates: Sequence[Candidate], **header: Any) -> None:
    targets = len(candidates[0].design.precisions) if candidates else 2
    labels = [OV, ORT][:targets]
    with Store.open(path) as store:
        history = store.history(search, {"targets": labels, "constraints_ms": [1.2, None][:targets], **header})
        for x in candidates:
            history.append(x.to_json())


def begin(folder: Path, search: str, targets: int = 1) -> Path:
    """What the search stage writes first."""
    stage = folder / "stages" / "search"
    stage.mkdir(parents=True)
    references = [{"graph": "0" * 64, "ms": 2.0, "precision": "f32", "hardware": "h"}] * targets
    (stage / "start.json").write_text(json.dumps({"search": search, "references": references}))
    return stage


def finish(stage: Path, candidates: Sequence[Candidate], *, limit: float = 1.2, winner: int = 0) -> None:
    """What it writes last; every confirmed latency is a tenth higher."""
    edge = front(candidates)
    result = {
        "targets": [OV],
        "teacher_ms": [2.0],
        "constraints_ms": [limit],
        "winner": edge[winner].to_json(),
        "candidates": [{**x.to_json(), "front": x in edge} for x in candidates],
    }
    (stage / "done.json").write_text(json.dumps({"result": result}))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two searches; the second, for two targets, is the last with an evaluation."""
    path = tmp_path / "store.sqlite"
    record(path, "aa11", rows(1))
    record(path, "ab22", rows(2))
    record(path, "cc33", [])
    return path


def hidden(answer: Any) -> int:
    assert answer.code == 0, answer.err
    return int(answer.document["picked"]["design"]["subnet"]["hidden_size"])


# --- the picks ------------------------------------------------------------------------------------------------------


def found(candidates: Sequence[Candidate], limits: Sequence[float | None], **more: Any) -> Found:
    return Found(
        where="here",
        targets=(OV, ORT)[: len(limits)],
        limits_ms=tuple(limits),
        candidates=tuple(candidates),
        front=front(candidates),
        **more,
    )


def test_within_takes_the_most_accurate_that_surely_meets_the_limit_and_says_what_else_might() -> None:
    loose = candidate(48, 0.85, 1.19, width=0.05)
    pick = within(found([*rows(1), loose], [1.2]))
    assert pick.candidate.subnet.hidden_size == 24
    assert pick.note == f"{loose.design.key} is more accurate, but its interval reaches beyond the limit"
    pick = within(found([loose], [1.2]))
    assert pick.candidate == loose
    assert pick.note == "its interval reaches beyond the limit"
    assert within(found(rows(1), [1.2])).note is None


def test_a_winner_is_the_pick_under_its_own_limits_only() -> None:
    candidates = rows(1)
    mine = found(candidates, [1.2], winner=candidates[1], finished=True)
    assert within(mine).candidate == candidates[1]
    assert within(mine, [1.2]).candidate == candidates[2]


def test_each_pick_looks_at_the_target_asked_for() -> None:
    both = found(rows(2), [None, None])
    assert within(both, [None, 1.15]).candidate.subnet.hidden_size == 24
    assert within(both, [0.9, 1.25]).candidate.subnet.hidden_size == 16
    assert fastest_above(both, 0.8, target=0).candidate.subnet.hidden_size == 16
    assert fastest_above(both, 0.8, target=1).candidate.subnet.hidden_size == 24
    assert at_knee(both, target=0).candidate.subnet.hidden_size == 16
    assert ORT in at_knee(both, target=1).why


def test_targets_are_named_by_how_only_they_begin() -> None:
    both = found(rows(2), [None, None])
    assert [both.target(x) for x in (OV, "onnx", "op")] == [0, 1, 0]
    for name, told in (("o", "2 targets that begin with 'o'"), ("gpu", "no target 'gpu'"), ("", "2 targets")):
        with pytest.raises(AtbError, match=f"the search has {told}.*; it has {OV}, {ORT}"):
            both.target(name)


def test_keys_by_their_beginning() -> None:
    several = [candidate(h, h / 1000, h / 100) for h in range(1, 200)]
    mine = found(several, [None])
    assert len(mine.front) == 199
    key = mine.front[7].design.key
    assert by_key(mine, key).candidate == mine.front[7]
    with pytest.raises(AtbError, match=r"[0-9]+ designs of the front have keys that begin with"):
        by_key(mine, key[0])
    with pytest.raises(AtbError, match="no design of the front has a key that begins with 'zz'"):
        by_key(mine, "zz")


# --- a store --------------------------------------------------------------------------------------------------------


def test_the_last_search_that_evaluated_anything(atb: Atb, store: Path) -> None:
    answer = atb("pick", store, "--json", cwd=store.parent)
    assert hidden(answer) == 24
    document = answer.document
    assert document["from"] == f"search ab22 of {store}"
    assert document["finished"] is False
    assert document["limits_ms"] == [1.2, None]
    assert [x["design"]["subnet"]["hidden_size"] for x in document["front"]] == [8, 16, 24, 32]
    assert all(x["key"] in answer.out for x in document["front"])
    (marked,) = [line for line in answer.out.splitlines() if "<- picked" in line]
    assert marked.startswith(document["picked"]["key"])
    assert "1.000 [0.980, 1.020]" in marked
    assert "1.100 [1.078, 1.122]" in marked
    assert "6 designs evaluated, 5 scored whole, 1 failed" in answer.out


def test_a_search_by_its_id(atb: Atb, store: Path) -> None:
    answer = atb("pick", store, "--search", "aa", "--max-ms", 0.7, "--json", cwd=store.parent)
    assert hidden(answer) == 16
    assert answer.document["targets"] == [OV]
    assert f"the most accurate within 0.7 ms on {OV}" in answer.out
    assert (
        "has 2 searches that begin with 'a'; it has aa11, ab22"
        in atb("pick", store, "--search", "a", cwd=store.parent).refusal
    )
    assert "has no search 'zz'; it has" in atb("pick", store, "--search", "zz", cwd=store.parent).refusal
    assert "no search with an evaluation" not in atb("pick", store, cwd=store.parent).err


@pytest.mark.parametrize(
    ("options", "picked"),
    [
        (["--max-ms", "openvino=0.7"], 16),
        (["--max-ms", f"{ORT}=1.15"], 24),
        (["--target", "onnx", "--max-ms", "1.15"], 24),
        (["--max-ms", "openvino=2", "--max-ms", "onnx=1.0"], 8),
        (["--min-accuracy", "0.8"], 16),
        (["--min-accuracy", "0.8", "--target", "onnx"], 24),
        (["--knee"], 16),
    ],
)
def test_every_way_to_ask(atb: Atb, store: Path, options: list[str], picked: int) -> None:
    assert hidden(atb("pick", store, "--search", "ab", *options, "--json", cwd=store.parent)) == picked


def test_by_key_of_the_table(atb: Atb, store: Path) -> None:
    key = candidate(32, 0.9, 1.5, 2.0).design.key
    assert hidden(atb("pick", store, "--search", "ab", "--key", key[:8], "--json", cwd=store.parent)) == 32
    assert "no design of the front" in atb("pick", store, "--key", FAILED.design.key, cwd=store.parent).refusal


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--max-ms", "openvino=0.4"], "nothing meets the limits of 0.4 ms, any: nearest is 2L-8"),
        (["--min-accuracy", "0.95"], "nothing meets an accuracy of 0.95: nearest is 2L-32"),
        (["--max-ms", "gpu=1"], f"the search has no target 'gpu'; it has {OV}, {ORT}"),
        (["--knee", "--target", "gpu"], "no target 'gpu'"),
    ],
)
def test_what_cannot_be_picked_is_told(atb: Atb, store: Path, options: list[str], told: str) -> None:
    answer = atb("pick", store, "--search", "ab", *options, cwd=store.parent)
    assert answer.code == 1
    assert told in answer.refusal


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--max-ms", "1"], "on which target?"),
        (["--max-ms", "openvino=1", "--max-ms", "op=2"], "twice"),
        (["--max-ms", "openvino=fast"], "takes a positive number of milliseconds"),
        (["--max-ms", "openvino=nan"], "takes a positive number of milliseconds"),
        (["--max-ms", "openvino=-1"], "takes a positive number of milliseconds"),
        (["--knee", "--key", "a"], "ask for one of them"),
        (["--target", "openvino"], "--target goes with"),
        (["--out", "new"], "go with a recipe"),
        (["--store", "other.sqlite"], "go with a recipe"),
    ],
)
def test_wrong_usage(atb: Atb, store: Path, options: list[str], told: str) -> None:
    answer = atb("pick", store, "--search", "ab", *options, cwd=store.parent)
    assert answer.code == 2
    assert told in answer.refusal


def test_a_store_that_is_none_or_damaged_or_a_strangers(atb: Atb, tmp_path: Path) -> None:
    assert "there is no store at" in atb("pick", "gone.sqlite", cwd=tmp_path).refusal
    record(tmp_path / "empty.sqlite", "aa", [])
    assert "has no search with an evaluation; it has aa" in atb("pick", "empty.sqlite", cwd=tmp_path).refusal
    for name, header, line in (
        ("a", {}, {"design": 1}),
        ("b", {"targets": 3}, rows(2)[0].to_json()),
        ("c", {"constraints_ms": [-1.0, 2.0]}, rows(2)[0].to_json()),
        ("d", {}, rows(1)[0].to_json()),
        ("e", {"targets": ["\x1b[2J", ORT]}, rows(2)[0].to_json()),
        ("f", {}, candidate(8, 0.7, 0.5, 0.9, precisions=("f32", "\x1b[2J")).to_json()),
    ):
        path = tmp_path / f"{name}.sqlite"
        with Store.open(path) as store:
            plain: dict[str, Any] = {"targets": [OV, ORT], "constraints_ms": [1.0, None], **header}
            store.history(name, plain).append(line)
        assert "is not one that this version of atb can read" in atb("pick", path, cwd=tmp_path).refusal


def test_what_was_not_scored_whole_stands_on_no_front(tmp_path: Path) -> None:
    stopped = candidate(56, 0.99, 0.1, complete=False)
    unasked = candidate(64, None, 0.05)
    record(tmp_path / "s.sqlite", "aa", [stopped, unasked, candidate(8, 0.7, 0.5)])
    assert [x.subnet.hidden_size for x in found_in_store(tmp_path / "s.sqlite").front] == [8]


# --- a recipe -------------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe(tiny_recipe: Callable[..., str], tmp_path: Path) -> Path:
    path = tmp_path / "r.toml"
    path.write_text(tiny_recipe(constraint__of_teacher=0.6))
    return path


def test_no_search_yet(atb: Atb, recipe: Path) -> None:
    assert (
        "out holds no search yet; `atb search` with this recipe makes one"
        in atb("pick", recipe, cwd=recipe.parent).refusal
    )
    begin(recipe.parent / "out", "aa11")
    text = atb("pick", recipe, cwd=recipe.parent).refusal
    assert "is not finished and has no record yet (there is no store at store.sqlite" in text
    assert "atb search --resume" in text


def test_a_running_search_shows_what_is_recorded_so_far(atb: Atb, recipe: Path) -> None:
    """The limit is the recipe's share of the teacher's time as it was when the search began."""
    begin(recipe.parent / "out", "aa11")
    record(recipe.parent / "store.sqlite", "aa11", rows(1)[:3])
    answer = atb("pick", recipe, "--json", cwd=recipe.parent)
    assert hidden(answer) == 24
    assert answer.document["finished"] is False
    assert answer.document["limits_ms"] == [1.2]
    assert "as far as recorded, each measured once" in answer.out
    recipe.write_text(recipe.read_text().replace("of_teacher = 0.6", "max_ms = 0.7"))
    assert hidden(atb("pick", recipe, "--json", cwd=recipe.parent)) == 16


def test_the_store_may_lie_elsewhere_and_hold_other_searches(atb: Atb, recipe: Path) -> None:
    begin(recipe.parent / "out", "aa11")
    other = recipe.parent / "other.sqlite"
    record(other, "aa11", rows(1))
    record(other, "bb22", rows(1)[:1])
    assert hidden(atb("pick", recipe, "--store", other, "--json", cwd=recipe.parent)) == 24
    assert hidden(atb("pick", recipe, "--store", other, "--search", "bb", "--json", cwd=recipe.parent)) == 8


def test_a_finished_search_answers_with_its_confirmed_front_and_needs_no_store(atb: Atb, recipe: Path) -> None:
    finish(begin(recipe.parent / "out", "aa11"), rows(1), winner=1)
    answer = atb("pick", recipe, "--json", cwd=recipe.parent)
    assert answer.document["finished"] is True
    assert hidden(answer) == 16, "the winner the search named"
    assert "its front measured once more" in answer.out
    assert hidden(atb("pick", recipe, "--max-ms", 1.2, "--json", cwd=recipe.parent)) == 24
    recipe.write_text(recipe.read_text().replace("of_teacher = 0.6", "of_teacher = 0.9"))
    assert hidden(atb("pick", recipe, "--json", cwd=recipe.parent)) == 32
    assert not (recipe.parent / "store.sqlite").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"result": {}}', '{"result": {"candidates": [1]}}', '{"result": 3}'])
def test_a_damaged_result_is_told(atb: Atb, recipe: Path, text: str) -> None:
    stage = begin(recipe.parent / "out", "aa11")
    (stage / "done.json").write_text(text)
    assert "search again" in atb("pick", recipe, cwd=recipe.parent).refusal


def test_out_is_refused_before_anything_is_read(atb: Atb, recipe: Path) -> None:
    assert "exists already" in atb("pick", recipe, "--out", ".", cwd=recipe.parent).refusal


def test_pick_imports_no_torch_and_no_engine_and_writes_nothing(recipe: Path) -> None:
    """Which is also why it answers at once: the whole command in a process of its own."""
    begin(recipe.parent / "out", "aa11")
    record(recipe.parent / "store.sqlite", "aa11", rows(1))
    before = sorted(recipe.parent.rglob("*"))
    script = (
        "import sys; from atb_export.cli.main import run; code = run(['pick', sys.argv[1], '--json'])\n"
        "heavy = {'torch', 'transformers', 'onnx', 'onnxruntime', 'openvino', 'tensorrt', 'scipy', 'numpy'}\n"
        "heavy |= {'atb_export.stages', 'atb_export.work', 'runtime.measure', 'matplotlib', 'jinja2'}\n"
        "sys.exit(code or str(heavy & set(sys.modules) or '') or 0)"
    )
    for source in ("r.toml", "store.sqlite"):
        done = subprocess.run(
            [sys.executable, "-c", script, source], cwd=recipe.parent, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["picked"]["design"]["subnet"]["hidden_size"] == 24
    assert [x for x in sorted(recipe.parent.rglob("*")) if not x.name.startswith("store.sqlite-")] == before
