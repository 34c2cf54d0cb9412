"""The nine tasks of GLUE in their official layouts, written here line for line as the official files are."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from supernet.data.glue import GLUE, glue_task, read_glue
from supernet.data.rows import Row
from supernet.errors import DataError
from supernet.metrics import Metrics

_MNLI = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse"
)
# Folder, file: header and two rows; then the texts and the label of the second.
OFFICIAL: dict[str, tuple[str, str, str, tuple[str, ...], Any]] = {
    "cola": (
        "CoLA",
        "dev",
        'gj04\t1\t\tThe sailors rode.\ngj04\t0\t*\tThe "more ate.\n',
        ('The "more ate.',),
        "unacceptable",
    ),
    "sst2": ("SST-2", "dev", "sentence\tlabel\nit 's fine \t1\nbleak \t0\n", ("bleak ",), "negative"),
    "mrpc": (
        "MRPC",
        "dev",
        '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t13\t14\tHe said .\t" He said .\n0\t2\t3\tA .\tB .\n',
        ("A .", "B ."),
        "not_equivalent",
    ),
    "stsb": (
        "STS-B",
        "dev",
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        "0\tmain\tMSRvid\t2012test\t0000\tnone\tnone\tA man.\tA person.\t5.000\n"
        "1\tmain\tMSRvid\t2012test\t0002\tnone\tnone\tA child.\tA horse.\t0.750\n",
        ("A child.", "A horse."),
        0.75,
    ),
    "qqp": (
        "QQP",
        "dev",
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
        "1\t2\t3\tWhy?\tWhy so?\t1\n4\t5\t6\tHow?\tWhen?\t0\n7\t8\t9\tcut\n",
        ("How?", "When?"),
        "not_duplicate",
    ),
    "mnli": (
        "MNLI",
        "dev_matched",
        f"{_MNLI}\tsentence1\tsentence2\tlabel1\tlabel2\tgold_label\n"
        "0\t1\t1n\tslate\t( a )\t( b )\t(ROOT a)\t(ROOT b)\tOne.\tTwo.\tneutral\tneutral\tneutral\n"
        "1\t2\t2c\tslate\t( a )\t( b )\t(ROOT a)\t(ROOT b)\tUp.\tDown.\tneutral\tcontradiction\tcontradiction\n",
        ("Up.", "Down."),
        "contradiction",
    ),
    "qnli": (
        "QNLI",
        "dev",
        "index\tquestion\tsentence\tlabel\n0\tWho?\tHe.\tentailment\n1\tWhen?\tNo.\tnot_entailment\n",
        ("When?", "No."),
        "not_entailment",
    ),
    "rte": (
        "RTE",
        "dev",
        "index\tsentence1\tsentence2\tlabel\n0\tDana has died.\tAn accident.\tnot_entailment\n1\tA.\tB.\tentailment\n",
        ("A.", "B."),
        "entailment",
    ),
    "wnli": (
        "WNLI",
        "dev",
        "index\tsentence1\tsentence2\tlabel\n0\tThe drain.\tThe hair.\t0\n1\tJane knocked.\tSusan did.\t1\n",
        ("Jane knocked.", "Susan did."),
        "entailment",
    ),
}


def write(folder: Path, name: str) -> Path:
    inner, file, content, *_ = OFFICIAL[name]
    (folder / inner).mkdir(parents=True)
    for split in ("train", file):
        (folder / inner / f"{split}.tsv").write_text(content, encoding="utf-8", newline="")
    return folder


@pytest.mark.parametrize("name", GLUE)
def test_the_official_layout(tmp_path: Path, name: str) -> None:
    write(tmp_path, name)
    task, (inner, file, _, texts, label) = glue_task(name), OFFICIAL[name]
    dev = next(iter(task.devs))
    assert task.devs[dev][0] == file
    for split in ("train", dev):
        rows = read_glue(name, split, path=str(tmp_path))
        assert len(rows) == 2
        assert rows[1] == Row(texts=texts, label=label)
        assert read_glue(name, split, path=str(tmp_path / inner)) == rows, "the task's own folder is as good"
    assert len(GLUE) == 9
    assert task.is_regression is (name == "stsb")
    Metrics(names=task.metrics)  # all of them exist, and of one kind
    assert (task.positive in task.labels) is ("f1" in task.metrics)


def test_official_metrics() -> None:
    assert {name: task.metrics[0] for name, task in GLUE.items()} == {
        "cola": "matthews",
        "sst2": "accuracy",
        "mrpc": "f1",
        "stsb": "spearman",
        "qqp": "f1",
        "mnli": "accuracy",
        "qnli": "accuracy",
        "rte": "accuracy",
        "wnli": "accuracy",
    }


def test_names_of_tasks() -> None:
    assert glue_task("SST-2") is glue_task("sst2") is GLUE["sst2"]
    assert glue_task("STS_B") is GLUE["stsb"]
    with pytest.raises(DataError, match="no task 'mnll'; did you mean \"mnli\"\\? Its nine are cola, sst2"):
        glue_task("mnll")


def test_both_dev_sets_of_mnli(tmp_path: Path) -> None:
    write(tmp_path, "mnli")
    with pytest.raises(DataError, match=r"there is no .*dev_mismatched\.tsv: .*dev_matched\.tsv, dev_mismatched\.tsv"):
        read_glue("mnli", "mismatched", path=str(tmp_path))
    content = OFFICIAL["mnli"][2].replace("Up.", "Aloft.")
    (tmp_path / "MNLI" / "dev_mismatched.tsv").write_text(content)
    assert read_glue("mnli", "mismatched", path=str(tmp_path))[1].texts[0] == "Aloft."
    assert read_glue("mnli", "matched", path=str(tmp_path))[1].texts[0] == "Up."
    with pytest.raises(DataError, match="mnli has the splits train, matched, mismatched; got 'dev'"):
        read_glue("mnli", "dev", path=str(tmp_path))


def test_what_is_not_there(tmp_path: Path) -> None:
    write(tmp_path, "rte")
    with pytest.raises(DataError, match=r"holds neither QNLI/ nor a train.tsv; it holds RTE"):
        read_glue("qnli", "train", path=str(tmp_path))
    with pytest.raises(DataError, match=r"there is no folder 'nowhere' for GLUE's rte.*Leave the path out"):
        read_glue("rte", "train", path="nowhere")
    (tmp_path / "RTE" / "train.tsv").write_text("index\tsentence1\tsentence2\tlabels\n0\ta\tb\tentailment\n")
    with pytest.raises(DataError, match='no column "label"; did you mean "labels"'):
        read_glue("rte", "train", path=str(tmp_path))
    (tmp_path / "RTE" / "train.tsv").write_text("index\tsentence1\tsentence2\tlabel\n0\ta\tb\thidden\n")
    with pytest.raises(DataError, match="labels of rte are entailment, not_entailment, got 'hidden'"):
        read_glue("rte", "train", path=str(tmp_path))
    (tmp_path / "RTE" / "train.tsv").write_text("index\tsentence1\tsentence2\tlabel\n")
    with pytest.raises(DataError, match="has no rows"):
        read_glue("rte", "train", path=str(tmp_path))


def test_only_qqp_leaves_broken_lines_out(tmp_path: Path) -> None:
    write(tmp_path, "qqp")
    assert len(read_glue("qqp", "train", path=str(tmp_path))) == 2
    write(tmp_path, "sst2")
    (tmp_path / "SST-2" / "train.tsv").write_text("sentence\tlabel\nit\t1\nmore\t0\t0\n")
    with pytest.raises(DataError, match="line 3"):
        read_glue("sst2", "train", path=str(tmp_path))


class Table:
    """As much of a data set of the hub as is read."""

    def __init__(self, columns: dict[str, list[Any]], names: list[str] | None) -> None:
        self.columns = columns
        self.column_names = list(columns)
        self.features = {x: types.SimpleNamespace(names=names if x == "label" else None) for x in columns}

    def select_columns(self, names: list[str]) -> list[dict[str, Any]]:
        count = len(next(iter(self.columns.values())))
        return [{name: self.columns[name][i] for name in names} for i in range(count)]


def test_the_hub_has_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, subset: str, split: str) -> Table:
        asked.append((name, subset, split))
        columns = {"premise": ["One.", "Up."], "hypothesis": ["Two.", "Down."], "label": [1, 2], "idx": [0, 1]}
        return Table(columns, ["entailment", "neutral", "contradiction"])

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load))
    assert read_glue("mnli", "matched") == read_glue("mnli", "matched", path=str(write(tmp_path, "mnli")))
    assert asked == [("nyu-mll/glue", "mnli", "validation_matched")]
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'atb-export\[hub\]'"):
        read_glue("mnli", "matched")
