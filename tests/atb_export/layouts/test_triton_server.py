"""Triton itself serves our repositories: the server of the package nvidia-pytriton.

It brings the Python backend alone, so the ensemble, its tokenizer and the Python engine are run as a user's Triton runs
them, and the configurations of the C++ backends are not. It wants numpy < 2, so it has an environment of its own, which
the variable names:

    python -m venv triton && triton/bin/pip install nvidia-pytriton tokenizers onnxruntime openvino
    ATB_TRITON_PYTHON=triton/bin/python pytest tests/atb_export/layouts/test_triton_server.py
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atb_export.layouts.triton import TritonOptions, write_triton
from runtime.classifier import Classifier
from runtime.manifest import Bundle
from runtime.target import EngineTarget, Shape

ROOT = Path(__file__).parents[3]
START_S = 60.0
TEXTS = [
    "",
    "good",
    "a dull plot.",
    "this film is superb and the story is warm , clever and all",
    "the plot is bad " * 9,
    "x" * 90,
    "🎬 映画",
    "bad",
    "the story of this film is very warm and the plot is very good",
]
Make = Callable[..., Bundle]


def of(name: str, length: int, **more: Any) -> EngineTarget:
    shape = Shape(batch=more.pop("batch", 1), length=length)
    return EngineTarget(backend=name, precision="f32", shape=shape, **more)


@dataclass(frozen=True)
class Server:
    """A running Triton."""

    url: str
    log: Path

    def ask(self, path: str, document: Any = None) -> Any:
        """The answer's JSON; errors are answers too."""
        data = None if document is None else json.dumps(document).encode()
        try:
            with urllib.request.urlopen(f"{self.url}/v2/{path}", data, timeout=20) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            return json.loads(error.read() or b"{}")

    def logits(self, model: str, texts: Sequence[Any]) -> np.ndarray:
        """One request with a row for each text or pair."""
        rows = [[x] if isinstance(x, str) else list(x) for x in texts]
        tensor = {"name": "TEXT", "shape": [len(rows), len(rows[0])], "datatype": "BYTES", "data": rows}
        answer = self.ask(f"models/{model}/infer", {"inputs": [tensor]})
        assert "outputs" in answer, answer
        found = answer["outputs"][0]
        return np.array(found["data"], np.float32).reshape(found["shape"])


@dataclass(frozen=True)
class Home:
    """Where that environment has what the server needs."""

    python: Path
    packages: Path
    library: Path
    version: str

    @property
    def triton(self) -> Path:
        return self.packages / "pytriton" / "tritonserver"


@pytest.fixture(scope="module")
def home() -> Home:
    python = os.environ.get("ATB_TRITON_PYTHON")
    if python is None:
        pytest.skip("ATB_TRITON_PYTHON names no Python that has nvidia-pytriton, which brings a Triton server")
    ask = "import sys, sysconfig as s, tokenizers, onnxruntime, openvino, numpy; assert numpy.__version__ < '2'; "
    ask += "print(s.get_paths()['purelib'], s.get_config_var('LIBDIR'), '%d.%d' % sys.version_info[:2], sep='\\n')"
    answer = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        pytest.skip(f"{python} lacks what the server's models import: {answer.stderr.strip().splitlines()[-1]}")
    packages, library, version = answer.stdout.split()
    found = Home(python=Path(python).absolute(), packages=Path(packages), library=Path(library), version=version)
    if not found.triton.is_dir():
        pytest.skip(f"{python} has no nvidia-pytriton, which brings a Triton server")
    return found


def _ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for x in sockets:
        x.bind(("127.0.0.1", 0))
    ports = [int(x.getsockname()[1]) for x in sockets]
    for x in sockets:
        x.close()
    return ports


@pytest.fixture(scope="module")
def repository(
    home: Home, make_bundle: Make, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Bundle]]:
    """Four models in one repository: two lengths in static shapes, any length with and without joining, and pairs."""
    folder, bundles = tmp_path_factory.mktemp("triton") / "models", {}
    folder.mkdir()
    for name, targets, pairs, batch in (
        ("buckets", [of("openvino", 16), of("openvino", 32)], False, 4),
        ("free", [of("onnxruntime", 32, batch=4, dynamic=True)], False, 8),
        ("pairs", [of("onnxruntime", 24, batch=2)], True, 3),
    ):
        bundles[name] = make_bundle(*targets, pairs=pairs, name=name)
        options = TritonOptions(max_batch=batch, python_engine=True, queue_delay_us=20_000)
        layout = write_triton(bundles[name], folder.parent / name, options)
        for model in layout.folder.iterdir():
            if model.is_dir():
                model.rename(folder / model.name)
    bundles["loose"] = _loose(make_bundle, folder)
    return folder, bundles


def _loose(make_bundle: Make, folder: Path) -> Bundle:
    """The models of an OpenVINO engine that takes any batch, with the Python engine in the place of Triton's backend.

    The configuration is that of the former: a model without batching in an ensemble with it.
    """
    made = make_bundle(of("openvino", 32, batch=4, dynamic=True), name="loose")
    own = write_triton(made, folder.parent / "own", TritonOptions(python_engine=True)).folder
    layout = write_triton(made, folder.parent / "loose", TritonOptions())
    config = (layout.folder / "loose_engine" / "config.pbtxt").read_text()
    assert "max_batch_size: 0" in config
    for model in layout.folder.iterdir():
        if model.is_dir():
            model.rename(folder / model.name)
    (folder / "loose_engine" / "1").rename(folder.parent / "replaced")
    (own / "loose_engine" / "1").rename(folder / "loose_engine" / "1")
    config = config.replace('backend: "openvino"', 'backend: "python"').replace('"model.xml"', '"model.py"')
    (folder / "loose_engine" / "config.pbtxt").write_text(config)
    return made


@pytest.fixture(scope="module")
def server(
    home: Home, repository: tuple[Path, dict[str, Bundle]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    scratch = tmp_path_factory.mktemp("server")
    backend = scratch / "backends" / "python"
    backend.mkdir(parents=True)
    stub = home.triton / "python_backend_stubs" / home.version
    for x in (*(home.triton / "backends" / "python").iterdir(), *stub.iterdir()):
        if x.is_file():
            (backend / x.name).symlink_to(x)
    (port,) = _ports(1)
    libraries = [str(home.packages / "nvidia_pytriton.libs"), str(home.library)]
    environment = {
        **os.environ,
        "PATH": f"{home.python.parent}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": ":".join([*libraries, os.environ.get("LD_LIBRARY_PATH", "")]).strip(":"),
        "PYTHONPATH": f"{ROOT}:{home.packages}",
        "OMP_NUM_THREADS": "1",
    }
    command = [
        str(home.triton / "bin" / "tritonserver"),
        f"--model-repository={repository[0]}",
        f"--backend-directory={scratch / 'backends'}",
        f"--http-port={port}",
        "--http-address=127.0.0.1",
        "--allow-grpc=false",
        "--allow-metrics=false",
        "--exit-timeout-secs=5",
        f"--backend-config=python,shm-region-prefix-name=atb{os.getpid()}",
        "--backend-config=python,shm-default-byte-size=1048576",
    ]
    log = scratch / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            running = Server(url=f"http://127.0.0.1:{port}", log=log)
            _wait(running, process)
            yield running
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(server: Server, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{server.url}/v2/health/ready", timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"Triton did not become ready:\n{server.log.read_text(errors='replace')[-4000:]}")


def test_the_server_loads_every_model(server: Server) -> None:
    index = server.ask("repository/index", {})
    assert {x["name"]: x["state"] for x in index} == {
        f"{name}{part}": "READY"
        for name in ("buckets", "free", "loose", "pairs")
        for part in ("", "_engine", "_tokenizer")
    }
    config = server.ask("models/buckets_engine/config")
    assert config["dynamic_batching"]["preferred_batch_size"] == [2, 4]
    assert config["max_batch_size"] == 4


@pytest.mark.parametrize("name", ["buckets", "free", "loose"])
def test_texts_of_every_length_are_answered_as_the_classifier_answers(
    server: Server, repository: tuple[Path, dict[str, Bundle]], name: str
) -> None:
    """One by one, so that each takes the shortest length that holds it, and in batches of several lengths."""
    with Classifier.from_bundle(repository[1][name].folder) as classify:
        wanted = classify.logits(TEXTS)
    alone = np.concatenate([server.logits(name, [x]) for x in TEXTS])
    np.testing.assert_allclose(alone, wanted, atol=2e-5)
    together = np.concatenate([server.logits(name, TEXTS[i : i + 3]) for i in range(0, len(TEXTS), 3)])
    np.testing.assert_allclose(together, wanted, atol=2e-5)


def test_requests_that_arrive_together_keep_their_own_answers(
    server: Server, repository: tuple[Path, dict[str, Bundle]]
) -> None:
    """The dynamic batcher joins them: fewer executions than requests, and nobody gets a neighbour's row."""
    with Classifier.from_bundle(repository[1]["free"].folder) as classify:
        wanted = classify.logits(TEXTS)
    before = server.ask("models/free_engine/stats")["model_stats"][0]
    order = [i % len(TEXTS) for i in range(48)]
    with ThreadPoolExecutor(12) as pool:
        got = list(pool.map(lambda i: server.logits("free", [TEXTS[i]])[0], order))
    np.testing.assert_allclose(np.stack(got), wanted[order], atol=2e-5)
    after = server.ask("models/free_engine/stats")["model_stats"][0]
    assert after["inference_count"] - before["inference_count"] == 48
    assert after["execution_count"] - before["execution_count"] < 48


def test_pairs(server: Server, repository: tuple[Path, dict[str, Bundle]]) -> None:
    pairs = [("a good film", "dull"), ("bad", ""), ("the story is clever " * 4, "warm " * 20)]
    with Classifier.from_bundle(repository[1]["pairs"].folder) as classify:
        np.testing.assert_allclose(server.logits("pairs", pairs), classify.logits(pairs), atol=2e-5)


def test_labels_come_with_the_logits(server: Server, repository: tuple[Path, dict[str, Bundle]]) -> None:
    tensor = {"name": "TEXT", "shape": [1, 1], "datatype": "BYTES", "data": ["good"]}
    outputs = [{"name": "logits", "parameters": {"classification": 2}}]
    answer = server.ask("models/buckets/infer", {"inputs": [tensor], "outputs": outputs})
    best = [x.split(":") for x in answer["outputs"][0]["data"]]
    with Classifier.from_bundle(repository[1]["buckets"].folder) as classify:
        wanted = classify("good")
    assert [label for _, _, label in best] == [x["label"] for x in wanted]


def test_bad_requests_are_refused_and_leave_the_server_well(server: Server) -> None:
    for tensor in (
        {"name": "TEXT", "shape": [5, 1], "datatype": "BYTES", "data": ["too many rows"] * 5},
        {"name": "TEXT", "shape": [1, 2], "datatype": "BYTES", "data": ["a", "pair"]},
        {"name": "TEXT", "shape": [1, 1], "datatype": "INT64", "data": [1]},
    ):
        assert "error" in server.ask("models/buckets/infer", {"inputs": [tensor]})
    ids = {"shape": [1, 33], "datatype": "INT64", "data": [1] * 33}
    tensors = [{"name": x, **ids} for x in ("input_ids", "attention_mask")]
    answer = server.ask("models/buckets_engine/infer", {"inputs": tensors})
    assert "33 tokens are more than the longest engine takes" in answer["error"]
    assert server.logits("buckets", ["good"]).shape == (1, 2)
