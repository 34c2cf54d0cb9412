"""Repositories for the hub, read by the hub's own tools."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import atb_export  # noqa: F401 - registers our architecture
from atb_export.layouts.huggingface import write_huggingface
from atb_export.layouts.writing import LayoutError
from runtime.classifier import Classifier
from runtime.manifest import Bundle, read_bundle, write_manifest
from runtime.target import EngineTarget, Shape

Make = Callable[..., Bundle]


def of(name: str, **more: Any) -> EngineTarget:
    return EngineTarget(backend=name, precision="f32", shape=Shape(batch=1, length=32), **more)


def test_files_lie_where_the_hubs_tools_look(bundle: Bundle, tmp_path: Path) -> None:
    layout = write_huggingface(bundle, tmp_path / "out")
    assert {
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "onnx/model.onnx",
        "openvino/openvino_model.xml",
        "openvino/openvino_model.bin",
    } == set(layout.files)
    assert layout.engines == tuple(x.target.label for x in bundle.manifest.engines if x.target.backend != "tensorrt")
    assert "tensorrt-sm_89" in layout.notes[0]


@torch.no_grad()
def test_every_form_answers_alike(bundle: Bundle, tmp_path: Path) -> None:
    """Weights by transformers, IR and ONNX by OpenVINO, all from the new repository, against the bundle's engine."""
    layout = write_huggingface(bundle, tmp_path / "out")
    texts = ["good", "", "this film is superb and the story is warm , clever and all"]
    tokenizer = AutoTokenizer.from_pretrained(layout.folder)
    model = AutoModelForSequenceClassification.from_pretrained(layout.folder).eval()
    rows = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    with Classifier.from_bundle(bundle.folder) as classify:
        wanted = classify.logits(texts)
    np.testing.assert_allclose(model(**rows).logits.numpy(), wanted, atol=2e-5)
    feeds = {name: x.numpy() for name, x in rows.items()}
    for path in ("openvino/openvino_model.xml", "onnx/model.onnx"):
        compiled = ov.compile_model(layout.folder / path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        np.testing.assert_allclose(compiled(feeds)["logits"], wanted, atol=2e-5)


def test_the_hub_reads_the_numbers_of_the_card(bundle: Bundle, tmp_path: Path) -> None:
    layout = write_huggingface(bundle, tmp_path / "out")
    card = ModelCard.load(layout.folder / "README.md")
    assert card.data.pipeline_tag == "text-classification"
    assert card.data.library_name == "transformers"
    assert card.data.model_name == "tiny model"
    assert [(x.metric_type, x.metric_value) for x in card.data.eval_results or ()] == [
        ("accuracy", 0.8123),
        ("latency_p50_ms", 0.731),
    ]
    for said in ("0.8123 ± 0.0091", "1,800 test rows", "p50 0.731 ms", "0.720 to 0.740", "12,345", "2e-06"):
        assert said in card.text
    sizes = dict(re.findall(r"^\| `(.*?)` \| ([\d,]+) \|$", card.text, re.MULTILINE))
    assert "onnx/model.onnx" in sizes
    for name, size in sizes.items():
        assert int(size.replace(",", "")) == (layout.folder / name).stat().st_size


def test_hostile_names_stay_text(make_bundle: Make, tmp_path: Path) -> None:
    labels = ("<script>alert(1)</script>", "a | b\n---\nlibrary_name: evil", "[click](http://evil.example)", "`x`")
    made = make_bundle(of("onnxruntime"), name='x\n---\nlicense: evil "q"', labels=labels)
    layout = write_huggingface(made, tmp_path / "out")
    card = ModelCard.load(layout.folder / "README.md")
    assert card.data.library_name == "transformers"
    assert card.data.license is None
    assert not set("<>") & set(card.text)
    assert "](" not in card.text


def test_without_measurements_the_card_has_none(make_bundle: Make, tmp_path: Path) -> None:
    made = make_bundle(of("onnxruntime"))
    write_manifest(made.folder, replace(made.manifest, numbers={}, files={}))
    card = ModelCard.load(write_huggingface(read_bundle(made.folder), tmp_path / "out").folder / "README.md")
    assert card.data.eval_results is None
    assert "Parity" not in card.text
    assert "None" not in card.text


def test_int8_has_names_of_its_own(make_bundle: Make, tmp_path: Path) -> None:
    made = make_bundle(of("openvino"))
    folder, entry = made.folder, made.manifest.engines[0]
    for name in ("openvino-int8/model.xml", "openvino-int8/model.bin", "model-int8.onnx"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes((folder / name.replace("-int8", "")).read_bytes())
    rounded = replace(entry, target=replace(entry.target, precision="int8"), artifact="openvino-int8/model.xml")
    write_manifest(folder, replace(made.manifest, engines=(rounded, entry), files={}))
    layout = write_huggingface(read_bundle(folder), tmp_path / "out")
    assert {
        "onnx/model.onnx",
        "onnx/model_quantized.onnx",
        "openvino/openvino_model.xml",
        "openvino/openvino_model.bin",
        "openvino/openvino_model_qint8_quantized.xml",
        "openvino/openvino_model_qint8_quantized.bin",
    } <= set(layout.files)


def test_a_bundle_without_weights_is_refused(make_bundle: Make, tmp_path: Path) -> None:
    made = make_bundle(of("onnxruntime"))
    (made.folder / "model.safetensors").unlink()
    write_manifest(made.folder, replace(made.manifest, files={}))
    with pytest.raises(LayoutError, match=r"has no model\.safetensors, which a hub repository is made of"):
        write_huggingface(read_bundle(made.folder), tmp_path / "out")
    assert os.listdir(tmp_path) == []
