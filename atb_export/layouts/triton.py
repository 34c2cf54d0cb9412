"""A Triton model repository: the engine, the tokenizer as a Python model, and an ensemble of both that takes texts.

What the backends read of `config.pbtxt` is documented in the repositories triton-inference-server/server
(docs/user_guide/model_configuration.md), onnxruntime_backend, openvino_backend, tensorrt_backend and python_backend.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from atb_export.layouts import triton_readme
from atb_export.layouts.pbtxt import Enum, Value, text_of
from atb_export.layouts.serving import Serving, artifact_files, choose, plan_record
from atb_export.layouts.writing import Layout, LayoutError, copy_checked, new_folder, plain_line, write_text
from runtime.manifest import Bundle, write_manifest

BACKENDS = ("onnxruntime", "openvino", "tensorrt")
FREE_BATCH = 8  # rows that are run together at most, where neither the user nor the engine says
_TYPES = {
    "int64": "TYPE_INT64",
    "int32": "TYPE_INT32",
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "bfloat16": "TYPE_BF16",
}
_SERVED = Path(__file__).parent / "served"


@dataclass(frozen=True, kw_only=True)
class TritonOptions:
    """`max_batch` rows are run together at most, by default the engine's own batch or `FREE_BATCH`.

    A request waits for others up to `queue_delay_us`. `python_engine` runs the bundle's engines by our own runtime in
    Triton's Python backend.
    """

    engine: str | None = None
    max_batch: int | None = None
    queue_delay_us: int = 100
    python_engine: bool = False


def write_triton(bundle: Bundle, out: Path, options: TritonOptions) -> Layout:
    """Writes the model repository into the new folder `out`. Raises `LayoutError` for what Triton cannot serve."""
    order = dict.fromkeys([*(x.target.backend for x in bundle.manifest.engines if options.engine is None), *BACKENDS])
    serving = choose(bundle, options.engine, tuple(order), server="Triton")
    batch, notes = _batch(serving, options)
    with new_folder(out) as folder:
        engine = f"{serving.name}_engine"
        config = _engine_config(serving, engine, batch, options)
        _write_model(folder / engine, config)
        write_text(folder / engine / "labels.txt", "".join(plain_line(x) + "\n" for x in serving.labels))
        _write_warm_up(folder / engine, serving)
        if options.python_engine:
            _write_own_engine(serving, folder / engine / "1")
        else:
            for name in artifact_files(bundle, serving.entries[-1].artifact):
                copy_checked(bundle, name, folder / engine / "1" / Path(name).name)
        if batch.texts:
            tokenizer = f"{serving.name}_tokenizer"
            _write_model(folder / tokenizer, _tokenizer_config(serving, tokenizer, batch.texts, options))
            copy_checked(bundle, bundle.manifest.model.tokenizer, folder / tokenizer / "1" / "tokenizer.json")
            write_text(folder / tokenizer / "1" / "model.py", (_SERVED / "tokenizer_model.py").read_text())
            _write_model(folder / serving.name, _ensemble_config(serving, tokenizer, engine, batch))
            (folder / serving.name / "1").mkdir()
        else:
            copy_checked(bundle, bundle.manifest.model.tokenizer, folder / engine / "tokenizer.json")
        write_text(
            folder / "README.md",
            triton_readme.readme(serving, rows=batch.rows, texts=batch.texts, notes=notes, own=options.python_engine),
        )
    return Layout(folder=out, name=serving.name, engines=serving.engine_labels, notes=tuple(notes))


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """`rows` is the engine's max_batch_size (0: its tensors have a batch dimension of their own, `dim`).

    `texts` is that of the ensemble, 0 where there is none.
    """

    rows: int
    texts: int
    dim: int = -1


def _batch(serving: Serving, options: TritonOptions) -> tuple[_Batch, list[str]]:
    """How many rows are run together, and what the user should know about it."""
    own, asked, backend = serving.target.shape.batch, options.max_batch, serving.target.backend
    if options.python_engine:
        rows = asked or max(own, FREE_BATCH)
        return _Batch(rows=rows, texts=rows), ["The engine runs in Triton's Python backend, by ATB's runtime."]
    if backend == "onnxruntime":
        rows = asked or max(own, FREE_BATCH)
        return _Batch(rows=rows, texts=rows), []
    if backend == "tensorrt":
        return _plan_batch(serving, asked)
    notes = []
    if serving.precision != "bf16":
        notes.append(
            f"The engine was verified in {serving.precision}. Triton's OpenVINO backend can ask for bf16 but not for "
            "f32, and on a CPU with bf16 (AMX, AVX512-BF16) OpenVINO computes float parts in bf16 by default: serve it "
            "on a CPU without, or a bf16 engine, or use --python-engine, which keeps the precision."
        )
    if serving.dynamic:
        notes.append("Rows of different requests are not joined: the engine takes any batch a request brings.")
        return _Batch(rows=0, texts=asked or own), notes
    rows = asked or own
    if rows > 1:
        notes.append(
            f"OpenVINO runs {rows} rows at a time and Triton fills missing ones with padding. Releases without the fix "
            "of openvino_backend's pull request 115 answer a full batch after a partial one wrongly: check yours, "
            "or export with --dynamic, or leave --max-batch at 1."
        )
    return _Batch(rows=rows, texts=rows), notes


def _plan_batch(serving: Serving, asked: int | None) -> tuple[_Batch, list[str]]:
    own, entry = serving.target.shape.batch, serving.entries[-1]
    if len({x.artifact for x in serving.entries}) > 1:
        raise LayoutError(
            f"{serving.target.group} has a plan for each length, and Triton takes one plan for a model: name one with "
            f"--engine ({', '.join(serving.engine_labels)}), or use --python-engine, which runs them all"
        )
    record = plan_record(serving.bundle, entry)
    if record.flavour != "tensorrt":
        raise LayoutError(
            f"{entry.target.label} is a plan of {record.flavour}, which Triton's tensorrt backend cannot load: "
            "export with the package tensorrt of your Triton's version, or use --python-engine"
        )
    if asked is not None and asked > own:
        raise LayoutError(
            f"--max-batch is {asked}, but the plan was built for batches up to {own}: {entry.target.label}"
        )
    gpus = ", ".join(record.compute_capabilities) + (f" ({record.gpu})" if record.gpu else "")
    version = "that version or a later one" if record.version_compatible else "the same version"
    notes = [f"The plan was built by TensorRT {record.version} for {gpus}: Triton must bring {version}."]
    if record.version_compatible:
        notes.append("Start Triton with --backend-config=tensorrt,version-compatible=true.")
    if serving.dynamic or own == 1:
        rows = asked or own
        return _Batch(rows=rows, texts=rows), notes
    notes.append(f"The plan takes {own} rows, no fewer: a client fills them up, and there is no ensemble.")
    return _Batch(rows=0, texts=0, dim=own), notes


# --- configurations -------------------------------------------------------------------------------------------------


def _engine_config(serving: Serving, name: str, batch: _Batch, options: TritonOptions) -> dict[str, Value]:
    target = serving.target
    backend = "python" if options.python_engine else target.backend
    lead = [] if batch.rows else [batch.dim]
    config: dict[str, Value] = {
        "name": name,
        "backend": backend,
        "max_batch_size": batch.rows,
        "version_policy": {"latest": {"num_versions": 1}},
        "input": [_tensor(x.name, x.dtype, [*lead, serving.length_dim]) for x in serving.inputs],
        "output": [
            {
                **_tensor("logits", serving.output.dtype, [*lead, len(serving.labels)]),
                "label_filename": "labels.txt",
            }
        ],
        "instance_group": [_instances(serving, backend)],
    }
    if backend != "python":
        config["default_model_filename"] = Path(serving.entries[-1].artifact).name
    config |= _batching(batch.rows, options)
    if backend == "onnxruntime":
        config["parameters"] = _parameters(
            intra_op_thread_count=str(target.threads), inter_op_thread_count="1", execution_mode="0"
        )
    elif backend == "openvino":
        parameters = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(target.threads),
            "RESHAPE_IO_LAYERS": "YES",
        }
        if serving.precision == "bf16":
            parameters["HINT_BF16"] = "YES"
        if batch.rows > 1:
            parameters["ENABLE_BATCH_PADDING"] = "YES"
        config["parameters"] = _parameters(**parameters)
    elif backend == "tensorrt" and not serving.dynamic:
        config["optimization"] = {"cuda": {"graphs": True}}
    config["model_warmup"] = [
        _warm_up(serving, length, rows, lead)
        for length in _warm_lengths(serving)
        for rows in ((1, batch.rows) if batch.rows > 1 else (1,))
    ]
    return config


def _instances(serving: Serving, backend: str) -> dict[str, Value]:
    on_gpu = serving.target.backend == "tensorrt"
    found: dict[str, Value] = {"count": 1, "kind": Enum("KIND_GPU" if on_gpu else "KIND_CPU")}
    if backend == "tensorrt":
        record = plan_record(serving.bundle, serving.entries[-1])
        if len(record.profiles) > 1:  # of those named here Triton chooses the one that fits a request
            found["profile"] = [str(record.profile_of(x.target)) for x in serving.entries]
    return found


def _batching(rows: int, options: TritonOptions) -> dict[str, Value]:
    """Nothing where there is nothing to join."""
    if rows < 2:
        return {}
    sizes = [x for x in (2**i for i in range(1, 16)) if x < rows]
    return {
        "dynamic_batching": {
            "preferred_batch_size": [*sizes, rows],
            "max_queue_delay_microseconds": options.queue_delay_us,
        }
    }


def _tokenizer_config(serving: Serving, name: str, rows: int, options: TritonOptions) -> dict[str, Value]:
    model = serving.bundle.manifest.model
    return {
        "name": name,
        "backend": "python",
        "max_batch_size": rows,
        "version_policy": {"latest": {"num_versions": 1}},
        "input": [_text_tensor(serving)],
        "output": [_tensor(x.name, x.dtype, [serving.length_dim]) for x in serving.inputs],
        "instance_group": [{"count": 1, "kind": Enum("KIND_CPU")}],
        # Requests that wait here are tokenised in one call; the delay is the engine's alone.
        **_batching(rows, replace(options, queue_delay_us=0)),
        "parameters": _parameters(
            lengths=",".join(map(str, serving.lengths)),
            max_length=str(model.max_length),
            pad_id=str(serving.pad_id),
            inputs=",".join(x.name for x in serving.inputs),
        ),
    }


def _ensemble_config(serving: Serving, tokenizer: str, engine: str, batch: _Batch) -> dict[str, Value]:
    names = [x.name for x in serving.inputs]
    return {
        "name": serving.name,
        "platform": "ensemble",
        "max_batch_size": batch.texts,
        "version_policy": {"latest": {"num_versions": 1}},
        "input": [_text_tensor(serving)],
        "output": [_tensor("logits", serving.output.dtype, [len(serving.labels)])],
        "ensemble_scheduling": {
            "step": [
                {
                    "model_name": tokenizer,
                    "model_version": -1,
                    "input_map": [{"key": "TEXT", "value": "TEXT"}],
                    "output_map": [{"key": x, "value": x} for x in names],
                },
                {
                    "model_name": engine,
                    "model_version": -1,
                    "input_map": [{"key": x, "value": x} for x in names],
                    "output_map": [{"key": "logits", "value": "logits"}],
                },
            ]
        },
    }


def _tensor(name: str, dtype: str, dims: list[int]) -> dict[str, Value]:
    if dtype not in _TYPES:
        raise LayoutError(f"{name} is {dtype}; Triton is given {', '.join(_TYPES)}")
    return {"name": name, "data_type": Enum(_TYPES[dtype]), "dims": dims}


def _text_tensor(serving: Serving) -> dict[str, Value]:
    """One text a row, or the two of a pair."""
    return {"name": "TEXT", "data_type": Enum("TYPE_STRING"), "dims": [2 if serving.pairs else 1]}


def _parameters(**values: str) -> list[Value]:
    return [{"key": name, "value": {"string_value": value}} for name, value in values.items()]


def _warm_lengths(serving: Serving) -> tuple[int, ...]:
    """Each length of its own; of free ones the longest."""
    return serving.lengths[-1:] if serving.dynamic else serving.lengths


def _warm_up(serving: Serving, length: int, rows: int, lead: list[int]) -> dict[str, Value]:
    """Every position is a token: the mask is read from a file of ones, since random ids are no tokens."""
    inputs: list[Value] = []
    for x in serving.inputs:
        source: Mapping[str, Value] = {"zero_data": True}
        if x.name == "attention_mask":
            source = {"input_data_file": _ones_file(length)}
        dims = [*(abs(n) for n in lead), length]
        inputs.append({"key": x.name, "value": {"data_type": Enum(_TYPES[x.dtype]), "dims": dims, **source}})
    return {"name": f"length {length}, {rows} row(s)", "batch_size": rows, "inputs": inputs}


def _ones_file(length: int) -> str:
    return f"ones_{length}"


# --- files ----------------------------------------------------------------------------------------------------------


def _write_model(folder: Path, config: Mapping[str, Value]) -> None:
    write_text(folder / "config.pbtxt", text_of(config))


def _write_warm_up(folder: Path, serving: Serving) -> None:
    """The files that `_warm_up` names: ones of the mask's type, for as many rows as one sample can have."""
    mask = next((x for x in serving.inputs if x.name == "attention_mask"), None)
    if mask is None:
        return
    code = {"int64": "q", "int32": "i"}[mask.dtype]
    (folder / "warmup").mkdir(parents=True)
    for length in _warm_lengths(serving):
        count = length * serving.target.shape.batch
        (folder / "warmup" / _ones_file(length)).write_bytes(struct.pack(f"<{count}{code}", *[1] * count))


def _write_own_engine(serving: Serving, folder: Path) -> None:
    """A bundle of nothing but the served engines, and the model that loads it."""
    bundle = serving.bundle
    names = dict.fromkeys(x for entry in serving.entries for x in artifact_files(bundle, entry.artifact))
    for name in dict.fromkeys([*names, bundle.manifest.model.tokenizer]):
        copy_checked(bundle, name, folder / "bundle" / name)
    write_manifest(folder / "bundle", replace(bundle.manifest, engines=serving.entries, files={}))
    write_text(folder / "model.py", (_SERVED / "engine_model.py").read_text())
