from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from search.candidate import Candidate
from search.errors import RecordError
from search.record import Record, space_fingerprint
from supernet.space import SearchSpace


def open_record(path: Path, space: SearchSpace, **changes: object) -> Record:
    named: dict[str, object] = {"constraint_ms": 1.5, "seed": 7, "context": "weights abc"}
    return Record.open(path, space=space, **(named | changes))  # type: ignore[arg-type]


@pytest.fixture
def some(space: SearchSpace) -> list[Candidate]:
    rng = Random(0)
    measured = [
        Candidate(subnet=space.sample(rng), accuracy=0.1 * i, latency_ms=1 / (i + 3), flops=i) for i in range(3)
    ]
    failed = Candidate(subnet=space.sample(rng), flops=9, status="failed", reason="naïve\nkernel ✗")
    return [*measured, failed]


def test_what_was_appended_is_there_again(tmp_path: Path, space: SearchSpace, some: list[Candidate]) -> None:
    path = tmp_path / "deep" / "record.jsonl"
    record = open_record(path, space)
    assert record.candidates == ()
    for candidate in some:
        record.append(candidate)
    assert record.candidates == tuple(some)
    assert open_record(path, space).candidates == tuple(some)
    lines = path.read_text().splitlines()
    assert len(lines) == 1 + len(some)
    assert json.loads(lines[0])["kind"] == "atb-search-record"
    assert os.listdir(path.parent) == ["record.jsonl"]


def test_every_torn_last_line_is_dropped(tmp_path: Path, space: SearchSpace, some: list[Candidate]) -> None:
    path = tmp_path / "record.jsonl"
    record = open_record(path, space)
    record.append(some[0])
    whole = path.read_bytes()
    record.append(some[3])
    longer = path.read_bytes()
    for end in range(len(whole), len(longer)):
        path.write_bytes(longer[:end])
        again = open_record(path, space)
        assert again.candidates == (some[0],)
        assert path.read_bytes() == whole
    again.append(some[1])
    assert open_record(path, space).candidates == (some[0], some[1])


@pytest.mark.parametrize(
    "changes", [{"constraint_ms": 1.6}, {"seed": 8}, {"context": "weights abd"}], ids=lambda x: next(iter(x))
)
def test_refuses_the_record_of_another_search(tmp_path: Path, space: SearchSpace, changes: dict[str, object]) -> None:
    path = tmp_path / "record.jsonl"
    open_record(path, space)
    name, value = next(iter(changes.items()))
    with pytest.raises(RecordError, match=f"another search: {name} is .* asked is {value!r}"):
        open_record(path, space, **changes)


def test_refuses_the_record_of_another_space(tmp_path: Path, space: SearchSpace) -> None:
    path = tmp_path / "record.jsonl"
    record = open_record(path, space)
    other = replace(space, heads=(4, 6, 8))
    assert space_fingerprint(other) != space_fingerprint(space)
    with pytest.raises(RecordError, match="another search: space is"):
        open_record(path, other)
    with pytest.raises(RecordError, match="another search: space is"):
        record.require(space=other, constraint_ms=1.5)
    with pytest.raises(RecordError, match=r"constraint_ms is 1.5, asked is 2.0"):
        record.require(space=space, constraint_ms=2.0)
    record.require(space=space, constraint_ms=1.5)


def test_the_fingerprint_sees_every_dimension(space: SearchSpace) -> None:
    others = [
        replace(space, per_layer=False),
        replace(space, ffn_sizes=(256,)),
        replace(space, hidden_sizes=(256,)),
        replace(space, head_sizes=(16,)),
        replace(space, layer_sets=space.layer_sets[1:]),
        replace(space, source_layers=7),
    ]
    assert len({space_fingerprint(x) for x in [space, *others]}) == len(others) + 1


@pytest.mark.parametrize("content", ["hello", "hello\n", "[]\n", "{}\n", '{"kind": "atb-search-record"}', "\x00\n"])
def test_leaves_other_files_alone(tmp_path: Path, space: SearchSpace, content: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(content)
    with pytest.raises(RecordError, match="not a record of a search"):
        open_record(path, space)
    assert path.read_text() == content


def test_refuses_a_newer_schema(tmp_path: Path, space: SearchSpace) -> None:
    path = tmp_path / "record.jsonl"
    open_record(path, space)
    path.write_text(path.read_text().replace('"schema":1', '"schema":2'))
    with pytest.raises(RecordError, match="schema is 2, asked is 1"):
        open_record(path, space)


@pytest.mark.parametrize("damage", ["", "{", "{}", '{"subnet": 3}', "null", "\x00\x00", "ÿ"])
def test_a_damaged_line_is_named(tmp_path: Path, space: SearchSpace, some: list[Candidate], damage: str) -> None:
    path = tmp_path / "record.jsonl"
    record = open_record(path, space)
    record.append(some[0])
    record.append(some[1])
    lines = path.read_bytes().splitlines()
    lines[1] = damage.encode("latin-1")
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(RecordError, match="line 2 is not an evaluation"):
        open_record(path, space)


def test_an_empty_file_is_begun(tmp_path: Path, space: SearchSpace, some: list[Candidate]) -> None:
    path = tmp_path / "record.jsonl"
    path.touch()
    open_record(path, space).append(some[0])
    assert open_record(path, space).candidates == (some[0],)


def test_a_full_disk_leaves_a_whole_record(
    tmp_path: Path, space: SearchSpace, some: list[Candidate], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.jsonl"
    record = open_record(path, space)
    record.append(some[0])
    whole = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            record.append(some[1])
        with pytest.raises(OSError, match="No space left"):
            open_record(tmp_path / "other.jsonl", space)
    assert path.read_bytes() == whole
    assert os.listdir(tmp_path) == ["record.jsonl"]
    record.append(some[1])
    assert open_record(path, space).candidates == (some[0], some[1])


def test_notices_a_second_writer(tmp_path: Path, space: SearchSpace, some: list[Candidate]) -> None:
    path = tmp_path / "record.jsonl"
    first, second = open_record(path, space), open_record(path, space)
    first.append(some[0])
    with pytest.raises(RecordError, match="only one search may write"):
        second.append(some[1])
