from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import HashStore

import atb_export.workspace
from atb_export.errors import WorkspaceError
from atb_export.workspace import Workspace, fingerprint_of
from supernet.processes import Processes


class Maker:
    """Counts its calls and writes two files."""

    def __init__(self) -> None:
        self.calls = 0
        self.found: list[str] = []

    def __call__(self, folder: Path) -> dict[str, Any]:
        self.calls += 1
        self.found = sorted(x.name for x in folder.iterdir())
        (folder / "deep").mkdir(exist_ok=True)
        (folder / "deep" / "weights.bin").write_bytes(b"0123456789")
        (folder / "notes.txt").write_text("made")
        return {"answer": 42}


class Killed(BaseException):
    """Stands for a kill: nothing after it runs."""


def test_a_stage_is_made_once(tmp_path: Path) -> None:
    make = Maker()
    with Workspace.open(tmp_path / "run", resume=False) as run:
        made = run.stage("one", ["inputs", 1], make)
    with Workspace.open(tmp_path / "run", resume=True) as run:
        read = run.stage("one", ["inputs", 1], make)
        assert run.seconds == {"one": made.seconds}
    assert make.calls == 1
    assert made == read
    assert read.result == {"answer": 42}
    assert (read.folder / "deep" / "weights.bin").is_file()


def test_other_inputs_wipe_the_stage(tmp_path: Path) -> None:
    make = Maker()
    with Workspace.open(tmp_path, resume=False) as run:
        first = run.stage("one", 1, make)
        second = run.stage("one", 2, make)
    assert make.calls == 2
    assert make.found == ["started.json"]
    assert first.fingerprint != second.fingerprint
    assert json.loads((tmp_path / "stages/one/done.json").read_text())["fingerprint"] == second.fingerprint


def test_an_interrupted_stage_is_continued_only_for_the_same_inputs(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> dict[str, Any]:
        (folder / "checkpoint").write_text("half")
        raise Killed

    make = Maker()
    with Workspace.open(tmp_path, resume=False) as run:
        for name in ("same", "other"):
            with pytest.raises(Killed):
                run.stage(name, 1, interrupted)
        run.stage("same", 1, make)
        assert make.found == ["checkpoint", "started.json"]
        run.stage("other", 2, make)
        assert make.found == ["started.json"]


@pytest.mark.parametrize("torn", [b"", b'{"fingerprint": "', b"[]", b"\xff\xfe", b"null"])
@pytest.mark.parametrize("marker", ["done.json", "started.json"])
def test_a_torn_marker_means_not_done(tmp_path: Path, marker: str, torn: bytes) -> None:
    make = Maker()
    with Workspace.open(tmp_path, resume=False) as run:
        run.stage("one", 1, make)
        (tmp_path / "stages/one" / marker).write_bytes(torn)
        assert run.stage("one", 1, make).result == {"answer": 42}
        assert make.calls == (2 if marker == "done.json" else 1)


@pytest.mark.parametrize("name", ["deep/weights.bin", "notes.txt"])
def test_one_flipped_byte_is_noticed_and_named(tmp_path: Path, name: str) -> None:
    make = Maker()
    with Workspace.open(tmp_path, resume=False) as run:
        stage = run.stage("one", 1, make)
        data = bytearray((stage.folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (stage.folder / name).write_bytes(data)
        with pytest.raises(WorkspaceError, match=rf"{name} changed since it was written.*Delete .*one and resume"):
            run.stage("one", 1, make)
        (stage.folder / name).unlink()
        with pytest.raises(WorkspaceError, match=f"{name} is gone"):
            run.stage("one", 1, make)
    assert make.calls == 1


def test_a_run_that_made_nothing_is_no_run_yet(tmp_path: Path) -> None:
    def fail(folder: Path) -> dict[str, Any]:
        raise ValueError("no such data")

    with pytest.raises(ValueError, match="no such data"), Workspace.open(tmp_path, resume=False) as run:
        run.stage("one", 1, fail)
    with Workspace.open(tmp_path, resume=False) as run:
        assert run.folder == tmp_path


def test_a_run_is_continued_only_when_asked(tmp_path: Path) -> None:
    with Workspace.open(tmp_path, resume=True) as run:
        run.stage("one", 1, Maker())
    with pytest.raises(WorkspaceError, match=r"already holds a run\. Continue it with --resume"):
        Workspace.open(tmp_path, resume=False).__enter__()


def test_a_second_process_is_locked_out_until_the_first_is_gone(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from atb_export.workspace import Workspace\n"
        f"with Workspace.open(Path({str(tmp_path)!r}), resume=True):\n"
        "    print('in', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(WorkspaceError, match="another process is working in"):
            Workspace.open(tmp_path, resume=True).__enter__()
        other.kill()
    with Workspace.open(tmp_path, resume=True) as run:
        assert run.folder == tmp_path


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError, match="cannot be written: "):
        Workspace.open(tmp_path / "file" / "run", resume=False).__enter__()


def test_fingerprints_tell_plain_data_apart() -> None:
    assert fingerprint_of("a", {"x": 1, "y": [2]}) == fingerprint_of("a", {"y": [2], "x": 1})
    assert len({fingerprint_of(x) for x in (["a", "b"], ["ab"], "ab", [1], ["1"], [1.5], None)}) == 7


# --- several processes: threads in their place -----------------------------------------------------------------------


def in_two(*calls: Callable[[Processes], Any]) -> list[Any]:
    """What each of two processes returns, or raises."""
    store = HashStore()

    def one(rank: int) -> Any:
        processes = Processes(count=2, rank=rank, here=2)
        processes.__dict__["_store"] = store
        try:
            return calls[rank % len(calls)](processes)
        except Exception as error:
            processes.fails()
            return error

    with ThreadPoolExecutor(2) as pool:
        return [x.result(timeout=30) for x in [pool.submit(one, rank) for rank in range(2)]]


def test_the_first_of_two_makes_and_the_other_reads(tmp_path: Path) -> None:
    makers = [Maker(), Maker()]

    def work(processes: Processes) -> Any:
        with Workspace.open(tmp_path, resume=False, processes=processes) as run:
            assert run.is_main == (processes.rank == 0)
            first = run.stage("one", 1, makers[processes.rank])
            again = run.stage("one", 1, makers[processes.rank])
            processes.wait()
            return first, again

    (made, _), (read, again) = in_two(work)
    assert [x.calls for x in makers] == [1, 0]
    assert made == read == again
    assert (tmp_path / "processes.json").is_file()


def test_both_make_together_in_one_folder(tmp_path: Path) -> None:
    def work(processes: Processes) -> Any:
        def make(folder: Path) -> dict[str, Any]:
            inner = run.stage("inner", 1, lambda _: {"inner": True}, together=True)
            processes.wait()  # deadlocks unless both are here
            if run.is_main:
                (folder / "made").write_text("whole")
                return inner.result
            return {"other": "is left"}

        with Workspace.open(tmp_path, resume=True, processes=processes) as run:
            stage = run.stage("outer", 1, make, together=True)
            text = (stage.folder / "made").read_text()
            processes.wait()
            return stage.result, text

    assert in_two(work) == [({"inner": True}, "whole")] * 2
    assert in_two(work) == [({"inner": True}, "whole")] * 2  # nobody waits for what is done


def test_what_is_kept_in_files_is_found_by_the_first_first(tmp_path: Path) -> None:
    order: list[int] = []

    def work(processes: Processes) -> Any:
        with Workspace.open(tmp_path, resume=True, processes=processes) as run:
            found = run.first("texts", lambda: order.append(processes.rank) or processes.rank)
            processes.wait()
            return found

    assert in_two(work) == [0, 1]
    assert order == [0, 1]


def test_processes_of_other_inputs_are_refused(tmp_path: Path) -> None:
    def work(processes: Processes) -> Any:
        with Workspace.open(tmp_path, resume=True, processes=processes) as run:
            run.stage("one", f"rows of {processes.rank}", Maker())

    _, error = in_two(work)
    assert isinstance(error, WorkspaceError)
    assert "process 2 of 2: the first says that one is done, but of other inputs" in str(error)


def test_processes_that_see_other_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atb_export.workspace, "_UNSEEN_S", 0.2)

    def work(processes: Processes) -> Any:
        with Workspace.open(tmp_path / str(processes.rank), resume=True, processes=processes) as run:
            processes.wait()
            return run

    errors = in_two(work)
    assert "must see the same files. Put the output on a folder that all machines share" in str(errors[1])


def test_a_run_is_trained_by_as_many_processes_as_began_it(tmp_path: Path) -> None:
    def work(processes: Processes) -> Any:
        with Workspace.open(tmp_path, resume=True, processes=processes) as run:
            stage = run.stage("trained", 1, lambda _: {}, together=True)
            processes.wait()
            return run.trains, stage.result

    assert in_two(work) == [(2, {})] * 2
    with Workspace.open(tmp_path, resume=True) as run:
        assert run.trains == 2
        assert run.stage("trained", 1, Maker(), together=True).result == {}
        assert run.stage("measured", 1, Maker()).result == {"answer": 42}
        with pytest.raises(
            WorkspaceError, match=r"begun by 2 .* goes on in 1, .*'more' is not trained yet.*with 2, or"
        ):
            run.stage("more", 1, Maker(), together=True)
    with Workspace.open(tmp_path / "new", resume=False) as run:
        assert run.trains == 1
        assert not (tmp_path / "new" / "processes.json").exists()
