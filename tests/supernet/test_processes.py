"""What processes tell each other, with threads in their place and a store in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from torch.distributed import HashStore

from supernet.errors import ProcessesError
from supernet.processes import ALONE, Processes, launched


def together(count: int) -> list[Processes]:
    store, found = HashStore(), []
    for rank in range(count):
        found.append(Processes(count=count, rank=rank, here=count))
        found[-1].__dict__["_store"] = store
    return found


def all_at_once(*calls: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [x.result(timeout=20) for x in [pool.submit(call) for call in calls]]


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, (1, 0, 1)),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, (1, 0, 1)),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}, (8, 5, 4)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, (2, 1, 2)),
        ({"RANK": "1", "WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "9"}, (2, 1, 1)),
        ({"WORLD_SIZE": ""}, (1, 0, 1)),
    ],
)
def test_the_launcher_is_read_from_the_environment(
    environment: dict[str, str], wanted: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = launched.__wrapped__()
    assert (found.count, found.rank, found.here) == wanted
    assert found.is_main == (wanted[1] == 0)


def test_a_rank_lies_within_the_count() -> None:
    for rank in (-1, 2):
        with pytest.raises(ValueError, match="one of at least one"):
            Processes(count=2, rank=rank)


def test_one_alone_waits_for_nobody_and_meets_nobody() -> None:
    ALONE.tell("name", 1)
    ALONE.wait()
    ALONE.leave()
    ALONE.interrupted()
    assert ALONE.fails()
    assert "_store" not in ALONE.__dict__


def test_what_is_told_is_heard_by_all_before_and_after() -> None:
    first, second, third = together(3)
    value = {"a": [1, None, "x"]}
    heard: list[Any] = []
    early = threading.Thread(target=lambda: heard.append(second.hear("name")))
    early.start()
    first.tell("name", value)
    early.join(20)
    assert heard == [value]
    assert third.hear("name") == value


def test_nobody_goes_on_before_all_are_here() -> None:
    here: list[int] = []

    def arrive(one: Processes) -> int:
        for _ in range(3):
            here.append(one.rank)
            one.wait()
        seen = len(here)
        one.leave()
        return seen

    assert all_at_once(*(lambda x=x: arrive(x) for x in together(3))) == [9, 9, 9]


def test_the_first_to_fail_says_so_and_all_who_wait_end() -> None:
    first, second, third = together(3)
    for one in (first, second):
        assert one.fails() == (one is first)
    for wait in (third.wait, lambda: third.hear("nothing")):
        with pytest.raises(ProcessesError, match="another of 3 processes failed"):
            wait()
    assert not third.fails()


def test_a_store_that_is_gone_ends_who_waits() -> None:
    class Gone:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("Connection reset by peer")

    one = Processes(count=2, rank=1)
    one.__dict__["_store"] = Gone()
    with pytest.raises(ProcessesError, match="the first of 2 processes is gone"):
        one.hear("name")
    assert not one.fails()
