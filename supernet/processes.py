"""The processes that a launcher started together (`torchrun`, `accelerate launch`, `mpirun`), and what they tell each
other beside numbers: that something is done, that all are here, that one of them failed.

What is told lies under a name in the store by which PyTorch's processes meet, for whoever asks, whenever. So the first
process may work alone for hours without a collective of the others that times out, and who is late misses nothing.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import count as numbers
from typing import Any

from supernet.errors import ProcessesError

# What launchers call them: torchrun and accelerate, then the MPIs, as Accelerate reads them.
_RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_COUNT = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_HERE = ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE")
_FAILED = "failed"
_LONGEST_PAUSE_S = 0.25


@dataclass(frozen=True, kw_only=True, eq=False)
class Processes:
    """`count` of them, of which this is number `rank`; `here` are on this machine. The first, of rank 0, writes and
    speaks.

    Every method is for all of them; where there is one alone none does anything. Waiting has no time limit, but ends
    with `ProcessesError` once a process has said that it failed, or the store is gone with the process that kept it.
    """

    count: int = 1
    rank: int = 0
    here: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.count or self.here < 1:
            raise ValueError(f"a process is one of at least one, and some are here; got {self}")

    @property
    def is_main(self) -> bool:
        """Whether this is the first."""
        return self.rank == 0

    def tell(self, name: str, value: object = None) -> None:
        """Plain data for whoever hears this name, now or later."""
        if self.count > 1:
            self._store.set(name, json.dumps(value))

    def hear(self, name: str) -> Any:
        """What was told under this name, as soon as it is."""
        self._until(lambda: self._store.check([name]))
        return json.loads(self._store.get(name))

    def wait(self) -> None:
        """Until all are here; all call it the same number of times."""
        if self.count > 1:
            name = f"here {next(self._waits)}"
            self._store.add(name, 1)
            self._until(lambda: self._store.add(name, 0) >= self.count)

    def leave(self) -> None:
        """The last call: the first process, which may keep the store, goes last."""
        if self.count == 1:
            return
        if self.is_main:
            self._until(lambda: self._store.add("left", 0) >= self.count - 1)
        else:
            self._store.add("left", 1)

    def fails(self) -> bool:
        """Whether this process is the first of all to fail, and therefore the one that says why."""
        if self.count == 1:
            return True
        try:
            return bool(self._store.add(_FAILED, 1) == 1)
        except (RuntimeError, ProcessesError):  # the store went with the process that failed
            return False

    def interrupted(self) -> None:
        """Keeps the others from telling of a failure where somebody interrupted this process."""
        if "_store" in self.__dict__:
            self.fails()

    def _until(self, met: Callable[[], bool]) -> None:
        pause = 0.005
        while True:
            try:
                if met():
                    return
                failed = self._store.check([_FAILED])
            except RuntimeError as error:
                raise ProcessesError(f"the first of {self.count} processes is gone; resume with --resume") from error
            if failed:
                raise ProcessesError(f"another of {self.count} processes failed; resume with --resume")
            time.sleep(pause)  # not within the store: an interrupt is to end it
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    @cached_property
    def _waits(self) -> Any:
        return numbers()

    @cached_property
    def _store(self) -> Any:
        from torch.distributed import PrefixStore  # type: ignore[attr-defined]
        from torch.distributed.rendezvous import rendezvous

        os.environ.setdefault("MASTER_PORT", "29500")
        if self.here == self.count:
            os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        try:
            store, _, _ = next(rendezvous("env://", self.rank, self.count))
        except (RuntimeError, ValueError) as error:
            raise ProcessesError(f"{self.count} processes cannot meet: {error}") from error
        return PrefixStore("atb", store)


ALONE = Processes()


@cache
def launched() -> Processes:
    """What the environment says of them; one where no launcher was."""
    count = _number(_COUNT, 1)
    return Processes(count=count, rank=_number(_RANK, 0), here=_number(_HERE, 1)) if count > 1 else ALONE


def _number(names: tuple[str, ...], default: int) -> int:
    found = [int(os.environ[x]) for x in names if os.environ.get(x, "").isdigit()]
    return found[0] if found else default
