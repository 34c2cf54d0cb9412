from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from runtime import latency as module
from runtime.latency import LatencyReport
from runtime.target import Shape


def _report(**changes: Any) -> LatencyReport:
    base: dict[str, Any] = {
        "target": "openvino-CPU-f32-b4-l8-t1",
        "effective_precision": "f32",
        "shape": Shape(batch=4, length=8),
        "threads": 1,
        "samples_ms": (1.0, 2.0, 3.0, 4.0, 10.0),
        "windows": (2, 3),
        "reference": "onnxruntime-CPU-f32-b4-l8-t1",
        "reference_samples_ms": (3.0, 3.0, 8.0),
        "reference_windows": (2, 1),
        "warmup_runs": 5,
        "repeated_windows": 0,
        "disturbed_windows": 0,
        "environment": "0123456789ab",
        "conditions": {"affinity": [0, 1], "pinned": False, "governor": None, "preemptions": 3},
    }
    return LatencyReport(**{**base, **changes})


def test_derived_numbers() -> None:
    report = _report()
    assert report.p50_ms == 3.0
    assert report.p90_ms == pytest.approx(7.6)
    assert report.p99_ms == pytest.approx(9.76)
    assert report.mean_ms == pytest.approx(4.0)
    assert report.throughput_per_s == pytest.approx(1000.0)
    assert report.quantile_ms(0) == 1.0


def _windows(mine: Sequence[Sequence[float]], beside: Sequence[Sequence[float]]) -> LatencyReport:
    return _report(
        samples_ms=tuple(x for window in mine for x in window),
        windows=tuple(map(len, mine)),
        reference_samples_ms=tuple(x for window in beside for x in window),
        reference_windows=tuple(map(len, beside)),
    )


def test_ratio_is_the_median_of_window_ratios() -> None:
    # Lower quartiles: 1.25 beside 3, 3.5 beside 8, and 4 beside 4.
    report = _windows([(1.0, 2.0), (3.0, 4.0, 10.0), (4.0,)], [(3.0, 3.0), (8.0,), (4.0,)])
    assert report.ratio_to_reference == pytest.approx(3.5 / 8)
    assert _report().ratio_to_reference == pytest.approx((1.25 / 3 + 3.5 / 8) / 2)


def test_ratio_does_not_see_a_neighbour_who_takes_half_of_the_time() -> None:
    rng = np.random.default_rng(0)

    def half_slow(ms: float) -> list[tuple[float, ...]]:
        """In each window about half of the runs, never the same ones, take three times as long."""
        return [tuple(ms * np.where(rng.random(20) < rng.uniform(0.35, 0.65), 3.0, 1.0)) for _ in range(10)]

    report = _windows(half_slow(2.0), half_slow(1.0))
    assert report.p50_ms in (2.0, 6.0)
    assert max(report.samples_ms) == 6.0
    assert report.ratio_to_reference == report.ratio_ci[0] == report.ratio_ci[1] == 2.0


def test_interval_of_the_ratio_follows_the_ratio_not_the_clock() -> None:
    """A machine that slows down makes the latency uncertain, and the ratio not at all."""
    clocks = [1.0 + i / 5 for i in range(10)]
    slowing = _windows([(2 * x,) * 5 for x in clocks], [(x,) * 5 for x in clocks])
    assert slowing.ci_ms[1] > 1.2 * slowing.ci_ms[0]
    assert slowing.ratio_ci == pytest.approx((2.0, 2.0))
    ratios = [2.0, 2.1, 1.9, 2.3, 1.7, 2.0, 2.05, 1.95]
    low, high = (report := _windows([(x,) for x in ratios], [(1.0,)] * 8)).ratio_ci
    assert 1.7 <= low < report.ratio_to_reference == 2.0 < high <= 2.3
    assert report.ratio_ci == _windows([(x,) for x in ratios], [(1.0,)] * 8).ratio_ci


def test_interval_of_the_ratio_narrows_with_more_windows() -> None:
    rng = np.random.default_rng(3)
    widths = []
    for count in (6, 24, 96):
        low, high = _windows([(x,) for x in rng.normal(2.0, 0.1, count)], [(1.0,)] * count).ratio_ci
        widths.append(high - low)
    assert all(a > 1.3 * b for a, b in pairwise(widths))


def test_interval_is_drawn_over_windows_not_samples() -> None:
    steady = _report(
        samples_ms=(2.0,) * 40, windows=(10,) * 4, reference_samples_ms=(1.0,) * 4, reference_windows=(1,) * 4
    )
    assert steady.ci_ms == (2.0, 2.0)
    # Four quiet windows and four that met a busy neighbour: drawn over samples, the interval would be narrow.
    moods = tuple(mood for mood in (1.0, 2.0) for _ in range(200))
    low, high = _report(
        samples_ms=moods, windows=(50,) * 8, reference_samples_ms=(1.0,) * 8, reference_windows=(1,) * 8
    ).ci_ms
    assert (low, high) == (1.0, 2.0)


def test_interval_is_the_same_every_time_and_holds_the_median() -> None:
    samples = tuple(1 + (i * 37 % 101) / 100 for i in range(200))
    reports = [
        _report(
            samples_ms=samples,
            windows=(20,) * 10,
            reference_samples_ms=(1.0,) * 10,
            reference_windows=(1,) * 10,
        )
        for _ in range(2)
    ]
    assert reports[0].ci_ms == reports[1].ci_ms
    low, high = reports[0].ci_ms
    assert low <= reports[0].p50_ms <= high
    assert low < high < max(samples)


def test_interval_of_a_single_window_is_its_range() -> None:
    report = _report(windows=(5,), reference_samples_ms=(3.0,), reference_windows=(1,))
    assert report.ci_ms == (1.0, 10.0)
    assert report.ratio_ci == (1.0 / 3.0, 10.0 / 3.0)


@pytest.mark.parametrize("windows", [(1, 1), (4, 1, 3), (7,) * 6, (20, 31, 8, 40)])
def test_medians_of_resamples_are_those_of_pooled_samples(windows: tuple[int, ...]) -> None:
    """Against drawing, pooling and sorting one resample after the other; samples repeat, as clocks tick."""
    samples = np.random.default_rng(len(windows)).integers(1, 30, size=sum(windows)) / 8
    parts = np.split(samples, np.cumsum(windows)[:-1])
    count = len(windows)
    draws = np.random.default_rng(module._SEED).multinomial(count, [1 / count] * count, size=module._RESAMPLES)
    wanted = [np.median(np.concatenate([parts[i] for i in range(count) for _ in range(n[i])])) for n in draws]
    assert module._medians_of_resamples(samples, windows).tolist() == wanted


def test_json_round_trip_holds_raw_samples_only() -> None:
    report = _report()
    assert report.ci_ms  # a cached number must not leak into the file
    data = json.loads(json.dumps(report.to_json()))
    assert "p50_ms" not in data
    assert data["samples_ms"] == [1.0, 2.0, 3.0, 4.0, 10.0]
    again = LatencyReport.from_json(data)
    assert again == report
    assert again.ci_ms == report.ci_ms
    assert again.conditions == {"affinity": [0, 1], "pinned": False, "governor": None, "preemptions": 3}
    assert hash(again) == hash(report)


def test_reports_from_before_there_were_conditions_are_read() -> None:
    data = _report().to_json()
    del data["conditions"]
    assert LatencyReport.from_json(data) == _report(conditions={})
    with pytest.raises(ValueError, match="conditions is an object, got str"):
        LatencyReport.from_json({**data, "conditions": "calm"})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"samples_ms": (), "windows": ()}, "not measured"),
        ({"samples_ms": (1.0, 0.0, 3.0, 4.0, 5.0)}, "positive"),
        ({"samples_ms": (1.0, float("nan"), 3.0, 4.0, 5.0)}, "positive"),
        ({"windows": (2, 2)}, "add up"),
        ({"windows": (5, 0)}, "add up"),
        ({"reference_windows": (1, 1)}, "add up"),
        ({"windows": (5,)}, "one beside it"),
        ({"warmup_runs": -1}, "warmup_runs"),
        ({"disturbed_windows": 1.0}, "disturbed_windows"),
    ],
)
def test_impossible_reports_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        _report(**changes)


def test_unknown_and_missing_fields_are_refused() -> None:
    data = _report().to_json()
    with pytest.raises(ValueError, match="p50_ms"):
        LatencyReport.from_json({**data, "p50_ms": 3.0})
    del data["threads"]
    with pytest.raises(ValueError, match="missing or unknown: threads"):
        LatencyReport.from_json(data)
