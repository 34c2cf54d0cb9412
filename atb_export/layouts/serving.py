"""Which engines of a bundle a server is given, and the tensors they take."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from atb_export.layouts.writing import LayoutError, plain_name
from runtime.backends.tensorrt.record import RECORD_FILE, PlanRecord
from runtime.manifest import Bundle, EngineEntry
from runtime.target import EngineTarget
from runtime.tensors import TensorSpec

DYNAMIC_STEP = 8  # of the lengths a free-length engine is fed: texts of nearby lengths can share a batch
_PADS = ("[PAD]", "<pad>")
_TEXT_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}


@dataclass(frozen=True, kw_only=True)
class Serving:
    """One engine or the buckets of one: entries that differ in length only, sorted by it.

    `lengths` are those a text is padded to, the shortest that fits. `inputs` are [batch, length]; the one output
    is `logits` [batch, labels].
    """

    bundle: Bundle
    entries: tuple[EngineEntry, ...]
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec

    @property
    def name(self) -> str:
        """The bundle's, safe for folders and URLs."""
        return plain_name(self.bundle.manifest.name)

    @property
    def target(self) -> EngineTarget:
        """That of the longest."""
        return self.entries[-1].target

    @property
    def precision(self) -> str:
        """The effective one."""
        return self.entries[-1].effective_precision

    @property
    def dynamic(self) -> bool:
        """Whether batch and length are free up to the target's."""
        return self.target.dynamic

    @property
    def lengths(self) -> tuple[int, ...]:
        """Ascending, in tokens."""
        if not self.dynamic:
            return tuple(x.target.shape.length for x in self.entries)
        longest = self.target.shape.length
        return (*range(DYNAMIC_STEP, longest, DYNAMIC_STEP), longest)

    @property
    def length_dim(self) -> int:
        """The length as a configuration has it: a number, or -1 where several are served."""
        return self.lengths[0] if len(self.lengths) == 1 else -1

    @property
    def pairs(self) -> bool:
        """Whether the model takes two texts."""
        return any(x.name == "token_type_ids" for x in self.inputs)

    @property
    def labels(self) -> tuple[str, ...]:
        """In the order of the logits."""
        return self.bundle.manifest.model.labels

    @property
    def pad_id(self) -> int:
        """What rows are filled up with, as `runtime.classifier` has it: the padding section's, else the token's."""
        path = self.bundle.tokenizer
        try:
            data = json.loads(path.read_bytes())
            if data.get("padding"):
                return int(data["padding"]["pad_id"])
            ids = {**data["model"]["vocab"], **{x["content"]: x["id"] for x in data.get("added_tokens", ())}}
            return next(int(ids[x]) for x in _PADS if x in ids)
        except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
            raise LayoutError(f"{path} has no padding section and no token {' or '.join(_PADS)}") from error

    @property
    def engine_labels(self) -> tuple[str, ...]:
        """Names of the targets."""
        return tuple(x.target.label for x in self.entries)


def artifact_files(bundle: Bundle, artifact: str) -> tuple[str, ...]:
    """The files of the bundle that loading `artifact` reads, itself first."""
    path = PurePosixPath(artifact)
    if path.suffix == ".onnx":
        names = [artifact, *((path.parent / x).as_posix() for x in _external(bundle.folder / artifact))]
    else:  # an IR and its weights, a plan and its record have a folder of their own
        names = [artifact, *sorted(x for x in bundle.manifest.files if PurePosixPath(x).parent == path.parent)]
    return tuple(dict.fromkeys(names))


def choose(bundle: Bundle, wanted: str | None, backends: Sequence[str], *, server: str) -> Serving:
    """The engines that `server` is given: those of the first of `backends` that the bundle has, in all lengths.

    `wanted` is a backend's name or an `EngineTarget.group`, for all its lengths, or a target's label, for that engine
    alone. Raises `LayoutError` naming what there is.
    """
    entries = bundle.manifest.engines
    have = ", ".join(x.target.label for x in entries) or "none"
    groups = bundle.manifest.groups()
    found: list[tuple[EngineEntry, ...]] = [(x,) for x in entries if x.target.label == wanted]
    found = found or [of for name, of in groups.items() if wanted in (None, name, of[0].target.backend)]
    if not found:
        raise LayoutError(f"the bundle has no engine {wanted or ''}; it has {have}")
    servable = [of for name in backends for of in found if of[0].target.backend == name]
    if not servable:
        raise LayoutError(
            f"{server} serves engines of {', '.join(backends)}; {wanted or 'the bundle'} has only "
            f"{', '.join(x.target.label for of in found for x in of)}"
        )
    chosen = servable[0]
    inputs, output = _tensors(bundle, chosen[-1])
    if unknown := [x.name for x in inputs if x.name not in _TEXT_INPUTS]:
        raise LayoutError(f"the model takes {', '.join(unknown)}; texts give only {', '.join(sorted(_TEXT_INPUTS))}")
    return Serving(bundle=bundle, entries=chosen, inputs=inputs, output=output)


def plan_record(bundle: Bundle, entry: EngineEntry) -> PlanRecord:
    """What is recorded beside a TensorRT plan; raises `BundleError` where nothing is."""
    return PlanRecord.read(bundle.artifact(entry).with_name(RECORD_FILE))


def _external(path: Path) -> list[str]:
    """Files beside an ONNX model that hold weights of it."""
    import onnx

    weights = onnx.load(path, load_external_data=False).graph.initializer
    return sorted({e.value for x in weights for e in x.external_data if e.key == "location"})


def _tensors(bundle: Bundle, entry: EngineEntry) -> tuple[tuple[TensorSpec, ...], TensorSpec]:
    """Inputs and `logits` as the engine has them: a plan's record says it, of others an ONNX of the bundle.

    All graphs of a bundle take and give the same, whatever they compute in.
    """
    if entry.target.backend == "tensorrt":
        record = plan_record(bundle, entry)
        inputs, outputs = record.inputs, record.outputs
    else:
        inputs, outputs = _onnx_tensors(bundle, entry)
    logits = [x for x in outputs if x.name == "logits"]
    if not logits or len(logits[0].shape) != 2:
        raise LayoutError(f"{entry.target.label} has no output logits [batch, labels]: {', '.join(map(str, outputs))}")
    return inputs, logits[0]


def _onnx_tensors(bundle: Bundle, entry: EngineEntry) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    import onnx

    models = [x for x in sorted(bundle.manifest.files) if x.endswith(".onnx")]
    source = next((x for x in (entry.artifact, "model.onnx", *models) if x in models), None)
    if source is None:
        raise LayoutError(f"{bundle.folder} has no ONNX model, which would tell what {entry.target.label} takes")
    graph = onnx.load(bundle.folder / source, load_external_data=False).graph
    weights = {x.name for x in graph.initializer}

    def spec(value: Any) -> TensorSpec:
        kind = value.type.tensor_type
        dims = tuple(d.dim_value or d.dim_param or f"dim{i}" for i, d in enumerate(kind.shape.dim))
        return TensorSpec(name=value.name, dtype=onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name, shape=dims)

    return tuple(spec(x) for x in graph.input if x.name not in weights), tuple(map(spec, graph.output))
