"""Streamed sentences are those that would be cut in memory, in the same order."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from supernet.data import stream
from supernet.data.rows import Row
from supernet.data.source import Source, read_rows
from supernet.data.stream import TransferText, stream_sentences
from supernet.data.text import sentences
from supernet.errors import DataError

WORDS = ("the", "plot", "of", "this", "film", "is", "warm", "Clever", "é", "漢字", "dull", "slow", "and", "long")


def write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"body": text}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


def texts(count: int, seed: int = 0) -> list[str]:
    rng = Random(seed)
    return [
        ". ".join(" ".join(rng.choices(WORDS, k=rng.randint(1, 9))) for _ in range(rng.randint(1, 5)))
        + rng.choice(".!?")
        for _ in range(count)
    ]


def streamed(text: TransferText, folder: Path, exclude: tuple[Row, ...] = ()) -> list[str]:
    with stream_sentences(text, folder=folder, exclude=exclude) as found:
        placed = sorted(found.placed)
    assert [place for place, _ in placed] == list(range(found.count))
    return [sentence for _, sentence in placed]


@pytest.mark.parametrize("limit", [None, 25, 100_000])
@pytest.mark.parametrize("run", [16_000_000, 300])
def test_the_same_sentences_as_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None, run: int
) -> None:
    """Also where they come in many runs, of which only a few are open at once."""
    monkeypatch.setattr(stream, "_RUN_CHARACTERS", run)
    monkeypatch.setattr(stream, "_MOST_RUNS", 5)
    repeated = texts(150)
    path = write(tmp_path / "a.jsonl", [*repeated, *(x.upper() for x in repeated[:70]), *texts(60, seed=1)])
    source = Source(path=path, text=("body",))
    exclude = (Row(texts=(repeated[3],)), Row(texts=("The plot of. IS WARM clever",)))
    text = TransferText(source=source, min_words=2, max_words=6, limit=limit, seed=5)
    wanted = sentences(read_rows(source), min_words=2, max_words=6, limit=limit or 10**9, seed=5, exclude=exclude)
    assert streamed(text, tmp_path, exclude) == wanted
    assert len(wanted) > 20
    assert [x.name for x in tmp_path.iterdir()] == ["a.jsonl"], "runs are gone"


@pytest.mark.parametrize("kind", ["csv", "parquet", "txt"])
def test_every_format(tmp_path: Path, kind: str) -> None:
    lines = ["It was good. It was long.", "And so on it went."]
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"text": lines, "n": [1, 2]}), path)
    else:
        path.write_text("\n".join([*(["text"] if kind == "csv" else []), *lines]) + "\n")
    found = streamed(TransferText(source=Source(path=str(path)), min_words=2), tmp_path)
    assert sorted(found) == ["And so on it went.", "It was good.", "It was long."]


def test_wikitext_becomes_plain_text(tmp_path: Path) -> None:
    path = tmp_path / "wiki.train.raw"
    path.write_text(
        " \n = Valkyria Chronicles III = \n \n It is a tactical role @-@ playing game of 1 @,@ 000 units . \n"
    )
    source = Source(path=str(path))
    assert streamed(TransferText(source=source, wikitext=True), tmp_path) == [
        "It is a tactical role-playing game of 1,000 units ."
    ]
    assert len(streamed(TransferText(source=source), tmp_path)) == 2


def test_a_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    path = write(tmp_path / "a.jsonl", texts(5))
    same, changed = write(tmp_path / "other" / "b.jsonl", texts(5)), write(tmp_path / "c.jsonl", texts(6))
    first = TransferText(source=Source(path=path, text=("body",)))
    assert TransferText(source=Source(path=same, text=("body",))).fingerprint() == first.fingerprint()
    others = [
        TransferText(source=Source(path=changed, text=("body",))),
        TransferText(source=first.source, seed=2),
        TransferText(source=first.source, limit=7),
        TransferText(source=first.source, min_words=5),
        TransferText(source=first.source, wikitext=True),
        TransferText(source=Source(path=path, text=("title",))),
    ]
    assert len({x.fingerprint() for x in (first, *others)}) == 1 + len(others)


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ["Too short."])
    with pytest.raises(DataError, match="no sentence of 4 to 40 words in 1 texts"):
        streamed(TransferText(source=Source(path=path, text=("body",))), tmp_path)
    with pytest.raises(DataError, match='no column "text"'):
        streamed(TransferText(source=Source(path=path)), tmp_path)
    with pytest.raises(DataError, match="has no labels"):
        TransferText(source=Source(path=path, label="label"))
    with pytest.raises(DataError, match="1 <= min_words"):
        TransferText(source=Source(path=path), min_words=9, max_words=3)
    with pytest.raises(DataError, match="limit must be 1"):
        TransferText(source=Source(path=path), limit=0)
    write(tmp_path / "empty.jsonl", [])
    with pytest.raises(DataError, match="has no rows"):
        streamed(TransferText(source=Source(path=str(tmp_path / "empty.jsonl"), text=("body",))), tmp_path)
    assert {x.name for x in tmp_path.iterdir()} == {"a.jsonl", "empty.jsonl"}
