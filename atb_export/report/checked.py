"""A `result.json` document, checked and filled up, as the charts and the page read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atb_export.report import axes, candidates, digits
from atb_export.report.errors import ReportError

SCHEMA = 2
_REQUIRED = ("schema", "task", "teacher", "winner", "constraint", "target")
_OPTIONAL: Mapping[str, Any] = {
    "recipe": "", "seed": None, "created": None, "baselines": [], "candidates": [], "sweep": [], "parity": [],
    "paired": [], "spearman_flops_latency": None, "flops_choice": None, "environment": {}, "seconds": {},
    "engines_measured": None, "engines_failed": None, "search": None,
}  # fmt: skip
_MODEL: Mapping[str, Any] = {
    "name": "", "description": "", "accuracy_se": None, "latency_ci_ms": None, "params": None, "flops": None,
    "bundle_bytes": None, "subnet": None,
}  # fmt: skip
_TASK: Mapping[str, Any] = {
    "name": "", "kind": "", "metric": "accuracy", "labels": [], "rows": {}, "transfer_texts": None,
}  # fmt: skip
_TARGET: Mapping[str, Any] = {
    "backend": "", "device": "", "effective_precision": "", "threads": 1, "shape": None,
}  # fmt: skip
_CONSTRAINT: Mapping[str, Any] = {"max_ms": None, "of_teacher": None, "statistic": "p50"}


def checked(result: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with every optional part in place. Raises `ReportError` where it is not a result of this schema."""
    missing = [name for name in _REQUIRED if result.get(name) is None]
    if missing:
        raise ReportError(f"a report needs {', '.join(_REQUIRED)}; this result lacks {', '.join(missing)}")
    if result["schema"] != SCHEMA:
        raise ReportError(
            f"this version reads results of schema {SCHEMA}, this one is of schema {result['schema']!r}; "
            "make the report with the version of atb that made the result"
        )
    whole: dict[str, Any] = _cleaned({**_OPTIONAL, **{k: v for k, v in result.items() if v is not None}})
    for part, defaults in (("task", _TASK), ("target", _TARGET), ("constraint", _CONSTRAINT)):
        whole[part] = {**defaults, **whole[part]}
    for name in ("teacher", "winner"):
        whole[name] = {**_MODEL, **whole[name], "name": whole[name].get("name") or name}
    whole["baselines"] = [{**_MODEL, **model} for model in whole["baselines"]]
    for model in axes.models(whole):
        for number in ("accuracy", "latency_ms"):
            if digits.number(model.get(number)) is None:
                raise ReportError(
                    f"every model of a report has a measured {number}; {model.get('name')!r} has {model.get(number)!r}"
                )
    candidates.check(whole)
    return whole


def _cleaned(value: Any) -> Any:
    """A copy whose strings UTF-8 and XML can hold."""
    if isinstance(value, str):
        return digits.clean(value)
    if isinstance(value, Mapping):
        return {digits.clean(k): _cleaned(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(v) for v in value]
    return value
