"""Jobs done on a Ray cluster: each measurement on a node that has the device, accuracies anywhere.

A node says what it has by custom resources, 1 for each device: `ray start --resources '{"openvino-spr": 1}'`. A
measurement takes 1 of its target's resource, so no device times two engines at once.

The driver chooses the node of every task and keeps the queue itself: Ray's own queue leaves devices idle (12 tasks on
two nodes went 10 : 2), gives jobs to a dead node until its heartbeats are missed, and does not say where a task was
lost. Ray carries jobs, inputs and results by its own pickling between the user's own machines; nothing is ever
unpickled from a file. Whoever can reach the ports of a Ray cluster can run code on it: keep them in a trusted network,
or let Ray ask for a token (`RAY_AUTH_MODE=token`, on every node and here).
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from atb_export.executors.ray_cluster import ClusterError, ClusterNode, connect, nodes
from atb_export.executors.ray_placement import Placement, Ticket, check_offers, resource_of
from atb_export.executors.ray_worker import Does, Starts, do
from atb_export.jobs import Failed, Measured, MeasureJob, Scored, ScoreJob
from atb_export.work import Work
from runtime.target import EngineTarget

__all__ = ["ClusterError", "RayExecutor", "resource_of"]

_Result = TypeVar("_Result", Measured, Scored)

_TICK_S = 0.5


class RayExecutor:
    """Does jobs on the cluster at `address`; without one, on the cluster this process has joined, or on this machine.

    `targets` are those that will be measured, in any precision. `resources` maps "BACKEND-DEVICE" to the name nodes
    use; targets that share a device must share a name. A job whose worker is lost is done again elsewhere,
    `max_retries` times; one that takes longer than `time_limit_s` on its worker is stopped, and so is its process.
    `make` builds what does the jobs from `inputs`, once in every worker process.

    Raises `ClusterError` where Ray or the cluster is missing, or no node offers what a target needs.
    """

    def __init__(
        self,
        inputs: Any,
        *,
        targets: Sequence[EngineTarget],
        address: str | None = None,
        resources: Mapping[str, str] | None = None,
        time_limit_s: float | None = 600.0,
        max_retries: int = 3,
        make: Callable[[Any], Does] = Work,
    ) -> None:
        if time_limit_s is not None and not time_limit_s > 0:
            raise ValueError(f"time_limit_s must be more than 0 or None, got {time_limit_s}")
        if max_retries < 0:
            raise ValueError(f"max_retries must be 0 or more, got {max_retries}")
        known = sorted({f"{x.backend}-{x.device}" for x in targets})
        if unknown := sorted(set(resources or {}) - set(known)):
            raise ValueError(f"resources name {', '.join(unknown)}, the targets are on {', '.join(known)}")
        self.names = dict(resources or {})
        self.time_limit_s, self.max_retries = time_limit_s, max_retries
        self.retried = 0
        self._calls: set[_Call[Any]] = set()
        self._numbers = itertools.count()
        self.placement = Placement()
        self._starts: Any = None
        devices = sorted({resource_of(x, self.names) for x in targets})
        self._ours = connect(address, devices)
        try:
            check_offers(targets, self.names, nodes())
            import ray

            self._inputs: Any = ray.put(inputs)
            self._make, self._do = make, ray.remote(do)
            # Beside the cluster's own records: the one node that is not lost without the cluster being lost.
            head = {"node:__internal_head__": 0.001}
            options = {"num_cpus": 0, "resources": head, "max_restarts": -1, "max_task_retries": -1}
            self._starts = ray.remote(Starts).options(**options).remote()
        except BaseException:
            self.close()
            raise

    # --- the interface of executors ------------------------------------------------------------------------------

    def measure(self, jobs: Sequence[MeasureJob]) -> Iterator[Measured | Failed]:
        """In order; all free devices begin at once. Raises `ClusterError` where no node is left that has the device."""
        check_offers([job.target for job in jobs], self.names, nodes())
        tickets = [
            Ticket(
                index=i,
                job=job,
                kind=(job.target.backend, job.target.device, job.hardware or "any machine"),
                resource=resource_of(job.target, self.names),
                threads=job.target.threads,
                label=job.target.label,
            )
            for i, job in enumerate(jobs)
        ]
        return _Call[Measured](self, tickets).results()

    def score(self, jobs: Sequence[ScoreJob]) -> Iterator[Scored | Failed]:
        """In order; as many at once as the cluster has CPUs."""
        tickets = [
            Ticket(index=i, job=job, kind=("score",), resource="CPU", threads=1, label="an accuracy")
            for i, job in enumerate(jobs)
        ]
        return _Call[Scored](self, tickets).results()

    def close(self) -> None:
        """Stops all tasks; leaves the cluster if this executor joined it. May be called twice."""
        import ray

        for call in tuple(self._calls):
            call.stop()
        if self._starts is not None and ray.is_initialized():
            ray.kill(self._starts)
        self._starts = self._inputs = None
        if self._ours:
            ray.shutdown()
        self._ours = False

    # --- for its calls -------------------------------------------------------------------------------------------

    def submit(self, ticket: Ticket, node: ClusterNode) -> Any:
        """The reference to the result of a task on that node and no other."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self.placement.give(ticket, node, next(self._numbers))
        scores = isinstance(ticket.job, ScoreJob)
        task = self._do.options(
            name=ticket.label,
            num_cpus=1 if scores else 0,
            resources={} if scores else {ticket.resource: 1},
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
        )
        held = (self._inputs, self._starts)
        return task.remote(ticket.job, ticket.number, ticket.threads, held, self._make)

    def ages_s(self) -> dict[int, float]:
        """For how long the begun tasks of all calls have run."""
        import ray

        numbers = [ticket.number for call in self._calls for ticket in call.flying.values()]
        found: dict[int, float] = ray.get(self._starts.ages_s.remote(numbers))
        return found


class _Call(Generic[_Result]):
    """The jobs of one call: waiting, flying or done."""

    def __init__(self, executor: RayExecutor, tickets: Sequence[Ticket]) -> None:
        self._executor, self._placement = executor, executor.placement
        self._count = len(tickets)
        self._waiting = deque(tickets)
        self.flying: dict[Any, Ticket] = {}
        self._done: dict[int, _Result | Failed] = {}
        self._watched = time.monotonic()
        executor._calls.add(self)
        try:
            self._place()
        except BaseException:
            self.stop()
            raise

    def results(self) -> Iterator[_Result | Failed]:
        """In the tickets' order. Leaving it early stops the rest."""
        try:
            for i in range(self._count):
                while i not in self._done:
                    self._step()
                yield self._done.pop(i)
        finally:
            self.stop()

    def stop(self) -> None:
        """Cancels what flies and forgets what waits."""
        import ray

        self._executor._calls.discard(self)
        self._waiting.clear()
        for ref, ticket in self.flying.items():
            self._placement.take(ticket)
            if ray.is_initialized():
                ray.cancel(ref, force=True)
        self.flying.clear()

    def _step(self) -> None:
        """Hands out what waits, waits a little for a result, looks after the clock."""
        import ray

        if self not in self._executor._calls:
            raise ClusterError("the executor was closed before all results were taken")
        if not self.flying:  # all devices are another call's
            time.sleep(_TICK_S)
        elif ready := ray.wait(list(self.flying), num_returns=1, timeout=_TICK_S)[0]:
            self._take(ready[0])
        # At once: the device is free, and whoever takes the results may be busy for a while.
        self._place()
        if time.monotonic() - self._watched >= _TICK_S:
            self._watched = time.monotonic()
            self._stop_the_slow()

    def _place(self) -> None:
        if not self._waiting:
            return
        known, staying = nodes(), deque[Ticket]()
        while self._waiting:
            ticket = self._waiting.popleft()
            node = self._placement.choose(ticket, known)
            if node is None:
                staying.append(ticket)
            elif isinstance(node, Failed):
                self._done[ticket.index] = node
            else:
                self.flying[self._executor.submit(ticket, node)] = ticket
        self._waiting = staying

    def _take(self, ref: Any) -> None:
        """Keeps a result; sends the job elsewhere where its node was lost or is of the wrong kind."""
        import ray
        from ray import exceptions

        ticket = self.flying.pop(ref)
        self._placement.take(ticket)
        try:
            result: _Result | Failed = ray.get(ref)
        except exceptions.RayTaskError as error:
            if (reason := _missing_package(error)) is None:
                raise
            self._elsewhere(ticket, reason)
        except (
            exceptions.NodeDiedError,
            exceptions.ObjectLostError,
            exceptions.OutOfMemoryError,
            exceptions.TaskUnschedulableError,
            exceptions.WorkerCrashedError,
        ) as error:
            self._lost(ticket, error)
        else:
            if isinstance(result, Failed) and not result.lasting:
                self._elsewhere(ticket, result.reason)
            else:
                self._done[ticket.index] = result

    def _elsewhere(self, ticket: Ticket, reason: str) -> None:
        self._placement.exclude(ticket, reason)
        self._waiting.appendleft(ticket)

    def _lost(self, ticket: Ticket, error: Exception) -> None:
        ticket.losses += 1
        ticket.avoid.add(ticket.at.id)
        self._placement.rest(ticket.at)
        if ticket.losses > self._executor.max_retries:
            what = next(iter(str(error).splitlines()), type(error).__name__)
            reason = f"{ticket.label}: its worker was lost {ticket.losses} times, last on {ticket.at}: {what}"
            self._done[ticket.index] = Failed(reason=reason, lasting=False)
            return
        self._executor.retried += 1
        self._waiting.appendleft(ticket)

    def _stop_the_slow(self) -> None:
        """A process that hangs is killed; the next job gets a new one."""
        import ray

        limit = self._executor.time_limit_s
        if limit is None or not self.flying:
            return
        ages = self._executor.ages_s()
        for ref, ticket in tuple(self.flying.items()):
            if ages.get(ticket.number, 0.0) <= limit:
                continue
            ray.cancel(ref, force=True)
            del self.flying[ref]
            self._placement.take(ticket)
            reason = f"{ticket.label} was stopped on {ticket.at}: it was not done within the limit of {limit:g} s"
            self._done[ticket.index] = Failed(reason=reason, lasting=False)


def _missing_package(error: Any) -> str | None:
    """Why a task could not even begin on a node that lacks this project or one of its packages, else None."""
    text = str(error.cause)
    # Ray wraps what went wrong while it loaded the task or its arguments.
    loading = "failed to import on the worker" in text or ("ModuleNotFoundError" in text and "deserialize" in text)
    if not loading and not isinstance(error.cause, ImportError):
        return None
    last = [line for line in text.splitlines() if line.strip()][-1]
    return f"a package is missing there: {last.strip()}"
