"""What a teacher says about texts: asked anew at every step, or once and kept where that is cheaper.

Kept answers are computed for all texts at once, shortest first, which pads hardly at all; then a step reads its rows.
That pays once a training looks at its texts more than once, and for what is small enough: logits, and hidden states
within a bound of bytes. Attention scores and projections are never kept: scores grow with the square of the length, and
both come with the very forward pass that keeping was to save.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from supernet.batches import TokenizedTexts
from supernet.engine import Engine
from supernet.errors import CheckpointError
from supernet.model import Supernet, SupernetOutput

_KEEPS = ("hidden_states",)


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """Stands in for calling the teacher: `answers(rows, batch, **asks)` is what `teacher(**batch, **asks)` says.

        answers = Answers(teacher=teacher, texts=texts, asks=weights.asks, visits=steps * rows_a_step, folder=folder)
        answer = answers(rows, engine.place(texts.batch(rows)), **weights.asks)

    Where `kept` is false that is the very call, without gradients; where it is true, kept values are read instead. They
    differ in the last digits (other padding), and are of the texts as they are: a batch with masked words must be put
    to the teacher itself. `visits` are the rows that the training looks at in all: nothing is kept unless they are more
    than the texts. In `folder` the values are files, mapped into memory and found again by a resumed run; without one
    they are in memory. Several processes call `prepare` together before they train; `remove` deletes the files.
    """

    teacher: Supernet
    texts: TokenizedTexts
    asks: Mapping[str, bool]
    visits: int = 0
    folder: Path | None = None
    max_bytes: int = 2 * 2**30
    batch_size: int = 64
    engine: Engine | None = None

    @torch.no_grad()
    def __call__(self, rows: Sequence[int], batch: Mapping[str, Tensor], **asks: bool) -> SupernetOutput:
        """The answers about these rows, whose batch is given: as wide as it, on its device."""
        if not self.kept or any(asks[x] and not self.asks.get(x) for x in asks):
            answer: SupernetOutput = self.teacher(**batch, **asks)
            return answer
        ids = batch["input_ids"]
        logits = self._read("logits", rows, ids)
        states = self._read("hidden_states", rows, ids).unbind(-2) if asks.get("hidden_states") else ()
        return SupernetOutput(logits=logits, hidden_states=tuple(states))

    def __getitem__(self, rows: Sequence[int]) -> Tensor:
        """Float32 logits of these rows: [rows, labels], or [rows, longest, labels] of tokens."""
        return self(rows, self._engine.place(self.texts.batch(rows))).logits.float()

    @cached_property
    def kept(self) -> bool:
        """Whether keeping is possible and cheaper than asking."""
        if any(on and name not in _KEEPS for name, on in self.asks.items()):
            return False
        return self.visits > len(self.texts) and sum(x.bytes for x in self._tables.values()) <= self.max_bytes

    @property
    def path(self) -> Path | None:
        """Where the logits' file is; it is named by the teacher's weights, the texts and the precision."""
        return None if self.folder is None else self._file("logits")

    def prepare(self) -> None:
        """Makes what is kept now instead of at the first call; several processes do it together, before they train."""
        if self.kept:
            _ = self._values

    # --- making --------------------------------------------------------------------------------------------------

    @cached_property
    def _engine(self) -> Engine:
        return self.engine or Engine(local=True)

    @cached_property
    def _starts(self) -> list[int]:
        """Where each text's tokens start among all tokens; and their number."""
        return list(itertools.accumulate(self.texts.lengths, initial=0))

    @cached_property
    def _tables(self) -> dict[str, _Table]:
        """What is kept: one entry a text, or one a token."""
        facts, shape = self.teacher.facts, self.teacher.shape
        by_text = facts.head == "sequence"
        count = len(self.texts) if by_text else self._starts[-1]
        tables = {"logits": _Table(by_text=by_text, shape=(count, facts.num_logits), dtype="float32")}
        if self.asks.get("hidden_states"):
            # Under autocast the states themselves are known to bf16's 8 bits at best; float16 has 11.
            dtype = "float32" if self._engine.dtype is None else "float16"
            size = (self._starts[-1], shape.depth + 1, shape.hidden_size)
            tables["hidden_states"] = _Table(by_text=False, shape=size, dtype=dtype)
        return tables

    @cached_property
    def _key(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in self.teacher.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        for lists in (self.texts.input_ids, self.texts.token_type_ids or ()):
            for ids in lists:
                digest.update(array("q", [len(ids), *ids]))
        digest.update(json.dumps([str(self._engine.dtype), self.teacher.facts.to_json(), 1]).encode())
        return digest.hexdigest()[:16]

    def _file(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"answers-{self._key}-{name}.npy"

    @cached_property
    def _values(self) -> dict[str, np.ndarray[Any, Any]]:
        """The tables, made on first use: by the first process alone where they are files."""
        if self.folder is None:
            values = {name: np.empty(x.shape, x.dtype) for name, x in self._tables.items()}
            self._fill(values)
            return values
        if self._engine.is_main and not all(self._whole(name) for name in self._tables):
            self._write()
        self._engine.wait()
        return {name: np.load(self._file(name), mmap_mode="r", allow_pickle=False) for name in self._tables}

    def _whole(self, name: str) -> bool:
        try:
            found = np.load(self._file(name), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError):
            return False
        return bool(found.shape == self._tables[name].shape and found.dtype == self._tables[name].dtype)

    def _write(self) -> None:
        aside = {name: self._file(name).with_name(f".{self._file(name).name}.partial") for name in self._tables}
        try:
            for path in aside.values():
                path.parent.mkdir(parents=True, exist_ok=True)
            values: dict[str, np.ndarray[Any, Any]] = {}
            for name, x in self._tables.items():
                values[name] = np.lib.format.open_memmap(aside[name], mode="w+", dtype=x.dtype, shape=x.shape)
                with aside[name].open("rb+") as file:  # a disk that is too small is told now, not by a bus error later
                    os.posix_fallocate(file.fileno(), 0, aside[name].stat().st_size)
            self._fill(values)
            for name, path in aside.items():
                values.pop(name).flush()  # type: ignore[attr-defined]
                path.replace(self._file(name))
        except OSError as error:
            for path in aside.values():
                path.unlink(missing_ok=True)
            raise CheckpointError(
                f"cannot keep the teacher's answers in {self.folder}: {error}. Free some space or choose another "
                "output."
            ) from error

    @torch.no_grad()
    def _fill(self, values: Mapping[str, np.ndarray[Any, Any]]) -> None:
        engine = self._engine
        for rows, batch in self.texts.in_order(self.batch_size):
            with engine.autocast():
                answer: SupernetOutput = self.teacher(**engine.place(batch), hidden_states="hidden_states" in values)
            found = {"logits": answer.logits}
            if answer.hidden_states:
                found["hidden_states"] = torch.stack(answer.hidden_states, dim=-2)
            for name, table in values.items():
                block = found[name].float().cpu().numpy()
                if self._tables[name].by_text:
                    table[rows] = block
                    continue
                for i, row in enumerate(rows):
                    start, end = self._starts[row], self._starts[row + 1]
                    table[start:end] = block[i, : end - start]

    # --- reading -------------------------------------------------------------------------------------------------

    def _read(self, name: str, rows: Sequence[int], ids: Tensor) -> Tensor:
        """[rows, ...] or [rows, width, ...] with zeros for padding, as wide as `ids` and on its device."""
        table = self._values[name]
        if self._tables[name].by_text:
            return torch.from_numpy(table[list(rows)]).to(ids.device)
        found = np.zeros((len(rows), ids.shape[1], *table.shape[1:]), table.dtype)
        for i, row in enumerate(rows):
            start, end = self._starts[row], min(self._starts[row + 1], self._starts[row] + ids.shape[1])
            found[i, : end - start] = table[start:end]
        return torch.from_numpy(found).to(ids.device).float()


@dataclass(frozen=True, kw_only=True)
class _Table:
    """What is kept under a name."""

    by_text: bool
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize
