"""Load on a server, closed loop and open loop, by the native generator `atb-load`; what came back as a report."""

from __future__ import annotations

import json
import math
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from atb_export.serving.errors import ServingError
from atb_export.serving.requests import packed

Buckets = tuple[tuple[int, int], ...]
"""(nanoseconds, how many), ascending; a bucket is at most 1/512 of its value wide."""


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """A closed loop of `connections`, each of which sends when it was answered; with a rate an open one.

    An open loop's requests are due by a Poisson process, whether or not earlier ones are answered, and wait for one of
    `connections`; after its end answers are waited for `patience_s`.
    """

    connections: int = 1
    rate_per_s: float | None = None
    seconds: float = 3.0
    warm_up_s: float = 0.5
    timeout_s: float = 10.0
    patience_s: float = 1.0
    seed: int = 0
    spin: bool = False

    def __post_init__(self) -> None:
        if type(self.connections) is not int or self.connections < 1:
            raise ValueError(f"connections is a whole number of 1 or more, got {self.connections!r}")
        if self.rate_per_s is not None and not (self.rate_per_s > 0 and math.isfinite(self.rate_per_s)):
            raise ValueError(f"a rate is more than 0 requests per second, got {self.rate_per_s!r}")
        for name in ("seconds", "timeout_s"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} must be more than 0, got {getattr(self, name)!r}")


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What came of the requests that were due within the measured time.

    `answers` are latencies by status, from the moment a request was due, not from when it could be sent. `ended` are
    good answers that came within the measured time, `late` how late this generator was though a connection was free,
    and `busy` the share of its core that it used.
    """

    connections: int
    rate_per_s: float | None
    seconds: float
    meant: int
    ended: int
    answers: Mapping[int, Buckets]
    errors: Mapping[str, int]
    unanswered: int
    late: Buckets
    busy: float
    rounds: int = 1

    @property
    def good(self) -> Buckets:
        """Latencies of the answers with 2xx."""
        return _merged([x for status, x in self.answers.items() if 200 <= status < 300])

    @property
    def refused(self) -> Buckets:
        """Latencies of all other answers."""
        return _merged([x for status, x in self.answers.items() if not 200 <= status < 300])

    @property
    def per_s(self) -> float:
        """Good answers per second."""
        return self.ended / self.seconds

    @property
    def failed(self) -> int:
        """Requests without a good answer, whatever the reason."""
        return _count(self.refused) + sum(self.errors.values()) + self.unanswered

    @property
    def failures(self) -> dict[str, int]:
        """By status or by reason; empty where all went well."""
        statuses = {str(s): _count(x) for s, x in self.answers.items() if not 200 <= s < 300}
        found = {**statuses, **self.errors, "unanswered": self.unanswered}
        return {name: count for name, count in found.items() if count}

    def quantile_ms(self, q: float) -> float:
        """The latency that a share `q` of all requests kept (nearest rank); one without a good answer kept none."""
        ns, cumulated = self._cumulated
        everything = (int(cumulated[-1]) if len(cumulated) else 0) + self.failed
        rank = max(1, math.ceil(q * everything - 1e-9))
        at = int(np.searchsorted(cumulated, rank))
        return float(ns[at]) / 1e6 if everything and at < len(ns) else math.inf

    @cached_property
    def _cumulated(self) -> tuple[Any, Any]:
        good = np.asarray(self.good or ((0, 0),), np.int64)
        return (good[:, 0], np.cumsum(good[:, 1])) if self.good else (good[:0, 0], good[:0, 1])

    @property
    def p50_ms(self) -> float:
        """The median."""
        return self.quantile_ms(0.5)

    @property
    def p99_ms(self) -> float:
        """Ninety-nine in a hundred took no longer."""
        return self.quantile_ms(0.99)

    @property
    def p999_ms(self) -> float:
        """999 in a thousand took no longer."""
        return self.quantile_ms(0.999)

    @property
    def late_ms(self) -> float:
        """How late this generator sent, at p99; 0 in a closed loop."""
        ranks = np.cumsum([n for _, n in self.late])
        return self.late[int(np.searchsorted(ranks, math.ceil(0.99 * ranks[-1])))][0] / 1e6 if self.late else 0.0

    def to_json(self, *, raw: bool = False) -> dict[str, Any]:
        """Plain data; infinite latencies as None, the histograms where `raw`."""
        document: dict[str, Any] = {
            "connections": self.connections,
            "rate_per_s": self.rate_per_s,
            "seconds": self.seconds,
            "rounds": self.rounds,
            "requests": self.meant,
            "per_s": self.per_s,
            **{f"{x}_ms": _finite(getattr(self, f"{x}_ms")) for x in ("p50", "p99", "p999")},
            "answers": {str(status): _count(x) for status, x in self.answers.items()},
            "failures": self.failures,
            "late_ms": self.late_ms,
            "generator_busy": self.busy,
        }
        if raw:
            document["latency_ns"] = {str(status): [list(y) for y in x] for status, x in self.answers.items()}
        return document


def run_load(program: Path, endpoint: tuple[str, int], requests: Sequence[bytes], plan: LoadPlan) -> LoadReport:
    """One run in a process of its own. Raises `ServingError` where the server cannot be reached."""
    with tempfile.NamedTemporaryFile(prefix="atb-load-") as file:
        file.write(packed(requests))
        file.flush()
        return run_load_file(program, endpoint, Path(file.name), plan)


def run_load_file(
    program: Path, endpoint: tuple[str, int], requests: Path, plan: LoadPlan, *, prefix: Sequence[str] = ()
) -> LoadReport:
    """As `run_load`, for requests that are in a file already; `prefix` such as ("taskset", "-c", "1")."""
    host, port = endpoint
    # What a closed loop leaves behind is a request for each connection: waited for, as any other.
    patience_s = plan.patience_s if plan.rate_per_s is not None else max(plan.patience_s, plan.timeout_s)
    command = [
        *prefix,
        str(program),
        *("--requests", str(requests), "--host", host, "--port", str(port)),
        *("--connections", str(plan.connections), "--seconds", str(plan.seconds), "--warm-up", str(plan.warm_up_s)),
        *("--timeout", str(plan.timeout_s), "--patience", str(patience_s), "--seed", str(plan.seed)),
        *(() if plan.rate_per_s is None else ("--rate", repr(plan.rate_per_s))),
        *(("--spin",) if plan.spin else ()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own program
    if done.returncode != 0:
        raise ServingError(done.stderr.strip() or f"{program} ended with {done.returncode}")
    return report_of(json.loads(done.stdout.strip().splitlines()[-1]))


def report_of(document: Mapping[str, Any]) -> LoadReport:
    """From what `atb-load` prints."""
    return LoadReport(
        connections=document["connections"],
        rate_per_s=document["rate_per_s"],
        seconds=document["seconds"],
        meant=document["meant"],
        ended=document["ended"],
        answers={int(status): _buckets(x["latency_ns"]) for status, x in document["answers"].items()},
        errors=document["errors"],
        unanswered=document["unanswered"],
        late=_buckets(document["late_ns"]),
        busy=document["busy"],
    )


def pooled(reports: Sequence[LoadReport]) -> LoadReport:
    """Rounds of one plan as one report. Raises `ValueError` where they are of several."""
    first = reports[0]
    if len({(x.connections, x.rate_per_s) for x in reports}) != 1:
        raise ValueError("only rounds of one rate and number of connections are pooled")
    statuses = sorted({s for x in reports for s in x.answers})
    return LoadReport(
        connections=first.connections,
        rate_per_s=first.rate_per_s,
        seconds=sum(x.seconds for x in reports),
        meant=sum(x.meant for x in reports),
        ended=sum(x.ended for x in reports),
        answers={s: _merged([x.answers[s] for x in reports if s in x.answers]) for s in statuses},
        errors={name: sum(x.errors[name] for x in reports) for name in first.errors},
        unanswered=sum(x.unanswered for x in reports),
        late=_merged([x.late for x in reports]),
        busy=max(x.busy for x in reports),
        rounds=sum(x.rounds for x in reports),
    )


def _buckets(rows: Sequence[Sequence[int]]) -> Buckets:
    return tuple((int(ns), int(count)) for ns, count in rows)


def _merged(parts: Sequence[Buckets]) -> Buckets:
    found: dict[int, int] = {}
    for part in parts:
        for ns, count in part:
            found[ns] = found.get(ns, 0) + count
    return tuple(sorted(found.items()))


def _count(buckets: Buckets) -> int:
    return sum(n for _, n in buckets)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
