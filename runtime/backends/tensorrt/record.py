"""What `plan.json` says of the plan beside it: its builder, what it serves and runs on, and the hash it must have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import BackendUnavailable, BundleError, UnsupportedTarget
from runtime.target import EngineTarget, Shape
from runtime.tensors import TensorSpec

PLAN_FILE = "model.plan"
RECORD_FILE = "plan.json"  # sorts after the plan: it appears when the plan is in place
REBUILD = "build it again on this machine from the ONNX it was made of: atb export --rebuild BUNDLE"
_SCHEMA = 2


@dataclass(frozen=True, kw_only=True)
class ShapeRange:
    """What an optimisation profile allows an input; all three are equal for engines of one fixed shape."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back."""
        return {name: list(getattr(self, name)) for name in ("min", "opt", "max")}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ShapeRange:
        """Raises `KeyError` for a missing field."""
        return cls(**{name: tuple(data[name]) for name in ("min", "opt", "max")})


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One optimisation profile: the shape it is for, and by input what the builder says that it allows."""

    shape: Shape
    ranges: Mapping[str, ShapeRange]

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back."""
        return {"shape": self.shape.to_json(), "ranges": {name: x.to_json() for name, x in self.ranges.items()}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Profile:
        """Raises `KeyError` for a missing field."""
        ranges = {name: ShapeRange.from_json(x) for name, x in data["ranges"].items()}
        return cls(shape=Shape.from_json(data["shape"]), ranges=ranges)


@dataclass(frozen=True, kw_only=True)
class PlanRecord:
    """Everything about a plan that can be known without a GPU.

    `compute_capabilities` are the GPUs it runs on, such as "sm_89", or "sm_80+" for that and all later ones; `gpu` is
    the name of the only model that it runs on, or None. A `version_compatible` plan loads with later releases too.
    Dimensions of `inputs` and `outputs` that the model leaves free are names.
    """

    flavour: str
    version: str
    version_compatible: bool
    target: EngineTarget
    compute_capabilities: tuple[str, ...]
    gpu: str | None
    effective_precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profiles: tuple[Profile, ...]
    plan_sha256: str
    plan_bytes: int
    onnx_sha256: str

    def profile_of(self, target: EngineTarget) -> int:
        """The number of the profile that serves the target; raises `UnsupportedTarget` where there is none."""
        asked = (target.backend, target.precision, target.dynamic)
        built = (self.target.backend, self.target.precision, self.target.dynamic)
        shapes = [profile.shape for profile in self.profiles]
        known = set(target.devices) <= {*self.target.devices, *self.compute_capabilities, "current"}
        if asked != built or not known or target.shape not in shapes:
            sizes = ", ".join(f"{shape.batch}x{shape.length}" for shape in shapes)
            raise UnsupportedTarget(
                f"the plan was built for {self.target.label} (batch x length: {sizes}), not for {target.label}: "
                "build one for that"
            )
        return shapes.index(target.shape)

    def refuse_version(self, installed: str) -> None:
        """Raises `BackendUnavailable` where the installed release cannot load the plan."""
        later = self.version_compatible and _numbers(installed) >= _numbers(self.version)
        if installed == self.version or (later and _numbers(installed)[:1] == _numbers(self.version)[:1]):
            return
        loads = "that or a later release of the same major version" if self.version_compatible else "that version only"
        raise BackendUnavailable(
            f"the plan was built by {self.flavour} {self.version} and loads with {loads}; "
            f"{installed} is installed: install the other, or {REBUILD}"
        )

    def refuse_gpu(self, capability: str, name: str) -> None:
        """Raises `UnsupportedTarget` where the plan was built for other GPUs than this."""
        fits = any(
            capability == x or (x.endswith("+") and _sm(capability) >= _sm(x)) for x in self.compute_capabilities
        )
        if fits and self.gpu in (None, name):
            return
        built = ", ".join(self.compute_capabilities) + (f" ({self.gpu})" if self.gpu else "")
        raise UnsupportedTarget(f"the plan was built for {built}; this GPU is {capability} ({name}): {REBUILD}")

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back."""
        return {
            "schema": _SCHEMA,
            "flavour": self.flavour,
            "version": self.version,
            "version_compatible": self.version_compatible,
            "target": self.target.to_json(),
            "compute_capabilities": list(self.compute_capabilities),
            "gpu": self.gpu,
            "effective_precision": self.effective_precision,
            "inputs": [x.to_json() for x in self.inputs],
            "outputs": [x.to_json() for x in self.outputs],
            "profiles": [x.to_json() for x in self.profiles],
            "plan_sha256": self.plan_sha256,
            "plan_bytes": self.plan_bytes,
            "onnx_sha256": self.onnx_sha256,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PlanRecord:
        """Raises `ValueError` for an unknown schema, `KeyError` for a missing field."""
        if data["schema"] != _SCHEMA:
            raise ValueError(f"schema {data['schema']!r} is unknown, this version reads schema {_SCHEMA}: {REBUILD}")
        return cls(
            flavour=data["flavour"],
            version=data["version"],
            version_compatible=data["version_compatible"],
            target=EngineTarget.from_json(data["target"]),
            compute_capabilities=tuple(data["compute_capabilities"]),
            gpu=data["gpu"],
            effective_precision=data["effective_precision"],
            inputs=tuple(TensorSpec.from_json(x) for x in data["inputs"]),
            outputs=tuple(TensorSpec.from_json(x) for x in data["outputs"]),
            profiles=tuple(Profile.from_json(x) for x in data["profiles"]),
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
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(f"{path} is not the record of a plan: {error!r}") from error


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _sm(capability: str) -> int:
    return int(capability.removeprefix("sm_").removesuffix("+"))
