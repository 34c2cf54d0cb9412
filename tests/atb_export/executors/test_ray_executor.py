"""A real Ray cluster of two nodes on this machine; the work itself is made up and quick."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'atb-export[ray]'")

from atb_export.executors.ray import ClusterError, RayExecutor  # noqa: E402
from atb_export.jobs import Failed, Measured, MeasureJob, Scored, ScoreJob  # noqa: E402
from runtime.target import EngineTarget, Shape  # noqa: E402
from search.store import EngineKey  # noqa: E402
from supernet.space import LayerConfig, SubnetConfig  # noqa: E402

TARGET = EngineTarget(backend="openvino", shape=Shape(batch=1, length=8))
NODE = {"num_cpus": 1, "resources": {"openvino-cpu": 1}, "object_store_memory": 100_000_000}


def subnet(number: int) -> SubnetConfig:
    return SubnetConfig(hidden_size=number, layers=(LayerConfig(source=0, heads=1, head_size=1, ffn_size=1),))


def measuring(*numbers: int, **changes: Any) -> list[MeasureJob]:
    return [MeasureJob(subnet=subnet(n), target=TARGET, reference=TARGET, **changes) for n in numbers]


@dataclass(frozen=True)
class Orders:
    """What the work of a test is: how long jobs take, where their spans are noted, what is special about some."""

    notes: Path
    seconds: float = 0.0
    hang: int | None = None
    crash: int | None = None
    home: str | None = None


class Cheap:
    """Latency and accuracy are functions of the number that a subnet is here."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.node = ray.get_runtime_context().get_node_id()
        with (orders.notes / "made").open("a") as file:
            file.write(f"{os.getpid()}\n")

    def measure(self, job: MeasureJob) -> Measured | Failed:
        assert job.subnet is not None
        number = job.subnet.hidden_size
        if self.orders.home is not None and self.node != self.orders.home:
            return Failed(reason=f"{self.node} is not at home", lasting=False)
        if number == self.orders.hang:
            (self.orders.notes / str(os.getpid())).touch()
            ctypes.PyDLL(None).sleep(1000)  # holds the interpreter, as a compiler may
        if number == self.orders.crash:
            os.kill(os.getpid(), signal.SIGKILL)
        begun = time.time()
        time.sleep(self.orders.seconds)
        with (self.orders.notes / "spans").open("a") as file:
            file.write(f"{self.node} {begun} {time.time()}\n")
        key = EngineKey(
            graph="0" * 64,
            target=job.target.label,
            effective_precision="f32",
            batch=1,
            length=8,
            threads=1,
            runtime="made up 1",
            hardware="0" * 12,
        )
        return Measured(key=key, ms=number / 10, ci_ms=(number / 11, number / 9), model_bytes=number, report={})

    def score(self, job: ScoreJob) -> Scored | Failed:
        time.sleep(self.orders.seconds)
        return Scored(accuracy=1 / job.subnet.hidden_size, rows=8, complete=True, correct=None)

    def close(self) -> None: ...


def expected(*numbers: int) -> list[float]:
    return [n / 10 for n in numbers]


def ms(results: Any) -> list[Any]:
    return [x.ms if isinstance(x, Measured) else x for x in results]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    made = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    made.add_node(**NODE)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


@contextlib.contextmanager
def executor(orders: Orders, **options: Any) -> Iterator[RayExecutor]:
    with contextlib.closing(RayExecutor(orders, targets=[TARGET], make=Cheap, **options)) as made:
        yield made


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while not holds() and time.monotonic() < until:
        time.sleep(0.05)
    return holds()


def hanging(notes: Path) -> list[int]:
    """The processes that hang in a job."""
    pids = [int(x.name) for x in notes.iterdir() if x.name.isdigit()]
    return [pid for pid in pids if Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_results_come_in_order_from_both_devices_one_at_a_time(cluster: Any, tmp_path: Path) -> None:
    with executor(Orders(notes=tmp_path, seconds=0.2)) as it:
        assert ms(it.measure(measuring(*range(1, 25)))) == expected(*range(1, 25))
        assert it.retried == 0
    spans: dict[str, list[tuple[float, float]]] = {}
    for line in (tmp_path / "spans").read_text().splitlines():
        node, begun, ended = line.split()
        spans.setdefault(node, []).append((float(begun), float(ended)))
    assert len(spans) == 2, "both nodes worked, though one may start late on a busy machine"
    for mine in spans.values():
        mine.sort()
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(mine)), "one at a time on each device"
    assert len((tmp_path / "made").read_text().splitlines()) == 2, "each worker process made its work once"


def test_accuracies_come_in_order(cluster: Any, tmp_path: Path) -> None:
    with executor(Orders(notes=tmp_path)) as it:
        found = list(it.score([ScoreJob(subnet=subnet(n)) for n in (3, 1, 2, 4)]))
    assert [x.accuracy for x in found if isinstance(x, Scored)] == [1 / 3, 1, 1 / 2, 1 / 4]


def test_a_hung_job_is_stopped_and_the_others_are_done(cluster: Any, tmp_path: Path) -> None:
    with executor(Orders(notes=tmp_path, hang=2), time_limit_s=1.0) as it:
        found = list(it.measure(measuring(1, 2, 3, 4)))
    assert ms([found[0], *found[2:]]) == expected(1, 3, 4)
    stopped = found[1]
    assert isinstance(stopped, Failed)
    assert not stopped.lasting
    assert "limit of 1 s" in stopped.reason
    assert within(10, lambda: not hanging(tmp_path))


def test_a_job_that_kills_its_workers_fails_alone_after_the_retries(cluster: Any, tmp_path: Path) -> None:
    with executor(Orders(notes=tmp_path, crash=2), max_retries=1) as it:
        found = list(it.measure(measuring(1, 2, 3)))
        assert it.retried == 1
    assert ms([found[0], found[2]]) == expected(1, 3)
    assert isinstance(found[1], Failed)
    assert not found[1].lasting
    assert "its worker was lost 2 times" in found[1].reason


def test_a_node_of_the_wrong_kind_gets_no_more_jobs(cluster: Any, tmp_path: Path) -> None:
    home = ray.get_runtime_context().get_node_id()
    with executor(Orders(notes=tmp_path, home=home)) as it:
        assert ms(it.measure(measuring(*range(1, 7)))) == expected(*range(1, 7))
    with executor(Orders(notes=tmp_path, home="elsewhere")) as it:
        found = list(it.measure(measuring(1, 2)))
    assert all(isinstance(x, Failed) and not x.lasting for x in found)
    assert str(found[0]).count("is not at home") == 2, "the reason of each node"


def test_an_error_of_the_work_itself_is_raised(cluster: Any, tmp_path: Path) -> None:
    with executor(Orders(notes=tmp_path)) as it, pytest.raises(AssertionError):
        list(it.measure([replace(measuring(1)[0], subnet=None)]))


def test_what_no_node_has_is_refused_at_once(cluster: Any, tmp_path: Path) -> None:
    gpu = replace(TARGET, backend="tensorrt", device="current")
    with pytest.raises(ClusterError, match=r"offers tensorrt-h200: .*CPU 1, openvino-cpu 1; "):
        RayExecutor(None, targets=[gpu], resources={"tensorrt-current": "tensorrt-h200"})
    with pytest.raises(ValueError, match="the targets are on openvino-CPU"):
        RayExecutor(None, targets=[TARGET], resources={"openvino-cpu": "x"})
    with executor(Orders(notes=tmp_path)) as it, pytest.raises(ClusterError, match="offers tensorrt-current"):
        it.measure([replace(measuring(1)[0], target=gpu)])


def test_leaving_early_or_closing_leaves_no_task_behind(cluster: Any, tmp_path: Path) -> None:
    with executor(Orders(notes=tmp_path, hang=2)) as it:
        results = it.measure(measuring(1, 2, 2, 2))
        assert ms([next(results)]) == expected(1)
        assert within(10, lambda: len(hanging(tmp_path)) == 2)
        results.close()  # type: ignore[attr-defined]
        assert within(10, lambda: not hanging(tmp_path))
        assert ms(it.measure(measuring(1, 3))) == expected(1, 3), "the devices are free again"
        never_begun = it.measure(measuring(2, 2))
        assert within(10, lambda: len(hanging(tmp_path)) == 2)
    assert within(10, lambda: not hanging(tmp_path))
    with pytest.raises(ClusterError, match="closed"):
        next(never_begun)


def test_another_address_is_refused_while_one_is_joined(cluster: Any) -> None:
    with pytest.raises(ClusterError, match="joined a Ray cluster already"):
        RayExecutor(None, targets=[TARGET], address="auto")


PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit it ignored
from atb_export.executors.ray import RayExecutor
from test_ray_executor import Cheap, Orders, TARGET, measuring, ms, Path
if {carried}:
    import ray, test_ray_executor
    ray.cloudpickle.register_pickle_by_value(test_ray_executor)
it = RayExecutor(Orders(notes=Path({notes!r}), hang=2), targets=[TARGET], address={address!r}, make=Cheap)
try:
    print(ms(it.measure(measuring(1, 3, 4))), flush=True)
    list(it.measure(measuring(2, 2, 2)))
except KeyboardInterrupt:
    it.close()
    print("stopped")
"""


def start(address: str, notes: Path, *, carried: bool = True) -> subprocess.Popen[str]:
    """A driver of its own; without `carried` the nodes of the cluster lack the package of its work."""
    code = PROGRAM.format(notes=str(notes), address=address, carried=carried)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)


def test_a_driver_that_is_interrupted_leaves_no_task_behind(cluster: Any, tmp_path: Path) -> None:
    with start(cluster.address, tmp_path) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline().strip() == str(expected(1, 3, 4))
        assert within(30, lambda: len(hanging(tmp_path)) == 2)
        driver.send_signal(signal.SIGINT)
        assert driver.communicate(timeout=30)[0].strip() == "stopped"
    assert within(10, lambda: not hanging(tmp_path))


def test_nodes_that_lack_a_package_are_named(cluster: Any, tmp_path: Path) -> None:
    with start(cluster.address, tmp_path, carried=False) as driver:
        said = driver.communicate(timeout=60)[0]
    assert said.count("a package is missing there: ModuleNotFoundError: No module named 'test_ray_executor'") == 6


def test_a_killed_node_changes_no_result(cluster: Any, tmp_path: Path) -> None:
    """Last, for it takes one of the nodes."""
    (node,) = cluster.worker_nodes
    with executor(Orders(notes=tmp_path, seconds=0.5)) as it:
        results = it.measure(measuring(*range(1, 13)))
        first = next(results)
        power_cut(node)
        assert ms([first, *results]) == expected(*range(1, 13))
        assert it.retried >= 1


def power_cut(node: Any) -> None:
    """Kills a node's raylet and all processes it started, at once."""
    (raylet,) = [x.process.pid for x in node.all_processes["raylet"]]
    children = Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()
    for pid in (raylet, *map(int, children)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
