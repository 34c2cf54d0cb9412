"""`atb` in several processes that meet over gloo, as `torchrun` starts them, without what it takes to start.

python launcher.py COUNT DIE_AT -- COMMAND ... [-- DIE_AT -- COMMAND ...]

The processes are forked from one that has imported what they need, each launch after the one before. DIE_AT is the step
after whose checkpoint the first process is killed, or 0. Prints a JSON line for each launch: exit codes, and what each
process said on stdout and stderr. As under `torchrun`, who is left is ended once one failed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import atb_export.distilling  # noqa: F401  # before the fork
import supernet.training
from atb_export.cli import main


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def die_after(step: int) -> None:
    real = supernet.training.save_training

    def save(*arguments: Any, **more: Any) -> None:
        real(*arguments, **more)
        if more["step"] == step:
            os.kill(os.getpid(), signal.SIGKILL)

    supernet.training.save_training = save


def one(rank: int, count: int, port: int, folder: Path, command: list[str], die_at: int) -> int:
    """Returns its process id; in the process itself it never returns."""
    if process := os.fork():
        return process
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(folder / f"{name}{rank}", os.O_WRONLY | os.O_CREAT), number)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if die_at:
        die_after(die_at)
    try:
        main(command)
    except SystemExit as ended:  # of a launch of one process
        os._exit(int(ended.code or 0))
    raise AssertionError("main exits")


def launch(count: int, command: list[str], die_at: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        port = free_port()
        left = {one(rank, count, port, Path(name), command, die_at): rank for rank in range(count)}
        codes, ends = [0] * count, None
        while left:
            for process, rank in tuple(left.items()):
                found, status = os.waitpid(process, os.WNOHANG)
                if found:
                    del left[process]
                    codes[rank] = os.waitstatus_to_exitcode(status)
                    if codes[rank] and ends is None:
                        ends = time.monotonic() + 10
            if ends is not None and time.monotonic() > ends:
                for process in left:
                    os.kill(process, signal.SIGTERM)
            time.sleep(0.01)
        told = [[(Path(name) / f"{x}{rank}").read_text() for x in ("out", "err")] for rank in range(count)]
    return {"codes": codes, "out": [x[0] for x in told], "err": [x[1] for x in told]}


if __name__ == "__main__":
    plan = " ".join(sys.argv[2:]).split(" -- ")
    for die_at, command in zip(plan[::2], plan[1::2], strict=True):
        print(json.dumps(launch(int(sys.argv[1]), command.split(), int(die_at))), flush=True)
