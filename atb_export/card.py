"""The model card: the bundle's README.md, in the form Hugging Face shows."""

from __future__ import annotations

from typing import Any

from runtime.manifest import Manifest

_FOUND = ", found by measuring compiled engines and distilled from a teacher"


def model_card(manifest: Manifest, *, task: str) -> str:
    """Markdown with a metadata header; only numbers that were measured appear."""
    model, numbers = manifest.model, manifest.numbers
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-classification",
        "tags: [bert, onnx, openvino, atb-export]",
        "---",
        "",
        f"# {_plain(manifest.name)}",
        "",
        f"A tiny BERT for {_plain(task)}{_FOUND if manifest.parents else ''}.",
        "",
        f"- Labels: {', '.join(_plain(label) for label in model.labels)}",
        f"- Longest text: {model.max_length} tokens; longer ones are cut",
    ]
    lines += [f"- {text}" for text in _numbers(numbers)]
    lines += ["", "## Engines", "", "| target | effective precision | file |", "|---|---|---|"]
    lines += [f"| {x.target.label} | {x.effective_precision} | `{x.artifact}` |" for x in manifest.engines]
    lines += _buckets(numbers.get("buckets"))
    lines += [
        "",
        "## Parity with the float64 reference",
        "",
        "| form | error | allowed | same label |",
        "|---|---|---|---|",
    ]
    for row in numbers.get("parity", ()):
        if row["skipped"] is not None:
            lines.append(f"| {row['stage']} | not run here: {_plain(row['skipped'])} | | |")
        else:
            lines.append(
                f"| {row['stage']} | {row['max_abs_error']:.2g} | {row['tolerance']:.2g} "
                f"| {row['label_agreement']:.1%} of {row['rows']} |"
            )
    lines += [
        "",
        "## Use",
        "",
        "```python",
        "from runtime.classifier import Classifier",
        "",
        'classify = Classifier.from_bundle("path/to/this/folder")',
        'print(classify("a text"))',
        "```",
        "",
        "or, with torch, `import atb_export` and",
        '`transformers.AutoModelForSequenceClassification.from_pretrained("path/to/this/folder")`.',
        "",
        "`atb verify path/to/this/folder` checks every file's hash and every engine's numbers;",
        "`atb export --rebuild path/to/this/folder` builds the engines for another machine.",
        "",
    ]
    return "\n".join(lines)


def _buckets(chosen: Any) -> list[str]:
    """The lengths engines were built for, as they were chosen from the user's texts."""
    if chosen is None:
        return []
    rows = zip(chosen["lengths"], chosen["shares"], chosen["cost_ms"], strict=True)
    return [
        "",
        "## Lengths",
        "",
        f"Chosen from {chosen['texts']:,} texts: {chosen['expected_ms']:.3f} ms a text are expected, "
        f"{chosen['single_ms']:.3f} ms with one engine of the longest.",
        "",
        "| tokens | of the texts | ms |",
        "|---|---|---|",
        *(f"| {length} | {share:.1%} | {cost:.3f} |" for length, share, cost in rows),
    ]


def _numbers(numbers: Any) -> list[str]:
    found = []
    if (measured := numbers.get("measured")) is not None:
        target, of_teacher = measured["target"], measured["of_teacher"]
        shape = target["shape"]
        low, high = measured["latency_ci_ms"]
        found += [
            f"{measured['metric'].capitalize()}: {measured['accuracy']:.4f} ± {measured['accuracy_se']:.4f} on "
            f"{measured['test_rows']:,} test rows, {of_teacher['accuracy']:.1%} of the teacher's",
            f"Latency: p50 {measured['latency_ms']:.3f} ms (95 % interval {low:.3f} to {high:.3f}), "
            f"{of_teacher['latency']:.2f} of the teacher's, at batch {shape['batch']}, length {shape['length']}, "
            f"{target['threads']} thread(s), {target['backend']} in {target['effective_precision']} on "
            f"{_plain(measured['cpu'])}",
        ]
    if "parameters" in numbers:
        found.append(f"Parameters: {numbers['parameters']:,}")
    if "shape" in numbers:
        found.append(f"Shape: `{numbers['shape']}`")
    if "vocabulary" in numbers:
        kept = numbers["vocabulary"]
        found.append(f"Vocabulary: {kept['kept']:,} of {kept['of']:,} entries, those the given texts use")
    if numbers.get("int8_words"):
        found.append("Word table: 8 bits a number in the ONNX files")
    if kept_float := numbers.get("keep_float"):
        found.append(f"Left in float by int8: {', '.join(_plain(name) for name in kept_float)}")
    return found


def _plain(text: str) -> str:
    """One line without Markdown's or HTML's own signs: names and labels come from strangers."""
    return "".join(" " if c in "\r\n|<>`[]" else c for c in text)
