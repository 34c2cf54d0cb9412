"""The word tables of measured graphs: one file for each hidden size, which many graphs name as their external data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from supernet.model import Supernet

_MOST = 12  # files kept, of some 40 MB each; an engine that maps a deleted one keeps its content
_ROWS = 1024  # copied at once: what stays in the caches needs no fresh memory, which costs more than the copy


class WordFiles:
    """Writes a net's word table, cut to a hidden size, at most once while it is among the last asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[tuple[int, int], Path] = {}
        self._nets: list[Supernet] = []  # held, so that no other ever has the identity of one of them

    def file(self, net: Supernet, hidden_size: int) -> Path:
        """Float32 [vocabulary, hidden_size], row after row."""
        if not any(net is known for known in self._nets):
            self._nets.append(net)
        key = (next(i for i, known in enumerate(self._nets) if known is net), hidden_size)
        path = self._files.pop(key, None)
        if path is None:
            while len(self._files) >= _MOST:
                self._files.pop(next(iter(self._files))).unlink()
            path = self.folder / f"words-{key[0]}-{hidden_size}"
            _write(net.embedding_weights(hidden_size).word, path)
        self._files[key] = path  # the last to go
        return path


@torch.no_grad()
def _write(table: torch.Tensor, path: Path) -> None:
    rows = np.empty((_ROWS, table.shape[1]), np.float32)
    with path.open("wb") as file:
        for part in torch.split(table.detach(), _ROWS):
            some = rows[: len(part)]
            some[:] = part.float().cpu().numpy()
            file.write(some.data)
