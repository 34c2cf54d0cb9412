from __future__ import annotations

import json
from dataclasses import replace

import pytest

from search.candidate import Candidate
from supernet.space import SubnetConfig

SUBNET = SubnetConfig.uniform(hidden_size=384, depth=2, heads=4, head_size=32, ffn_size=512, sources=(1, 5))
MEASURED = Candidate(subnet=SUBNET, accuracy=0.8125, latency_ms=1.1, latency_ci_ms=(1.0, 1.3), flops=12345)
FAILED = Candidate(subnet=SUBNET, flops=1, status="failed", reason="bf16 differs by 0.3")


@pytest.mark.parametrize("candidate", [MEASURED, FAILED, replace(MEASURED, accuracy=None)])
def test_json_and_back(candidate: Candidate) -> None:
    assert Candidate.from_json(json.loads(json.dumps(candidate.to_json(), allow_nan=False))) == candidate


def test_json_has_the_fields_of_the_result_document() -> None:
    assert set(MEASURED.to_json()) == {
        "subnet", "accuracy", "latency_ms", "latency_ci_ms", "flops", "status", "reason",
    }  # fmt: skip


def test_what_is_known() -> None:
    assert MEASURED.point == (0.8125, 1.1)
    assert MEASURED.fits(1.1)
    assert not MEASURED.fits(1.0999)
    assert replace(MEASURED, accuracy=None).point is None
    assert not FAILED.is_measured
    assert not FAILED.fits(100)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"status": "skipped"}, "status is measured or failed"),
        ({"flops": -1}, "flops is a count"),
        ({"flops": 1.5}, "flops is a count"),
        ({"latency_ms": None}, "latency_ms is a positive number"),
        ({"latency_ms": 0.0}, "latency_ms is a positive number"),
        ({"latency_ms": float("nan")}, "latency_ms is a positive number"),
        ({"latency_ms": "1.0"}, "latency_ms is a positive number"),
        ({"latency_ci_ms": (2.0, 1.0)}, "pair low <= high"),
        ({"latency_ci_ms": (1.0,)}, "pair low <= high"),
        ({"accuracy": float("inf")}, "accuracy is a number"),
        ({"accuracy": True}, "accuracy is a number"),
        ({"reason": "because"}, "has no reason"),
        ({"status": "failed", "reason": "because"}, "has no numbers"),
    ],
)
def test_refuses(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(MEASURED, **wrong)


def test_a_failure_says_why() -> None:
    with pytest.raises(ValueError, match="says its reason"):
        replace(FAILED, reason="")


@pytest.mark.parametrize(
    "wrong", [{}, [], {**MEASURED.to_json(), "front": True}, {**MEASURED.to_json(), "latency_ci_ms": 3}]
)
def test_from_json_refuses(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"a candidate|latency_ci_ms"):
        Candidate.from_json(wrong)  # type: ignore[arg-type]
