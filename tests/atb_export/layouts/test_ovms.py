"""OpenVINO Model Server's folder: its schema by its documentation, and its models by OpenVINO itself."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest

from atb_export.layouts.ovms import OvmsOptions, write_ovms
from atb_export.layouts.writing import LayoutError
from runtime.classifier import Classifier
from runtime.errors import BundleError
from runtime.manifest import Bundle, read_bundle
from runtime.target import EngineTarget, Shape

Make = Callable[..., Bundle]

# A model's fields in the documentation (docs/parameters.md), with their types; the server refuses others.
FIELDS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "base_path": (str,),
    "shape": (dict, str),
    "batch_size": (int, str),
    "layout": (dict, str),
    "model_version_policy": (dict,),
    "plugin_config": (dict,),
    "nireq": (int,),
    "target_device": (str,),
}
ONE = r"(?:-1|\d+(?::\d+)?)"
DIMS = re.compile(rf"\({ONE}(?:,{ONE})*\)")


def of(name: str, length: int = 16, **more: Any) -> EngineTarget:
    shape = Shape(batch=more.pop("batch", 1), length=length)
    return EngineTarget(backend=name, precision="f32", shape=shape, **more)


def models(folder: Path) -> dict[str, dict[str, Any]]:
    """The models of a `config.json`, each checked against what the documentation says of it."""
    document = json.loads((folder / "config.json").read_text())
    assert set(document) == {"model_config_list"}
    found = {}
    for item in document["model_config_list"]:
        assert set(item) == {"config"}
        config = item["config"]
        assert {"name", "base_path"} <= set(config) <= set(FIELDS)
        for field, value in config.items():
            assert type(value) in FIELDS[field], field
        assert all(isinstance(x, str) for x in config["plugin_config"].values())
        assert all(DIMS.fullmatch(x) for x in config["shape"].values())
        assert set(config["model_version_policy"]) <= {"latest", "specific", "all"}
        versions = [x for x in (folder / config["base_path"]).iterdir() if x.is_dir()]
        assert [x.name for x in versions] == ["1"]
        assert len([x for x in versions[0].iterdir() if x.suffix in (".xml", ".onnx")]) == 1
        found[config["name"]] = config
    assert len(found) == len(document["model_config_list"])
    return found


def as_the_server_loads_it(folder: Path, config: dict[str, Any]) -> Any:
    """A model reshaped and compiled by its configuration, as the server does with OpenVINO's API."""

    def dim(text: str) -> ov.Dimension:
        low, _, high = text.partition(":")
        return ov.Dimension(int(low), int(high)) if high else ov.Dimension(int(low))

    core = ov.Core()
    path = next(x for x in (folder / config["base_path"] / "1").iterdir() if x.suffix in (".xml", ".onnx"))
    model = core.read_model(path)
    model.reshape({k: ov.PartialShape([dim(x) for x in v[1:-1].split(",")]) for k, v in config["shape"].items()})
    return core.compile_model(model, config["target_device"], config["plugin_config"])


@pytest.mark.parametrize(
    ("targets", "asked", "shapes"),
    [
        ([of("openvino")], None, {"tiny_model": "(1,16)"}),
        ([of("openvino", batch=3)], None, {"tiny_model": "(3,16)"}),
        ([of("openvino")], 8, {"tiny_model": "(1:8,16)"}),
        ([of("openvino", 16), of("openvino", 32)], None, {"tiny_model-l16": "(1,16)", "tiny_model-l32": "(1,32)"}),
        ([of("openvino", 32, batch=4, dynamic=True)], None, {"tiny_model": "(1:4,1:32)"}),
        ([of("onnxruntime")], None, {"tiny_model": "(1,16)"}),
    ],
)
def test_the_client_of_the_readme_is_answered_as_the_classifier_answers(
    make_bundle: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    targets: list[EngineTarget],
    asked: int | None,
    shapes: dict[str, str],
) -> None:
    """The code of the README runs as it is; its requests are computed by OpenVINO as `config.json` says."""
    made = make_bundle(*targets)
    layout = write_ovms(made, tmp_path / "out", OvmsOptions(max_batch=asked))
    configs = models(layout.folder)
    assert {name: set(x["shape"].values()) for name, x in configs.items()} == {k: {v} for k, v in shapes.items()}
    compiled = {name: as_the_server_loads_it(layout.folder, x) for name, x in configs.items()}
    for x in compiled.values():
        assert x.get_property("INFERENCE_PRECISION_HINT") == ov.Type.f32
        assert (x.get_property("NUM_STREAMS"), x.get_property("INFERENCE_NUM_THREADS")) == (1, 1)

    def serve(url: str, data: bytes) -> io.BytesIO:
        name = url.removeprefix("http://localhost:8000/v2/models/").removesuffix("/infer")
        feeds = {x["name"]: np.array(x["data"], x["datatype"].lower()) for x in json.loads(data)["inputs"]}
        assert all(list(feeds[x["name"]].shape) == x["shape"] for x in json.loads(data)["inputs"])
        logits = compiled[name](feeds)["logits"]
        return io.BytesIO(json.dumps({"outputs": [{"name": "logits", "data": logits.ravel().tolist()}]}).encode())

    monkeypatch.setattr(urllib.request, "urlopen", serve)
    monkeypatch.chdir(layout.folder)
    code = re.search(r"```python\n(.*?)```", (layout.folder / "README.md").read_text(), re.DOTALL)
    assert code is not None
    batch = targets[0].shape.batch
    with Classifier.from_bundle(made.folder) as classify:
        for text in ("", "good", "this film is superb and the story is warm , clever and all", "x" * 90):
            names: dict[str, Any] = {"texts": [text] * batch}
            exec(compile(code[1], "README.md", "exec"), names)
            got = np.array(names["logits"], np.float32).reshape(batch, 2)
            np.testing.assert_allclose(got, classify.logits([text] * batch), atol=2e-5)


def test_lengths_share_one_copy_of_the_weights(bundle: Bundle, tmp_path: Path) -> None:
    layout = write_ovms(bundle, tmp_path / "out", OvmsOptions())
    assert layout.engines == ("openvino-CPU-f32-b1-l16-t1", "openvino-CPU-f32-b1-l32-t1")
    assert [x for x in layout.files if x.endswith(".bin")] == ["tiny_model/1/model.bin"]
    assert {x["base_path"] for x in models(layout.folder).values()} == {"tiny_model"}


def test_one_label_is_one_model(bundle: Bundle, tmp_path: Path) -> None:
    layout = write_ovms(bundle, tmp_path / "out", OvmsOptions(engine="openvino-CPU-f32-b1-l32-t1"))
    assert list(models(layout.folder)) == ["tiny_model"]


def test_a_plan_is_refused_with_what_the_server_takes(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=r"serves engines of openvino, onnxruntime; tensorrt has only tensorrt-sm_89"):
        write_ovms(bundle, tmp_path / "out", OvmsOptions(engine="tensorrt"))
    with pytest.raises(LayoutError, match="has no engine tpu; it has"):
        write_ovms(bundle, tmp_path / "out", OvmsOptions(engine="tpu"))
    assert os.listdir(tmp_path) == []


def test_a_flipped_byte_is_noticed(bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(bundle.folder, tmp_path / "bundle")
    read = read_bundle(tmp_path / "bundle")
    path = tmp_path / "bundle" / "openvino" / "model.bin"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"model\.bin changed while it was copied"):
        write_ovms(read, tmp_path / "out", OvmsOptions())
    assert os.listdir(tmp_path) == ["bundle"]
