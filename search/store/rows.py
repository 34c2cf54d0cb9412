"""What the store keeps. Each row is checked when made, and again when read: a store may come from a stranger."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, TypeAlias

from supernet.space import SubnetConfig

LARGEST_REPORT_BYTES = 64 * 2**20  # of JSON
_LONGEST_NAME = 500
_LARGEST = 2**63  # of SQLite's integers
_HASH = re.compile(r"[0-9a-f]{64}")
# As `datetime.isoformat` has it in UTC, so that the order of the texts is the order of the times.
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?\+00:00")


def utc_now() -> str:
    """This moment as rows write it, such as `2026-03-01T12:00:00.000001+00:00`."""
    return datetime.now(UTC).isoformat()


def canonical(value: object) -> str:
    """The one JSON text of plain data: sorted, without spaces. Raises `ValueError` for NaN and what is no JSON."""
    try:
        return json.dumps(value, allow_nan=False, sort_keys=True, separators=(",", ":"))
    except (TypeError, RecursionError) as error:
        raise ValueError(f"not plain data: {error}") from error


def parse(text: str | bytes) -> Any:
    """JSON, and nothing else: raises `ValueError` for NaN, wrong text and what nests too deep."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("it nests too deep") from error


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def check_name(name: str, value: object, *, longest: int = _LONGEST_NAME) -> None:
    """Raises `ValueError` unless `value` is text of one line that names something."""
    _check(
        isinstance(value, str) and 0 < len(value) <= longest and value.isprintable(),
        f"{name} is a printable text of 1 to {longest} characters, got {str(value)[:80]!r}",
    )


def check_time(name: str, value: object) -> None:
    """Raises `ValueError` unless `value` is a time as `utc_now` writes it."""
    _check(
        isinstance(value, str) and _TIME.fullmatch(value) is not None,
        f"{name} is a UTC time such as 2026-03-01T12:00:00+00:00, got {value!r}",
    )


def _check_hash(name: str, value: object) -> None:
    _check(
        isinstance(value, str) and _HASH.fullmatch(value) is not None,
        f"{name} is a SHA-256 of 64 hexadecimal digits, got {value!r}",
    )


def _check_count(name: str, value: object, *, least: int) -> None:
    _check(
        type(value) is int and least <= value < _LARGEST, f"{name} is a whole number of {least} or more, got {value!r}"
    )


def _number(name: str, value: object, *, positive: bool = False) -> float:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    _check(good, f"{name} is a finite number, got {str(value)[:80]}")
    number = float(value) + 0.0  # type: ignore[arg-type]  # plus zero: -0.0 does not outlive a column of SQLite
    _check(not positive or number > 0, f"{name} is positive, got {value!r}")
    return number


def _plain(name: str, value: object) -> dict[str, Any]:
    """A copy of JSON data that nobody else holds, as it will be read back: tuples have become lists."""
    _check(isinstance(value, Mapping), f"{name} is an object, got {type(value).__name__}")
    try:
        text = canonical(value)
    except ValueError as error:
        raise ValueError(f"{name} is {error}") from error
    _check(len(text) <= LARGEST_REPORT_BYTES, f"{name} has at most {LARGEST_REPORT_BYTES} bytes, got {len(text)}")
    copy: dict[str, Any] = parse(text)
    return copy


def plain_subnet(value: object) -> dict[str, Any]:
    """The one form of a subnet's plain data; raises `ValueError` for what is none."""
    _check(isinstance(value, Mapping), f"subnet is an object, got {type(value).__name__}")
    return SubnetConfig.from_json(value).to_json()  # type: ignore[arg-type]


def require_fields(what: str, data: object, names: set[str]) -> dict[str, Any]:
    """The same object; raises `ValueError` where one of the fields is missing or another is there."""
    _check(isinstance(data, Mapping), f"{what} is an object, got {type(data).__name__}")
    found: dict[str, Any] = dict(data)  # type: ignore[call-overload]
    wrong = sorted(names ^ set(found))
    _check(not wrong, f"{what} has {', '.join(sorted(names))}; missing or unknown: {', '.join(wrong)}")
    return found


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """What a latency holds for.

    `graph` is the hash of the graph without weight values, `target` an engine target's label, `runtime` names
    the backend with its version, `hardware` is a fingerprint of the machine.
    """

    graph: str
    target: str
    effective_precision: str
    batch: int
    length: int
    threads: int
    runtime: str
    hardware: str

    def __post_init__(self) -> None:
        _check_hash("graph", self.graph)
        for name in ("target", "effective_precision", "runtime", "hardware"):
            check_name(name, getattr(self, name))
        for name in ("batch", "length", "threads"):
            _check_count(name, getattr(self, name), least=1)

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: object) -> EngineKey:
        """Raises `ValueError` where a field is missing, unknown or out of range."""
        return cls(**require_fields("an engine's key", data, {x.name for x in fields(cls)}))


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One measured engine.

    `ms` and its 95 % interval `ci_ms` are on the scale of a calm machine: the ratio to the reference engine
    times `reference_ms`, the reference's calm time; `reference` is the hash of its graph. `report` is the whole
    latency report with its raw samples; None only in rows that were read without it.
    """

    key: EngineKey
    ms: float
    ci_ms: tuple[float, float]
    subnet: dict[str, Any] | None = None
    reference: str
    reference_ms: float
    report: dict[str, Any] | None
    flops: int | None = None
    model_bytes: int | None = None
    created: str = field(default_factory=utc_now)

    def __post_init__(self) -> None:
        _check(isinstance(self.key, EngineKey), f"key is an EngineKey, got {type(self.key).__name__}")
        _check_hash("reference", self.reference)
        check_time("created", self.created)
        for name in ("flops", "model_bytes"):
            if getattr(self, name) is not None:
                _check_count(name, getattr(self, name), least=0)
        _check(
            isinstance(self.ci_ms, (tuple, list)) and len(self.ci_ms) == 2,
            f"ci_ms is a pair of milliseconds, got {self.ci_ms!r}",
        )
        low, high = (_number("ci_ms", x) for x in self.ci_ms)
        _check(0 <= low <= high, f"ci_ms is a pair low <= high of milliseconds, got {self.ci_ms}")
        _set(self, ms=_number("ms", self.ms, positive=True), ci_ms=(low, high))
        _set(self, reference_ms=_number("reference_ms", self.reference_ms, positive=True))
        if self.subnet is not None:
            _set(self, subnet=plain_subnet(self.subnet))
        if self.report is not None:
            _set(self, report=_plain("report", self.report))

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back."""
        plain = {x.name: getattr(self, x.name) for x in fields(self)}
        return plain | {"key": self.key.to_json(), "ci_ms": list(self.ci_ms)}

    @classmethod
    def from_json(cls, data: object) -> Measurement:
        """Raises `ValueError` where a field is missing, unknown or out of range."""
        values = require_fields("a measurement", data, {x.name for x in fields(cls)})
        return cls(**values | {"key": EngineKey.from_json(values["key"])})


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An engine that could not be built, verified or timed, and why.

    Where no engine came to be, the key's `effective_precision` is whatever the caller always says then.
    """

    key: EngineKey
    reason: str
    created: str = field(default_factory=utc_now)

    def __post_init__(self) -> None:
        _check(isinstance(self.key, EngineKey), f"key is an EngineKey, got {type(self.key).__name__}")
        _check(isinstance(self.reason, str) and bool(self.reason), "a failure says its reason")
        # What a compiler wrote may hold anything; a text of SQLite may not.
        _set(self, reason=self.reason.encode("utf-8", "replace").decode())
        check_time("created", self.created)

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back."""
        return {"key": self.key.to_json(), "reason": self.reason, "created": self.created}

    @classmethod
    def from_json(cls, data: object) -> Failure:
        """Raises `ValueError` where a field is missing, unknown or out of range."""
        values = require_fields("a failure", data, {x.name for x in fields(cls)})
        return cls(**values | {"key": EngineKey.from_json(values["key"])})


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How well a subnet with the weights of `checkpoint` does on the first `rows` rows of `data`.

    `precision` is "float" or how the weights were rounded; `complete` says that these are all rows of `data`.
    `correct`: row i was right where bit i % 8 (the least significant is 0) of byte i // 8 is set.
    """

    checkpoint: str
    subnet: dict[str, Any]
    precision: str
    data: str
    rows: int
    complete: bool
    accuracy: float
    correct: bytes | None = None
    created: str = field(default_factory=utc_now)

    def __post_init__(self) -> None:
        for name in ("checkpoint", "precision", "data"):
            check_name(name, getattr(self, name))
        check_time("created", self.created)
        _check_count("rows", self.rows, least=1)
        _check(type(self.complete) is bool, f"complete is true or false, got {self.complete!r}")
        _set(self, subnet=plain_subnet(self.subnet), accuracy=_number("accuracy", self.accuracy))
        if self.correct is not None:
            _check(isinstance(self.correct, bytes), f"correct is a bitmap, got {type(self.correct).__name__}")
            whole, bits = -(-self.rows // 8), int.from_bytes(self.correct, "little")
            _check(
                len(self.correct) == whole and not bits >> self.rows,
                f"correct has one bit for each of the {self.rows} rows in {whole} bytes, "
                f"got {len(self.correct)} bytes and {bits.bit_length()} bits",
            )

    def to_json(self) -> dict[str, Any]:
        """Plain data, the bitmap in base64; `from_json` reads it back."""
        plain = {x.name: getattr(self, x.name) for x in fields(self)}
        return plain | {"correct": None if self.correct is None else base64.b64encode(self.correct).decode()}

    @classmethod
    def from_json(cls, data: object) -> Accuracy:
        """Raises `ValueError` where a field is missing, unknown or out of range."""
        values = require_fields("an accuracy", data, {x.name for x in fields(cls)})
        packed = values["correct"]
        _check(packed is None or isinstance(packed, str), f"correct is base64, got {type(packed).__name__}")
        return cls(**values | {"correct": None if packed is None else base64.b64decode(packed, validate=True)})


Row: TypeAlias = Measurement | Failure | Accuracy


def _set(row: object, **values: object) -> None:
    """Puts the checked form of fields into a frozen row while it is made."""
    for name, value in values.items():
        object.__setattr__(row, name, value)
