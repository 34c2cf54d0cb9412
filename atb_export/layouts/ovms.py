"""OpenVINO Model Server: `config.json`, and the IR or ONNX in a folder with a version.

Fields and their types are those of docs/parameters.md and of the schema in src/schema.cpp of the repository
openvinotoolkit/model_server; values of `plugin_config` are texts, which every release reads.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atb_export.layouts.serving import Serving, artifact_files, choose
from atb_export.layouts.writing import Layout, copy_checked, new_folder, plain_line, write_text
from runtime.manifest import Bundle, EngineEntry

BACKENDS = ("openvino", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class OvmsOptions:
    """`max_batch` above the engine's own makes the batch free from 1 to it."""

    engine: str | None = None
    max_batch: int | None = None


def write_ovms(bundle: Bundle, out: Path, options: OvmsOptions) -> Layout:
    """Writes the model server's folder `out`, a new one; each length is a model of its own over the same files."""
    serving = choose(bundle, options.engine, BACKENDS, server="OpenVINO Model Server")
    with new_folder(out) as folder:
        for name in artifact_files(bundle, serving.entries[-1].artifact):
            copy_checked(bundle, name, folder / serving.name / "1" / Path(name).name)
        copy_checked(bundle, bundle.manifest.model.tokenizer, folder / "tokenizer.json")
        config = {"model_config_list": [{"config": _config(serving, x, options)} for x in serving.entries]}
        write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
        notes = _notes(serving)
        write_text(folder / "README.md", _readme(serving, notes))
    return Layout(folder=out, name=serving.name, engines=serving.engine_labels, notes=tuple(notes))


def _model_name(serving: Serving, entry: EngineEntry) -> str:
    return serving.name if len(serving.entries) == 1 else f"{serving.name}-l{entry.target.shape.length}"


def _config(serving: Serving, entry: EngineEntry, options: OvmsOptions) -> dict[str, Any]:
    """One model: its exact shape as it was verified, or ranges where batch and length are free."""
    target = entry.target
    batch, length = str(target.shape.batch), str(target.shape.length)
    most = options.max_batch or target.shape.batch
    if target.dynamic:
        batch, length = f"1:{most}" if most > 1 else "1", f"1:{length}"
    elif most > target.shape.batch:
        batch = f"1:{most}"
    plugin = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(target.threads),
        "ENABLE_CPU_PINNING": "NO",
    }
    if target.device != "CPU":
        plugin = {"PERFORMANCE_HINT": "LATENCY"}
    # int8 is in the graph; the rest of it was verified in f32.
    plugin["INFERENCE_PRECISION_HINT"] = "f32" if serving.precision == "int8" else entry.effective_precision
    return {
        "name": _model_name(serving, entry),
        "base_path": serving.name,
        "model_version_policy": {"latest": {"num_versions": 1}},
        "shape": {x.name: f"({batch},{length})" for x in serving.inputs},
        "nireq": 1,
        "target_device": target.device,
        "plugin_config": plugin,
    }


def _notes(serving: Serving) -> list[str]:
    notes = ["One request is computed at a time (nireq and NUM_STREAMS): raise both for throughput."]
    if serving.target.backend == "onnxruntime":
        notes.append("The ONNX was verified under ONNX Runtime; the model server runs it by OpenVINO.")
    return notes


def _readme(serving: Serving, notes: list[str]) -> str:
    rows = [f"| {_model_name(serving, x)} | {x.target.label} | {x.effective_precision} |" for x in serving.entries]
    return "\n".join(
        [
            f"# {plain_line(serving.bundle.manifest.name)}: for OpenVINO Model Server",
            "",
            "| model | engine | effective precision |",
            "|---|---|---|",
            *rows,
            "",
            f"- Labels, in the order of the logits: {', '.join(map(plain_line, serving.labels))}.",
            *(f"- {x}" for x in notes),
            "- `base_path` is relative to `config.json`; older releases want it absolute.",
            "- A new version of the model: its files in a folder `2` beside `1`.",
            "",
            "```",
            "ovms --config_path /path/to/this/folder/config.json --rest_port 8000",
            "```",
            "",
            *_client(serving),
            "",
        ]
    )


def _client(serving: Serving) -> list[str]:
    """The client's step: tokenise, pad to a length that is served, ask."""
    batch, longest = serving.target.shape.dims
    several = len(serving.entries) > 1
    length, name, fitting = str(longest), f'"{serving.name}"', f"padded to {longest} tokens"
    if serving.dynamic:
        length, fitting = "max(len(x.ids) for x in rows)", f"padded to the longest of them, at most {longest} tokens"
    elif several:
        lengths = [x.target.shape.length for x in serving.entries]
        length, name = (
            f"min(n for n in {lengths} if n >= max(len(x.ids) for x in rows))",
            f'f"{serving.name}-l{{length}}"',
        )
        fitting = "padded to the shortest length that holds them, whose model is asked"
    count = "any number of texts" if serving.dynamic else f"exactly {batch} text{'s' * (batch > 1)}"
    return [
        f"The client tokenises; `texts` are {count}{', each a pair' * serving.pairs}, {fitting}:",
        "",
        "```python",
        "import json, urllib.request",
        "from tokenizers import Tokenizer",
        "",
        'tokenizer = Tokenizer.from_file("tokenizer.json")',
        "tokenizer.no_padding()",
        f"tokenizer.enable_truncation({min(longest, serving.bundle.manifest.model.max_length)}, "
        'strategy="longest_first")',
        "rows = tokenizer.encode_batch(texts)",
        f"length = {length}",
        "for row in rows:",
        f"    row.pad(length, pad_id={serving.pad_id})",
        'sources = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}',
        "inputs = [",
        '    {"name": x, "shape": [len(rows), length], "datatype": kind,',
        '     "data": [getattr(r, sources[x]) for r in rows]}',
        f"    for x, kind in {[(x.name, x.dtype.upper()) for x in serving.inputs]}",
        "]",
        f'url = "http://localhost:8000/v2/models/" + {name} + "/infer"',
        'answer = urllib.request.urlopen(url, json.dumps({"inputs": inputs}).encode())',
        'logits = json.load(answer)["outputs"][0]["data"]  # of all rows, one after another',
        "```",
    ]
