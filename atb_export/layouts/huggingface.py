"""A Hugging Face model repository: weights, configuration and tokenizer, ONNX and IR where the hub's tools expect them.

`onnx/model.onnx` and `openvino/openvino_model.xml` are the names that `optimum` loads by default; int8 has the names
its quantisers and sentence-transformers give.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from atb_export.layouts.serving import artifact_files
from atb_export.layouts.writing import Layout, LayoutError, copy_checked, new_folder, plain_line, plain_name, write_text
from runtime.manifest import Bundle

_ONNX = {
    "model.onnx": "model",
    "model-f16.onnx": "model_fp16",
    "model-bf16.onnx": "model_bf16",
    "model-int8.onnx": "model_quantized",
}
_IR = {"": "openvino_model", "int8": "openvino_model_qint8_quantized"}
_NEEDED = ("config.json", "model.safetensors", "tokenizer.json")


def write_huggingface(bundle: Bundle, out: Path) -> Layout:
    """Writes the repository, a new folder. Raises `LayoutError` where the bundle lacks what the hub needs."""
    files = bundle.manifest.files
    if missing := [x for x in _NEEDED if x not in files]:
        raise LayoutError(f"{bundle.folder} has no {', '.join(missing)}, which a hub repository is made of")
    copies = _copies(bundle)
    with new_folder(out) as folder:
        for name, to in copies.items():
            copy_checked(bundle, name, folder / to)
        write_text(folder / "README.md", hub_card(bundle, set(copies.values())))
    left = [x.target.label for x in bundle.manifest.engines if x.artifact not in copies]
    notes = [f"Not in the repository, being compiled for one GPU and version: {', '.join(left)}"] if left else []
    served = tuple(x.target.label for x in bundle.manifest.engines if x.artifact in copies)
    return Layout(folder=out, name=plain_name(bundle.manifest.name), engines=served, notes=tuple(notes))


def _copies(bundle: Bundle) -> dict[str, str]:
    """File of the bundle -> its path in the repository."""
    found = {x: x for x in bundle.manifest.files if "/" not in x and not x.endswith((".onnx", ".onnx.data", ".md"))}
    for name in sorted(bundle.manifest.files):
        if (stem := _ONNX.get(name)) is not None:
            found[name] = f"onnx/{stem}.onnx"
            for other in artifact_files(bundle, name)[1:]:  # external weights keep the name the model has for them
                found[other] = f"onnx/{PurePosixPath(other).name}"
    for entry in bundle.manifest.engines:
        stem = _IR["int8" if entry.target.precision == "int8" else ""]
        if entry.artifact.endswith(".xml") and f"openvino/{stem}.xml" not in found.values():
            for name in artifact_files(bundle, entry.artifact):
                found[name] = f"openvino/{stem}{PurePosixPath(name).suffix}"
    if len(set(found.values())) < len(found):
        raise LayoutError("several files of the bundle would have one name in the repository")
    return found


def hub_card(bundle: Bundle, files: set[str]) -> str:
    """The README: a header that the hub reads, and the manifest's numbers; only what was measured appears."""
    manifest = bundle.manifest
    lines = ["---", *_header(bundle), "---", "", f"# {plain_line(manifest.name)}", ""]
    lines += [f"- Labels: {', '.join(map(plain_line, manifest.model.labels))}"]
    lines += [f"- Longest text: {manifest.model.max_length} tokens; longer ones are cut"]
    lines += [f"- {x}" for x in _numbers(manifest.numbers)]
    lines += ["", "| file | bytes |", "|---|---|"]
    sizes = {to: bundle.manifest.files[name].bytes for name, to in _copies(bundle).items()}
    weights = (".safetensors", ".onnx", ".bin", ".json")
    lines += [f"| `{x}` | {sizes[x]:,} |" for x in sorted(files) if x.endswith(weights)]
    lines += ["", "## Engines that were built and verified", "", "| engine | effective precision |", "|---|---|"]
    lines += [f"| {x.target.label} | {x.effective_precision} |" for x in manifest.engines]
    if parity := list(_parity(manifest.numbers.get("parity", ()))):
        lines += ["", "## Parity with the float64 reference", ""]
        lines += ["| form | error | allowed | same label |", "|---|---|---|---|", *parity]
    lines += ["", "## Use", "", "```python", *_use(bundle, files), "```", ""]
    return "\n".join(lines)


def _header(bundle: Bundle) -> Iterator[str]:
    """YAML whose texts are JSON's, which YAML reads as they are."""
    manifest = bundle.manifest
    tags = ["onnx", "text-classification", "atb-export"]
    tags += ["openvino"] if any(x.artifact.endswith(".xml") for x in manifest.engines) else []
    yield "library_name: transformers"
    yield "pipeline_tag: text-classification"
    yield f"tags: {json.dumps(tags)}"
    measured = manifest.numbers.get("measured")
    if measured is not None:
        shape, target = measured["target"]["shape"], measured["target"]
        conditions = f"batch {shape['batch']}, length {shape['length']}, {target['threads']} thread(s)"
        result = {
            "task": {"type": "text-classification"},
            "dataset": {"name": f"{measured['test_rows']} test rows", "type": "test"},
            "metrics": [
                {"type": str(measured["metric"]), "value": measured["accuracy"]},
                {"type": "latency_p50_ms", "value": measured["latency_ms"], "name": f"p50 ms at {conditions}"},
            ],
        }
        index = [{"name": plain_line(manifest.name), "results": [result]}]
        yield f"model-index: {json.dumps(index)}"


def _numbers(numbers: Mapping[str, Any]) -> Iterator[str]:
    if (measured := numbers.get("measured")) is not None:
        target, of_teacher = measured["target"], measured["of_teacher"]
        shape, (low, high) = target["shape"], measured["latency_ci_ms"]
        yield (
            f"{plain_line(str(measured['metric'])).capitalize()}: {measured['accuracy']:.4f} ± "
            f"{measured['accuracy_se']:.4f} on {measured['test_rows']:,} test rows, "
            f"{of_teacher['accuracy']:.1%} of the teacher's"
        )
        yield (
            f"Latency: p50 {measured['latency_ms']:.3f} ms (95 % interval {low:.3f} to {high:.3f}), "
            f"{of_teacher['latency']:.2f} of the teacher's, at batch {shape['batch']}, length {shape['length']}, "
            f"{target['threads']} thread(s), {target['backend']} in {target['effective_precision']} on "
            f"{plain_line(str(measured['cpu']))}"
        )
    if "parameters" in numbers:
        yield f"Parameters: {numbers['parameters']:,}"
    if "shape" in numbers:
        yield f"Shape: {plain_line(str(numbers['shape']))}"


def _parity(rows: Any) -> Iterator[str]:
    for row in rows:
        stage = plain_line(str(row["stage"]))
        if row.get("skipped") is not None:
            yield f"| {stage} | not run: {plain_line(str(row['skipped']))} | | |"
        else:
            same = f"{row['label_agreement']:.1%} of {row['rows']}"
            yield f"| {stage} | {row['max_abs_error']:.2g} | {row['tolerance']:.2g} | {same} |"


def _use(bundle: Bundle, files: set[str]) -> Iterator[str]:
    config = json.loads((bundle.folder / "config.json").read_bytes())
    own = str(config.get("model_type", "")).startswith("atb")
    yield "from transformers import AutoModelForSequenceClassification, AutoTokenizer"
    if own:
        yield "import atb_export  # the architecture is not a stock one: this registers it"
    yield ""
    yield 'folder = "path/to/this/repository"'
    yield "tokenizer = AutoTokenizer.from_pretrained(folder)"
    yield "model = AutoModelForSequenceClassification.from_pretrained(folder)"
    if "onnx/model.onnx" in files:
        yield ""
        yield "from optimum.onnxruntime import ORTModelForSequenceClassification"
        yield 'model = ORTModelForSequenceClassification.from_pretrained(folder, subfolder="onnx")'
    if "openvino/openvino_model.xml" in files:
        yield ""
        yield "from optimum.intel import OVModelForSequenceClassification"
        yield 'model = OVModelForSequenceClassification.from_pretrained(folder, subfolder="openvino")'
