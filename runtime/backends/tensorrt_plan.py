"""What `plan.json` says of the plan beside it: its builder, its target, and the hash it must have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import BundleError, UnsupportedTarget
from runtime.onnx_file import TensorSpec
from runtime.target import EngineTarget

PLAN_FILE = "model.plan"
RECORD_FILE = "plan.json"  # sorts after the plan: it appears when the plan is in place
_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class ProfiledInput:
    """An input and the shapes its optimisation profile allows; equal for engines of one fixed shape."""

    name: str
    dtype: str
    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        shapes = {name: list(getattr(self, name)) for name in ("min", "opt", "max")}
        return {"name": self.name, "dtype": self.dtype, **shapes}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ProfiledInput:
        """The inverse of `to_json`."""
        shapes = {name: tuple(data[name]) for name in ("min", "opt", "max")}
        return cls(name=data["name"], dtype=data["dtype"], **shapes)


@dataclass(frozen=True, kw_only=True)
class PlanRecord:
    """Everything about a plan that can be known without a GPU."""

    flavour: str
    version: str
    target: EngineTarget
    effective_precision: str
    inputs: tuple[ProfiledInput, ...]
    outputs: tuple[TensorSpec, ...]
    plan_sha256: str
    plan_bytes: int
    onnx_sha256: str

    def refuse_other(self, target: EngineTarget) -> None:
        """Raises `UnsupportedTarget` where `target` is not what the plan was built for."""
        asked = (target.backend, target.shape, target.precision)
        built = (self.target.backend, self.target.shape, self.target.precision)
        if asked != built or not set(target.devices) <= {*self.target.devices, "current"}:
            raise UnsupportedTarget(
                f"the plan was built for {self.target.label}, not for {target.label}: build one for that"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back."""
        return {
            "schema": _SCHEMA,
            "flavour": self.flavour,
            "version": self.version,
            "target": self.target.to_json(),
            "compute_capabilities": list(self.target.devices),
            "effective_precision": self.effective_precision,
            "inputs": [x.to_json() for x in self.inputs],
            "outputs": [x.to_json() for x in self.outputs],
            "plan_sha256": self.plan_sha256,
            "plan_bytes": self.plan_bytes,
            "onnx_sha256": self.onnx_sha256,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PlanRecord:
        """Raises `ValueError` for an unknown schema, `KeyError` for a missing field."""
        if data["schema"] != _SCHEMA:
            raise ValueError(f"schema {data['schema']!r} is unknown; this version reads schema {_SCHEMA}")
        return cls(
            flavour=data["flavour"],
            version=data["version"],
            target=EngineTarget.from_json(data["target"]),
            effective_precision=data["effective_precision"],
            inputs=tuple(ProfiledInput.from_json(x) for x in data["inputs"]),
            outputs=tuple(TensorSpec.from_json(x) for x in data["outputs"]),
            plan_sha256=data["plan_sha256"],
            plan_bytes=data["plan_bytes"],
            onnx_sha256=data["onnx_sha256"],
        )

    @classmethod
    def read(cls, path: Path) -> PlanRecord:
        """Raises `BundleError` where the file is missing or is not a plan's record."""
        if not path.is_file():
            raise BundleError(f"there is no {path}: a plan is loaded only with the record that vouches for it")
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError) as error:
            raise BundleError(f"{path} is not the record of a plan: {error!r}") from error
