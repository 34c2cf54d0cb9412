"""What is known of a design: numbers that are numbers, and a JSON form that loses nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from search.candidate import Candidate, Timing
from search.design import Design
from supernet.space import SubnetConfig

SUBNET = SubnetConfig.uniform(hidden_size=384, depth=2, heads=4, head_size=32, ffn_size=512, sources=(1, 5))
MEASURED = Candidate(
    design=Design(subnet=SUBNET, precisions=("bf16", "int8")),
    flops=12345,
    latencies=(Timing(ms=1.1, ci_ms=(1.0, 1.3)), Timing(ms=0.3, ci_ms=(0.3, 0.3))),
    accuracy=0.8125,
    rows=1600,
    model_bytes=44_000_000,
    generation=3,
    predicted_ms=(1.07, 0.1 + 0.2),
    seconds={"compile": 0.25, "measure": 1},
)
FAILED = Candidate(design=MEASURED.design, flops=1, status="failed", reason="bf16 differs by 0.3")
STOPPED = replace(MEASURED, rows=100, complete=False)
TOO_SLOW = replace(MEASURED, accuracy=None, rows=0)


@pytest.mark.parametrize("candidate", [MEASURED, FAILED, STOPPED, TOO_SLOW, replace(MEASURED, predicted_ms=None)])
def test_json_and_back(candidate: Candidate) -> None:
    again = Candidate.from_json(json.loads(json.dumps(candidate.to_json(), allow_nan=False)))
    assert again == candidate
    assert again.to_json() == candidate.to_json()  # `seconds`, too, which equality leaves out


def test_json_has_the_fields_of_the_record() -> None:
    assert set(MEASURED.to_json()) == {
        "design", "flops", "latencies", "accuracy", "rows", "complete", "model_bytes", "generation", "predicted_ms",
        "seconds", "status", "reason",
    }  # fmt: skip


def test_where_the_time_went_is_no_part_of_what_was_found() -> None:
    assert replace(MEASURED, seconds={"compile": 9.0}) == MEASURED
    assert hash(replace(MEASURED, seconds={})) == hash(MEASURED)


def test_what_is_known() -> None:
    assert MEASURED.subnet == SUBNET
    assert MEASURED.ms == (1.1, 0.3)
    assert FAILED.ms == ()
    assert [x.is_measured for x in (MEASURED, STOPPED, TOO_SLOW, FAILED)] == [True, True, True, False]
    assert [x.is_scored for x in (MEASURED, STOPPED, TOO_SLOW, FAILED)] == [True, False, False, False]


def test_a_prediction_is_never_its_latency() -> None:
    """Law 6: what a model guessed is kept beside the measurement, and nothing reads it as one."""
    blind = replace(MEASURED, predicted_ms=None)
    lying = replace(MEASURED, predicted_ms=(0.001, 0.001))
    assert lying.ms == blind.ms == (1.1, 0.3)
    with pytest.raises(ValueError, match="one latency for each of 2 engines timed, got 0"):
        replace(lying, latencies=())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"status": "skipped"}, "status is measured, failed, spared"),
        ({"flops": -1}, "flops is a count"),
        ({"flops": 1.5}, "flops is a count"),
        ({"rows": True}, "rows is a count"),
        ({"generation": -1}, "generation is a count"),
        ({"latencies": ()}, "one latency for each of 2 engines timed, got 0"),
        ({"latencies": MEASURED.latencies[:1]}, "one latency for each of 2 engines timed, got 1"),
        ({"accuracy": float("inf")}, "accuracy is a number"),
        ({"accuracy": float("nan")}, "accuracy is a number"),
        ({"accuracy": True}, "accuracy is a number"),
        ({"model_bytes": 0}, "model_bytes is a size"),
        ({"model_bytes": 1.5}, "model_bytes is a size"),
        ({"reason": "because"}, "only a failed candidate has a reason"),
        ({"status": "spared"}, "one latency for each of 0 engines timed, got 2"),
        ({"status": "spared", "latencies": (), "accuracy": None}, "accuracy is a number"),
        ({"status": "failed", "reason": "because"}, "has no numbers"),
        ({"status": "failed", "reason": "because", "latencies": ()}, "has no numbers"),
    ],
)
def test_refuses(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(MEASURED, **wrong)


@pytest.mark.parametrize("reason", ["", None])
def test_a_failure_says_why(reason: Any) -> None:
    with pytest.raises(ValueError, match="says its reason"):
        replace(FAILED, reason=reason)


@pytest.mark.parametrize(
    ("ms", "ci_ms", "message"),
    [
        (0.0, (0.0, 1.0), "positive number of ms"),
        (-1.0, (0.0, 1.0), "positive number of ms"),
        (float("nan"), (0.0, 1.0), "positive number of ms"),
        ("1.0", (0.0, 1.0), "positive number of ms"),
        (True, (0.0, 1.0), "positive number of ms"),
        (1.0, (2.0, 1.0), "pair low <= high"),
        (1.0, (1.0,), "pair low <= high"),
        (1.0, (-1.0, 1.0), "pair low <= high"),
        (1.0, (1.0, float("inf")), "pair low <= high"),
    ],
)
def test_a_timing_is_a_positive_time_and_its_interval(ms: Any, ci_ms: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Timing(ms=ms, ci_ms=ci_ms)


PLAIN = MEASURED.to_json()


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        [],
        None,
        {**PLAIN, "front": True},
        {name: value for name, value in PLAIN.items() if name != "predicted_ms"},
        {**PLAIN, "latencies": 3},
        {**PLAIN, "latencies": [3, 4]},
        {**PLAIN, "latencies": [{"ms": 1.0, "ci_ms": 1.0}] * 2},
        {**PLAIN, "latencies": [{"ms": 1.0, "ci_ms": [1.0, 2.0], "p50": 1.0}] * 2},
        {**PLAIN, "predicted_ms": 1.0},
        {**PLAIN, "predicted_ms": ["1.0", 2.0]},
        {**PLAIN, "complete": 1},
        {**PLAIN, "complete": None},
        {**PLAIN, "seconds": [1.0]},
        {**PLAIN, "seconds": {"compile": "long"}},
        {**PLAIN, "design": PLAIN["design"]["subnet"]},
        {**PLAIN, "accuracy": "0.8"},
    ],
)
def test_from_json_refuses(wrong: Any) -> None:
    with pytest.raises(
        ValueError, match=r"a candidate|latenc|timing|ci_ms|predicted_ms|complete|seconds|design|accuracy"
    ):
        Candidate.from_json(wrong)
