"""Reports of load, and the sweep to the knee."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from atb_export.serving.errors import ServingError
from atb_export.serving.load import LoadPlan, LoadReport, pooled, run_load
from atb_export.serving.programs import native_program
from atb_export.serving.requests import Endpoint
from atb_export.serving.sweeps import sweep

NO_ERRORS = {"connect": 0, "reset": 0, "timeout": 0, "protocol": 0}


def report(answers: Mapping[int, Any], **more: Any) -> LoadReport:
    count = sum(n for x in answers.values() for _, n in x)
    given: dict[str, Any] = {
        "connections": 1,
        "rate_per_s": None,
        "seconds": 1.0,
        "meant": count,
        "ended": count,
        "answers": answers,
        "errors": NO_ERRORS,
        "unanswered": 0,
        "late": (),
        "busy": 0.1,
    }
    return LoadReport(**{**given, **more})


def test_quantiles_are_nearest_ranks_over_all_requests() -> None:
    whole = report({200: ((1_000_000, 98), (2_000_000, 1), (9_000_000, 1))})
    assert (whole.p50_ms, whole.p99_ms, whole.p999_ms) == (1.0, 2.0, 9.0)
    assert whole.quantile_ms(0.98) == 1.0
    assert whole.failed == 0
    assert whole.failures == {}


def test_what_has_no_good_answer_is_slower_than_all() -> None:
    mixed = report({200: ((1_000_000, 90),), 429: ((1000, 5),)}, errors={**NO_ERRORS, "reset": 2}, unanswered=3)
    assert mixed.failed == 10
    assert mixed.quantile_ms(0.9) == 1.0
    assert mixed.quantile_ms(0.91) == math.inf
    assert mixed.failures == {"429": 5, "reset": 2, "unanswered": 3}
    assert mixed.to_json()["p99_ms"] is None
    assert report({}).p50_ms == math.inf


def test_rounds_are_pooled_as_if_they_were_one() -> None:
    a = report({200: ((1000, 2), (3000, 1))}, late=((5, 1),), seconds=1.0)
    b = report({200: ((1000, 1),), 503: ((10, 1),)}, late=((5, 1), (7, 2)), seconds=2.0, busy=0.5)
    both = pooled([a, b])
    assert both.answers == {200: ((1000, 3), (3000, 1)), 503: ((10, 1),)}
    assert (both.meant, both.ended, both.seconds, both.rounds, both.busy) == (5, 5, 3.0, 2, 0.5)
    assert both.late == ((5, 2), (7, 2))
    assert both.per_s == pytest.approx(5 / 3)
    with pytest.raises(ValueError, match="one rate"):
        pooled([a, report({}, connections=2)])


@pytest.mark.parametrize("wrong", [{"connections": 0}, {"rate_per_s": 0.0}, {"seconds": math.inf}, {"timeout_s": -1}])
def test_plans_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|is a whole|is more"):
        LoadPlan(**wrong)


def queue(capacity: float) -> Any:
    """A server whose p99 grows as a queue's does, and that loses what is above its capacity."""

    def run(rate: float) -> LoadReport:
        over = max(0.0, rate - capacity)
        ms = 1.0 / max(1e-3, 1 - rate / capacity)
        good = 1000 - round(1000 * over / rate)
        return report({200: ((round(ms * 1e6), good),)}, rate_per_s=rate, meant=1000, unanswered=1000 - good)

    return run


@pytest.mark.parametrize("capacity", [12.0, 900.0, 40_000.0])
@pytest.mark.parametrize("guess", [0.5, 1.0, 1.6])
def test_the_knee_is_the_highest_rate_kept(capacity: float, guess: float) -> None:
    found = sweep(queue(capacity), capacity_per_s=capacity * guess, max_ms=5.0)
    assert found.knee is not None
    rate = found.knee.rate_per_s
    assert rate is not None
    assert 0.8 * capacity * 0.93 <= rate <= 0.8 * capacity + 1e-9  # 1 / (1 - 0.8) ms
    calm = sweep(queue(capacity), capacity_per_s=capacity * guess, max_ms=None)
    assert calm.max_ms == pytest.approx(10 * calm.reports[0].p99_ms)
    assert calm.knee is not None


def test_no_knee_where_no_rate_is_kept() -> None:
    found = sweep(queue(100.0), capacity_per_s=100.0, max_ms=0.5)
    assert found.knee is None
    assert found.reports


def test_the_generator_counts_what_a_server_answers(programs: Path, served: Any) -> None:
    served.status = 429
    endpoint = Endpoint(host="127.0.0.1", port=served.port, protocol="oip", model="m", tensor="words")
    requests = [endpoint.request(x) for x in ("good", "bad — 映画")]
    program = native_program("atb-load", programs)
    plan = LoadPlan(connections=3, seconds=0.4, warm_up_s=0.0)
    found = run_load(program, ("127.0.0.1", served.port), requests, plan)
    assert found.connections == 3
    assert set(found.answers) == {200, 429}
    assert found.failures == {"429": sum(n for _, n in found.answers[429])}
    assert sum(n for x in found.answers.values() for _, n in x) == found.meant
    assert abs(len(served.asked) - found.meant) <= 3
    assert {body for *_, body in served.asked} == {x.partition(b"\r\n\r\n")[2] for x in requests}
    opened = run_load(program, ("127.0.0.1", served.port), requests, LoadPlan(rate_per_s=200, seconds=0.4, warm_up_s=0))
    assert 40 <= opened.meant <= 130
    assert opened.late


def test_nobody_there(programs: Path, served: Any) -> None:
    program = native_program("atb-load", programs)
    with pytest.raises(ServingError, match=r"only 0 of 1 connections to 127\.0\.0\.1:1 "):
        run_load(program, ("127.0.0.1", 1), [b"x"], LoadPlan(seconds=0.1, timeout_s=0.1))


def test_a_program_that_is_not_built_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=r"atb-load is not in .*compiler.*--bin or ATB_BIN"):
        native_program("atb-load", tmp_path)
