"""The README of a Triton model repository: how to start it and how to ask it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from atb_export.layouts.serving import Serving
from atb_export.layouts.writing import plain_line

_NEEDS = {
    "onnxruntime": "Triton's `onnxruntime` backend",
    "openvino": "Triton's `openvino` backend",
    "tensorrt": "Triton's `tensorrt` backend",
}
_TOKENIZER_NEEDS = "; for the tokenizer, `pip install numpy tokenizers` there (numpy < 2 before release 24.11)"


def readme(serving: Serving, *, rows: int, texts: int, notes: Sequence[str], own: bool) -> str:
    """Markdown. `rows` and `texts` are the engine's and the ensemble's largest batch; 0 where there is none."""
    lengths = serving.lengths
    needs = "`atb-export` with the engine's extra, in the Python of Triton" if own else _NEEDS[serving.target.backend]
    lines = [
        f"# {plain_line(serving.bundle.manifest.name)}: a Triton model repository",
        "",
        "| engine | effective precision |",
        "|---|---|",
        *(f"| {x.target.label} | {x.effective_precision} |" for x in serving.entries),
        "",
        f"- Needs {needs}{_TOKENIZER_NEEDS if texts else ''}.",
        f"- Labels, in the order of the logits: {', '.join(map(plain_line, serving.labels))}.",
        f"- Texts are padded to {_said(lengths)} tokens; longer ones are cut."
        if texts
        else f"- Rows are of {_said(lengths)} tokens.",
        f"- Up to {rows} rows of different requests are run together."
        if rows > 1
        else "- Rows of different requests are not joined; raise `count` of `instance_group` to run more at a time.",
        *(f"- {x}" for x in notes),
        "- A new version of the model: its folder as `2` beside each `1`; Triton then serves that.",
        "",
        "```",
        "tritonserver --model-repository=/path/to/this/folder",
        "```",
        "",
    ]
    lines += _ask_text(serving) if texts else _ask_tensors(serving)
    return "\n".join(lines) + "\n"


def _said(lengths: Sequence[int]) -> str:
    if len(lengths) > 6:
        return f"{lengths[0]}, {lengths[1]}, ... or {lengths[-1]}"
    return ", ".join(map(str, lengths[:-1])) + " or " * (len(lengths) > 1) + str(lengths[-1])


def _ask_text(serving: Serving) -> list[str]:
    data = ["a text", "and its other half"] if serving.pairs else ["a text"]
    tensor = {"name": "TEXT", "shape": [1, len(data)], "datatype": "BYTES", "data": data}
    outputs = [{"name": "logits", "parameters": {"classification": len(serving.labels)}}]
    url = f"localhost:8000/v2/models/{serving.name}/infer"
    return [
        "Text in, logits out; with the parameter `classification` each answer is `logit:index:label`, best first. A",
        "probability is the softmax of the logits.",
        "",
        "```",
        *(f"curl {url} -d '{json.dumps(x)}'" for x in ({"inputs": [tensor]}, {"inputs": [tensor], "outputs": outputs})),
        "```",
        "",
        f"`{serving.name}_engine` takes token ids from a client that tokenises: {', '.join(map(str, serving.inputs))}.",
    ]


def _ask_tensors(serving: Serving) -> list[str]:
    batch, length = serving.target.shape.dims
    limit = min(length, serving.bundle.manifest.model.max_length)
    return [
        f"`{serving.name}_engine` takes token ids of exactly {batch} rows, and the client tokenises, with",
        f"`{serving.name}_engine/tokenizer.json`:",
        "",
        "```python",
        "import numpy as np, tritonclient.http as triton",
        "from tokenizers import Tokenizer",
        "",
        f'tokenizer = Tokenizer.from_file("{serving.name}_engine/tokenizer.json")',
        f'tokenizer.enable_truncation({limit}, strategy="longest_first")',
        f"tokenizer.enable_padding(length={length}, pad_id={serving.pad_id})",
        f"rows = tokenizer.encode_batch(texts + texts[-1:] * ({batch} - len(texts)))  # at most {batch} texts",
        'sources = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}',
        "inputs = []",
        f"for name, kind in {[(x.name, x.dtype) for x in serving.inputs]}:",
        "    values = np.array([getattr(row, sources[name]) for row in rows], kind)",
        "    inputs.append(triton.InferInput(name, values.shape, kind.upper()))",
        "    inputs[-1].set_data_from_numpy(values)",
        f'answer = triton.InferenceServerClient("localhost:8000").infer("{serving.name}_engine", inputs)',
        'logits = answer.as_numpy("logits")[: len(texts)]',
        "```",
    ]
