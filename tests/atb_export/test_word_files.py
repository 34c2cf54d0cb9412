"""One file for each hidden size, as the graphs beside it name it; few of them at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import atb_export.word_files
from atb_export.word_files import WordFiles
from supernet.facts import ModelFacts
from supernet.model import Supernet
from supernet.space import SubnetConfig


def net(seed: int, vocabulary: int = 50) -> Supernet:
    torch.manual_seed(seed)
    shape = SubnetConfig.uniform(hidden_size=16, depth=1, heads=2, head_size=8, ffn_size=32)
    return Supernet(shape=shape, facts=ModelFacts(vocab_size=vocabulary, max_position_embeddings=32)).eval()


@pytest.mark.parametrize("vocabulary", [50, 1024, 2500])
def test_a_file_is_the_table_cut_to_the_size_row_after_row(tmp_path: Path, vocabulary: int) -> None:
    model = net(0, vocabulary)
    table = np.fromfile(WordFiles(tmp_path).file(model, 12), np.float32).reshape(vocabulary, 12)
    np.testing.assert_array_equal(table, model.embedding_weights(12).word.detach().numpy())


def test_it_is_written_once_and_nets_do_not_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []
    real = atb_export.word_files._write
    monkeypatch.setattr(atb_export.word_files, "_write", lambda table, path: written.append(path) or real(table, path))
    files, one, other = WordFiles(tmp_path), net(0), net(1)
    places = [files.file(x, size) for x in (one, other) for size in (8, 12) for _ in range(2)]
    assert len(set(places)) == len(written) == 4
    assert files.file(one, 8).read_bytes() != files.file(other, 8).read_bytes()


def test_the_least_recently_asked_for_goes_and_may_come_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atb_export.word_files, "_MOST", 2)
    files, model = WordFiles(tmp_path), net(0)
    first = files.file(model, 4)
    content = first.read_bytes()
    files.file(model, 8)
    files.file(model, 4)
    gone = tmp_path / files.file(model, 12).name.replace("-12", "-8")
    assert not gone.exists()
    assert first.is_file()
    assert len(list(tmp_path.iterdir())) == 2
    files.file(model, 8), files.file(model, 16)
    assert files.file(model, 4).read_bytes() == content
