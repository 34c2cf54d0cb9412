from __future__ import annotations

import json
from typing import Any

import pytest

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


def test_ratio_is_the_median_of_window_ratios() -> None:
    # Windows (1, 2) beside (3, 3) and (3, 4, 10) beside (8): 1.5 / 3 and 4 / 8.
    assert _report().ratio_to_reference == pytest.approx(0.5)
    assert _report(reference_samples_ms=(3.0, 3.0, 4.0)).ratio_to_reference == pytest.approx(0.75)


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


def test_json_round_trip_holds_raw_samples_only() -> None:
    report = _report()
    assert report.ci_ms  # a cached number must not leak into the file
    data = json.loads(json.dumps(report.to_json()))
    assert "p50_ms" not in data
    assert data["samples_ms"] == [1.0, 2.0, 3.0, 4.0, 10.0]
    again = LatencyReport.from_json(data)
    assert again == report
    assert again.ci_ms == report.ci_ms


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
