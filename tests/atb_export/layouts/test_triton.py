"""Triton model repositories, read by Triton's own schema."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from tokenizers import Tokenizer

from atb_export.layouts.pbtxt import Enum, text_of
from atb_export.layouts.triton import TritonOptions, write_triton
from atb_export.layouts.writing import LayoutError
from runtime.classifier import Classifier
from runtime.errors import BundleError
from runtime.manifest import Bundle, read_bundle, write_manifest
from runtime.target import EngineTarget, Shape

Make = Callable[..., Bundle]
Parse = Callable[[Path], Any]


def of(name: str, length: int = 16, **more: Any) -> EngineTarget:
    shape = Shape(batch=more.pop("batch", 1), length=length)
    return EngineTarget(backend=name, precision="f32", shape=shape, **more)


@pytest.fixture(scope="module")
def parse() -> Parse:
    """A `config.pbtxt` by Triton's own message."""
    pytest.importorskip("tritonclient", reason="tritonclient, which has Triton's schema, is not installed")
    model_config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2", exc_type=ImportError)
    from google.protobuf import text_format

    def read(folder: Path) -> Any:
        return text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())

    return read


def kind(tensor: Any) -> str:
    name: str = tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[tensor.data_type].name
    return name


def parameters(config: Any) -> dict[str, str]:
    return {name: x.string_value for name, x in config.parameters.items()}


def test_onnx_runtime_joins_requests_of_one_length(bundle: Bundle, parse: Parse, tmp_path: Path) -> None:
    layout = write_triton(bundle, tmp_path / "out", TritonOptions(max_batch=6, queue_delay_us=250))
    assert layout.engines == ("onnxruntime-CPU-f32-b1-l16-t1", "onnxruntime-CPU-f32-b1-l32-t1")
    assert {
        "tiny_model/config.pbtxt",
        "tiny_model_engine/1/model.onnx",
        "tiny_model_tokenizer/1/tokenizer.json",
    } <= set(layout.files)
    engine = parse(layout.folder / "tiny_model_engine")
    assert (engine.name, engine.backend, engine.max_batch_size) == ("tiny_model_engine", "onnxruntime", 6)
    assert engine.default_model_filename == "model.onnx"
    assert [(x.name, kind(x), list(x.dims)) for x in engine.input] == [
        ("input_ids", "TYPE_INT64", [-1]),
        ("attention_mask", "TYPE_INT64", [-1]),
    ]
    assert [(x.name, kind(x), list(x.dims)) for x in engine.output] == [("logits", "TYPE_FP32", [2])]
    assert list(engine.dynamic_batching.preferred_batch_size) == [2, 4, 6]
    assert engine.dynamic_batching.max_queue_delay_microseconds == 250
    assert parameters(engine)["intra_op_thread_count"] == "1"
    assert [x.kind for x in engine.instance_group] == [engine.instance_group[0].KIND_CPU]
    copied = layout.folder / "tiny_model_engine" / "1" / "model.onnx"
    assert copied.read_bytes() == (bundle.folder / "model.onnx").read_bytes()
    assert (layout.folder / "tiny_model_engine" / "labels.txt").read_text() == "neg\npos\n"


def test_every_warm_up_fills_its_tensors(bundle: Bundle, parse: Parse, tmp_path: Path) -> None:
    layout = write_triton(bundle, tmp_path / "out", TritonOptions(max_batch=4))
    engine = parse(layout.folder / "tiny_model_engine")
    assert [x.batch_size for x in engine.model_warmup] == [1, 4, 1, 4]
    for sample, length in zip(engine.model_warmup, (16, 16, 32, 32), strict=True):
        assert set(sample.inputs) == {"input_ids", "attention_mask"}
        mask = sample.inputs["attention_mask"]
        assert list(mask.dims) == [length]
        data = (layout.folder / "tiny_model_engine" / "warmup" / mask.input_data_file).read_bytes()
        assert struct.unpack(f"<{length}q", data) == (1,) * length
        assert sample.inputs["input_ids"].zero_data


def test_the_ensemble_maps_every_tensor(bundle: Bundle, parse: Parse, tmp_path: Path) -> None:
    """Names and shapes meet: what the tokenizer gives is what the engine takes."""
    layout = write_triton(bundle, tmp_path / "out", TritonOptions())
    whole, first, second = (parse(layout.folder / f"tiny_model{x}") for x in ("", "_tokenizer", "_engine"))
    assert (whole.platform, whole.max_batch_size) == ("ensemble", 8)
    assert [x.model_name for x in whole.ensemble_scheduling.step] == [first.name, second.name]
    for step, model in zip(whole.ensemble_scheduling.step, (first, second), strict=True):
        assert set(step.input_map) == {x.name for x in model.input}
        assert set(step.output_map) == {x.name for x in model.output}
    assert [(x.name, x.data_type, list(x.dims)) for x in first.output] == [
        (x.name, x.data_type, list(x.dims)) for x in second.input
    ]
    assert [(x.name, kind(x), list(x.dims)) for x in whole.input] == [("TEXT", "TYPE_STRING", [1])]
    assert parameters(first) == {
        "lengths": "16,32",
        "max_length": "40",
        "pad_id": str(Tokenizer.from_file(str(bundle.tokenizer)).token_to_id("[PAD]")),
        "inputs": "input_ids,attention_mask",
    }


def test_one_length_is_a_static_dimension(bundle: Bundle, parse: Parse, tmp_path: Path) -> None:
    options = TritonOptions(engine="onnxruntime-CPU-f32-b1-l16-t1")
    layout = write_triton(bundle, tmp_path / "out", options)
    assert [list(x.dims) for x in parse(layout.folder / "tiny_model_engine").input] == [[16], [16]]
    assert [list(x.dims) for x in parse(layout.folder / "tiny_model_tokenizer").output] == [[16], [16]]


def test_pairs_are_two_texts_a_row(make_bundle: Make, parse: Parse, tmp_path: Path) -> None:
    layout = write_triton(make_bundle(of("onnxruntime"), pairs=True), tmp_path / "out", TritonOptions())
    assert [list(x.dims) for x in parse(layout.folder / "tiny_model").input] == [[2]]
    assert len(parse(layout.folder / "tiny_model_engine").input) == 3


@pytest.mark.parametrize("name", ["a b/../c", "...", "x" * 300, 'q"\n', "名"])
def test_any_name_is_a_folder(make_bundle: Make, parse: Parse, tmp_path: Path, name: str) -> None:
    made = make_bundle(of("onnxruntime"), name=name, labels=("a\nb", 'c"\\', "名"))
    layout = write_triton(made, tmp_path / "out", TritonOptions())
    models = sorted(x.name for x in layout.folder.iterdir() if x.is_dir())
    assert len(models) == 3
    assert all(parse(layout.folder / x).name == x for x in models)
    assert len((layout.folder / f"{layout.name}_engine" / "labels.txt").read_text().splitlines()) == 3


# --- OpenVINO -------------------------------------------------------------------------------------------------------


def as_triton_loads_it(folder: Path, config: Any) -> Any:
    """What Triton's openvino backend does with a model and its configuration, by OpenVINO's own API."""
    core = ov.Core()
    said = parameters(config)
    model = core.read_model(folder / "1" / (config.default_model_filename or "model.xml"))
    steps = ov.preprocess.PrePostProcessor(model)
    for x in config.input:
        port = next(p for p in model.inputs if x.name in p.get_names())
        dims = list(port.get_partial_shape())
        if said.get("RESHAPE_IO_LAYERS") == "YES":
            dims[1 if config.max_batch_size else 0 :] = [ov.Dimension(n) for n in x.dims]
        steps.input(x.name).tensor().set_element_type(ov.Type.i64)
        steps.input(x.name).tensor().set_shape(ov.PartialShape(dims))
        if config.max_batch_size:
            steps.input(x.name).tensor().set_layout(ov.Layout("N..."))
    model = steps.build()
    if config.max_batch_size:
        ov.set_batch(model, config.max_batch_size)
    plugin = {k: v for k, v in said.items() if k in ("PERFORMANCE_HINT", "NUM_STREAMS", "INFERENCE_NUM_THREADS")}
    return core.compile_model(model, "CPU", {**plugin, "INFERENCE_PRECISION_HINT": "f32"})


@pytest.mark.parametrize(
    ("targets", "asked", "batch", "dims", "shape"),
    [
        ([of("openvino", 16)], None, 1, [16], "[1,16]"),
        ([of("openvino", 16), of("openvino", 32)], None, 1, [-1], "[1,?]"),
        ([of("openvino", 16)], 4, 4, [16], "[4,16]"),
        ([of("openvino", 32, batch=4, dynamic=True)], None, 0, [-1, -1], "[?,?]"),
    ],
)
def test_openvino_loads_as_its_triton_backend_does(
    make_bundle: Make,
    parse: Parse,
    tmp_path: Path,
    targets: list[EngineTarget],
    asked: int | None,
    batch: int,
    dims: list[int],
    shape: str,
) -> None:
    made = make_bundle(*targets)
    layout = write_triton(made, tmp_path / "out", TritonOptions(max_batch=asked))
    engine = parse(layout.folder / "tiny_model_engine")
    assert (engine.backend, engine.default_model_filename, engine.max_batch_size) == ("openvino", "model.xml", batch)
    assert [list(x.dims) for x in engine.input] == [dims, dims]
    assert engine.HasField("dynamic_batching") is (batch > 1)
    assert parameters(engine).get("ENABLE_BATCH_PADDING") == ("YES" if batch > 1 else None)
    assert (layout.folder / "tiny_model_engine" / "1" / "model.bin").is_file()
    assert any("bf16" in x for x in layout.notes)
    compiled = as_triton_loads_it(layout.folder / "tiny_model_engine", engine)
    assert str(compiled.input("input_ids").get_partial_shape()) == shape
    texts = ["good", "a dull plot.", "bad", "warm"][: batch or 3]
    tokenizer = Tokenizer.from_file(str(made.tokenizer))
    tokenizer.enable_padding(length=16, pad_id=int(parameters(parse(layout.folder / "tiny_model_tokenizer"))["pad_id"]))
    rows = tokenizer.encode_batch(texts)
    got = compiled(
        {"input_ids": np.array([x.ids for x in rows]), "attention_mask": np.array([x.attention_mask for x in rows])}
    )
    with Classifier.from_bundle(made.folder) as classify:
        np.testing.assert_allclose(got["logits"], classify.logits(texts), atol=2e-5)


# --- TensorRT -------------------------------------------------------------------------------------------------------


def test_a_plan_has_a_profile_for_each_length(bundle: Bundle, parse: Parse, tmp_path: Path) -> None:
    layout = write_triton(bundle, tmp_path / "out", TritonOptions(engine="tensorrt"))
    engine = parse(layout.folder / "tiny_model_engine")
    assert (engine.backend, engine.default_model_filename, engine.max_batch_size) == ("tensorrt", "model.plan", 1)
    group = engine.instance_group[0]
    assert (group.kind, list(group.profile)) == (group.KIND_GPU, ["0", "1"])
    assert [list(x.dims) for x in engine.input] == [[-1], [-1]]
    assert engine.optimization.cuda.graphs
    assert (layout.folder / "tiny_model_engine" / "1" / "plan.json").is_file()
    assert "10.9.0" in layout.notes[0]


def test_one_length_of_a_plan_is_one_profile(bundle: Bundle, parse: Parse, tmp_path: Path) -> None:
    layout = write_triton(bundle, tmp_path / "out", TritonOptions(engine="tensorrt-sm_89-f32-b1-l32-t1"))
    engine = parse(layout.folder / "tiny_model_engine")
    assert list(engine.instance_group[0].profile) == ["1"]
    assert [list(x.dims) for x in engine.input] == [[32], [32]]


def test_a_dynamic_plan_joins_up_to_its_batch(make_bundle: Make, parse: Parse, tmp_path: Path) -> None:
    made = make_bundle(of("tensorrt", 32, batch=8, dynamic=True, device="sm_89"))
    layout = write_triton(made, tmp_path / "out", TritonOptions(max_batch=5))
    engine = parse(layout.folder / "tiny_model_engine")
    assert engine.max_batch_size == 5
    assert list(engine.dynamic_batching.preferred_batch_size) == [2, 4, 5]
    assert parameters(parse(layout.folder / "tiny_model_tokenizer"))["lengths"] == "8,16,24,32"
    with pytest.raises(LayoutError, match="built for batches up to 8"):
        write_triton(made, tmp_path / "more", TritonOptions(max_batch=9))


def test_a_plan_of_one_batch_is_asked_in_tensors(make_bundle: Make, parse: Parse, tmp_path: Path) -> None:
    """No fewer rows than 4: Triton cannot fill them, so the client does, and is told how."""
    layout = write_triton(make_bundle(of("tensorrt", batch=4, device="sm_89")), tmp_path / "out", TritonOptions())
    assert [x.name for x in layout.folder.iterdir() if x.is_dir()] == ["tiny_model_engine"]
    engine = parse(layout.folder / "tiny_model_engine")
    assert engine.max_batch_size == 0
    assert [list(x.dims) for x in (*engine.input, *engine.output)] == [[4, 16], [4, 16], [4, 2]]
    assert (layout.folder / "tiny_model_engine" / "warmup" / "ones_16").stat().st_size == 4 * 16 * 8
    assert "texts[-1:] * (4 - len(texts))" in (layout.folder / "README.md").read_text()


def test_a_plan_of_tensorrt_rtx_is_refused_by_name(make_bundle: Make, tmp_path: Path) -> None:
    made = make_bundle(of("tensorrt", device="sm_89"), flavour="tensorrt_rtx")
    with pytest.raises(
        LayoutError, match=r"plan of tensorrt_rtx, which Triton's tensorrt backend cannot load.*--python"
    ):
        write_triton(made, tmp_path / "out", TritonOptions())
    layout = write_triton(made, tmp_path / "own", TritonOptions(python_engine=True))
    assert 'backend: "python"' in (layout.folder / "tiny_model_engine" / "config.pbtxt").read_text()
    assert list(tmp_path.iterdir()) == [layout.folder]


def test_plans_of_their_own_for_each_length_are_refused(make_bundle: Make, tmp_path: Path) -> None:
    made = make_bundle(of("tensorrt", 16, device="sm_89"), of("tensorrt", 32, device="sm_89"))
    folder = tmp_path / "bundle"
    shutil.copytree(made.folder, folder)
    first, second = made.manifest.engines
    shutil.copytree(folder / Path(second.artifact).parent, folder / "other")
    write_manifest(folder, replace(made.manifest, engines=(first, replace(second, artifact="other/model.plan"))))
    with pytest.raises(LayoutError, match="a plan for each length"):
        write_triton(read_bundle(folder), tmp_path / "out", TritonOptions())


# --- the bundle's own engine ----------------------------------------------------------------------------------------


def test_the_python_engine_brings_a_bundle_of_what_it_serves(bundle: Bundle, parse: Parse, tmp_path: Path) -> None:
    options = TritonOptions(engine="openvino", python_engine=True)
    layout = write_triton(bundle, tmp_path / "out", options)
    inner = read_bundle(layout.folder / "tiny_model_engine" / "1" / "bundle")
    assert [x.target.label for x in inner.manifest.engines] == list(layout.engines)
    assert set(inner.manifest.files) == {"openvino/model.xml", "openvino/model.bin", "tokenizer.json"}
    assert parse(layout.folder / "tiny_model_engine").backend == "python"
    texts = ["good", "this film is superb and the story is warm , clever and all"]
    with Classifier.from_bundle(inner.folder) as one, Classifier.from_bundle(bundle.folder, "openvino") as other:
        np.testing.assert_array_equal(one.logits(texts), other.logits(texts))


# --- bad input ------------------------------------------------------------------------------------------------------


def test_an_unknown_engine_is_named_with_what_there_is(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="has no engine cuda; it has onnxruntime-CPU-f32-b1-l16-t1, "):
        write_triton(bundle, tmp_path / "out", TritonOptions(engine="cuda"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_left_alone(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "keep").write_text("mine")
    with pytest.raises(LayoutError, match="exists already; name a new folder"):
        write_triton(bundle, tmp_path, TritonOptions())
    assert [x.name for x in tmp_path.iterdir()] == ["keep"]


def test_a_file_that_changes_after_the_bundle_was_read_is_noticed(bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle.folder, folder)
    read = read_bundle(folder)
    data = bytearray((folder / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.onnx").write_bytes(data)
    with pytest.raises(BundleError, match=r"model\.onnx changed while it was copied"):
        write_triton(read, tmp_path / "out", TritonOptions())
    assert [x.name for x in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_half_written_is_left(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr("atb_export.layouts.triton.triton_readme.readme", fail)
    with pytest.raises(type(error)):
        write_triton(bundle, tmp_path / "out", TritonOptions())
    assert list(tmp_path.iterdir()) == []


def test_text_format_survives_any_text() -> None:
    from google.protobuf import text_format

    model_config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2", exc_type=ImportError)
    hostile = 'a"\\\n\x00\x7f名🎬\' } name: "evil"'
    text = text_of({"name": hostile, "max_batch_size": 3, "instance_group": [{"kind": Enum("KIND_CPU")}]})
    found = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert (found.name, found.max_batch_size, len(found.instance_group)) == (hostile, 3, 1)


def test_the_readme_asks_what_the_configuration_takes(bundle: Bundle, parse: Parse, tmp_path: Path) -> None:
    layout = write_triton(bundle, tmp_path / "out", TritonOptions())
    asked = next(x for x in (layout.folder / "README.md").read_text().splitlines() if x.startswith("curl"))
    document = json.loads(asked.split(" -d ")[1].strip("'"))
    tensor = document["inputs"][0]
    whole = parse(layout.folder / "tiny_model")
    assert [tensor["name"]] == [x.name for x in whole.input]
    assert tensor["shape"][1:] == list(whole.input[0].dims)
