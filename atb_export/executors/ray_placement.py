"""Which node gets which job: the bookkeeping of a Ray executor, with no Ray in it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from atb_export.executors.ray_cluster import ClusterError, ClusterNode, nothing_offers
from atb_export.jobs import Failed, MeasureJob, ScoreJob
from runtime.target import EngineTarget

# Ray counts a dead node as alive for about 15 s; one that only lost a process is asked again after this.
REST_S = 20.0


def resource_of(target: EngineTarget, names: Mapping[str, str]) -> str:
    """The custom resource a measurement takes: `names` by "openvino-CPU", else backend and device, lower case."""
    key = f"{target.backend}-{target.device}"
    return names.get(key, key.lower())


def check_offers(targets: Sequence[EngineTarget], names: Mapping[str, str], known: Sequence[ClusterNode]) -> None:
    """Raises `ClusterError` where no node has what a target needs, or two names mean the processor of one node."""
    wanted = {resource_of(x, names) for x in targets}
    if missing := {name for name in wanted if not any(node.slots(name) for node in known)}:
        raise nothing_offers(missing, known)
    processors = {x.backend: resource_of(x, names) for x in targets if x.device == "CPU"}
    for node in known:
        shared = sorted({name for name in processors.values() if node.slots(name)})
        if len(shared) > 1:
            renamed = " ".join(f"--resource {backend}-CPU={shared[0]}" for backend in sorted(processors))
            raise ClusterError(
                f"{' and '.join(shared)} of node {node} are the same processor, which would time several engines "
                f"at once; give them one name: {renamed}"
            )


@dataclass(kw_only=True, eq=False)
class Ticket:
    """One job on its way. It takes 1 of `resource`; nodes that cannot do one of its `kind` can do none of them.

    `losses` workers were lost with it, on the nodes `avoid`; `number` and `node` are those of its last submission.
    """

    index: int
    job: MeasureJob | ScoreJob
    kind: tuple[str, ...]
    resource: str
    threads: int
    label: str
    losses: int = 0
    avoid: set[str] = field(default_factory=set)
    number: int = -1
    node: ClusterNode | None = None

    @property
    def at(self) -> ClusterNode:
        """The node it was given to last."""
        assert self.node is not None
        return self.node


class Placement:
    """How busy each node is, which of them rest after a loss, and which cannot do a kind of job."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._load: Counter[tuple[str, str]] = Counter()
        self._resting: dict[str, float] = {}
        self._wrong: dict[tuple[str, ...], dict[str, str]] = {}

    def choose(self, ticket: Ticket, known: Sequence[ClusterNode]) -> ClusterNode | Failed | None:
        """The least busy node that can do it, rather one that lost nobody lately; None where all are busy.

        `Failed` where those that have the resource are all of the wrong kind; raises `ClusterError` where none has it.
        """
        offering = [x for x in known if x.slots(ticket.resource)]
        if not offering:
            raise nothing_offers([ticket.resource], known)
        wrong = self._wrong.get(ticket.kind, {})
        usable = [x for x in offering if x.id not in wrong]
        if not usable:
            reasons = "; ".join(f"{x}: {wrong[x.id]}" for x in offering)
            return Failed(
                reason=f"no node that offers {ticket.resource} can do {ticket.label}. {reasons}", lasting=False
            )
        now = self._clock()
        able = [x for x in usable if self._resting.get(x.id, now) <= now] or usable
        able = [x for x in able if x.id not in ticket.avoid] or able
        free = [x for x in able if self._load[x.id, ticket.resource] < x.slots(ticket.resource)]
        return min(free, key=lambda x: self._load[x.id, ticket.resource] / x.slots(ticket.resource), default=None)

    def give(self, ticket: Ticket, node: ClusterNode, number: int) -> None:
        """The node has one job more, submitted under `number`."""
        ticket.node, ticket.number = node, number
        self._load[node.id, ticket.resource] += 1

    def take(self, ticket: Ticket) -> None:
        """The ticket's node has one job less."""
        self._load[ticket.at.id, ticket.resource] -= 1

    def exclude(self, ticket: Ticket, reason: str) -> None:
        """The ticket's node gets no more jobs of its kind."""
        self._wrong.setdefault(ticket.kind, {})[ticket.at.id] = reason

    def rest(self, node: ClusterNode) -> None:
        """The node gets no jobs for a while, where there are others."""
        self._resting[node.id] = self._clock() + REST_S
