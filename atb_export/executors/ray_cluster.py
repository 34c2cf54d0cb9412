"""A Ray cluster as the executor sees it: how to join one, and what its nodes offer."""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atb_export.errors import AtbError

_REACH_S = 10.0
# What every node has of its own accord.
_COMMON = ("memory", "object_store_memory", "node:")


class ClusterError(AtbError):
    """No Ray, no cluster, or none that can do the jobs."""


@dataclass(frozen=True, kw_only=True)
class ClusterNode:
    """A living node and the amounts it offers; its id is new whenever Ray is started on it."""

    id: str
    address: str
    offers: Mapping[str, float]

    def slots(self, resource: str) -> int:
        """How many jobs that take one of the resource it does at once."""
        return int(self.offers.get(resource, 0.0))

    def __str__(self) -> str:
        return f"{self.address} ({self.id[:8]})"


def nodes() -> tuple[ClusterNode, ...]:
    """Those that are alive, in the order of their ids. A dead one is counted for some seconds more."""
    import ray

    found = (
        ClusterNode(id=x["NodeID"], address=x["NodeManagerAddress"], offers=dict(x["Resources"]))
        for x in ray.nodes()
        if x["Alive"]
    )
    return tuple(sorted(found, key=lambda node: node.id))


def nothing_offers(resources: Iterable[str], known: Sequence[ClusterNode]) -> ClusterError:
    """The error of resources that no node has."""
    missing = ", ".join(sorted(resources))
    offered = "; ".join(f"{node} has {_offers(node)}" for node in known) or "there is no node"
    example = '{"' + sorted(resources)[0] + '": 1}'
    return ClusterError(
        f"no node of the Ray cluster offers {missing}: {offered}. Start Ray on a machine that has the device with "
        f"`ray start --address HOST:PORT --resources '{example}'`, or name the resource your nodes have with "
        "--resource BACKEND-DEVICE=NAME"
    )


def _offers(node: ClusterNode) -> str:
    amounts = {name: n for name, n in sorted(node.offers.items()) if not name.startswith(_COMMON)}
    return ", ".join(f"{name} {n:g}" for name, n in amounts.items()) or "nothing"


def connect(address: str | None, devices: Sequence[str]) -> bool:
    """Joins the cluster at `address` ("auto", HOST:PORT or ray://HOST:PORT); True where `ray.shutdown` is due later.

    Without an address, the cluster this process has joined is used, else one of this machine alone is started, with
    one of each of `devices`. Raises `ClusterError`.
    """
    if importlib.util.find_spec("ray") is None:
        raise ClusterError("the package ray is not installed: pip install 'atb-export[ray]', here and on every node")
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if ray.is_initialized():
        if address is not None:
            raise ClusterError(f"this process has joined a Ray cluster already, so it cannot join {address} as well")
        return False
    try:
        if address is None:
            # A cluster of our own tells nobody about itself.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init(address="local", include_dashboard=False, resources=dict.fromkeys(devices, 1), **quiet)
        else:
            if address != "auto":
                _reach(address)
            ray.init(address=address, **quiet)
    # Ray ends the process where it does not hear from a cluster in time.
    except (Exception, SystemExit) as error:
        if isinstance(error, ClusterError):
            raise
        # Beneath "failed to connect" lies the reason, such as a token that the cluster asks for.
        reason = error.__cause__ or error
        raise ClusterError(f"no Ray cluster can be joined at {address or 'this machine'}: {reason}") from error
    return True


def _reach(address: str) -> None:
    """Raises `ClusterError` where nobody listens: Ray itself takes minutes to find out."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ClusterError(f"an address is auto, HOST:PORT or ray://HOST:PORT, got {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_S).close()
    except OSError as error:
        raise ClusterError(
            f"nobody listens at {address} ({error}); start Ray there with `ray start --head`, whose last lines say "
            "the address (port 6379; 10001 for ray://)"
        ) from error
