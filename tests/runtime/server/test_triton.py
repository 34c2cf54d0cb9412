"""The same questions to Triton itself, whose Python backend serves a model of the same tensors: the same answers.

Needs the environments of `tests/atb_export/layouts/test_triton_server.py` (ATB_TRITON_PYTHON) and of the clients
(ATB_CLIENTS_PYTHON, where this Python has none). Where the two servers differ is listed below, with the reason.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
START_S = 60.0
Conform = Callable[..., dict[str, Any]]

CONFIG = """
backend: "python"
max_batch_size: 0
input [
  { name: "text" data_type: TYPE_STRING dims: [-1] optional: true },
  { name: "input_ids" data_type: TYPE_INT64 dims: [-1, -1] optional: true },
  { name: "attention_mask" data_type: TYPE_INT64 dims: [-1, -1] optional: true },
  { name: "token_type_ids" data_type: TYPE_INT64 dims: [-1, -1] optional: true }
]
output [
  { name: "logits" data_type: TYPE_FP32 dims: [-1, 3] },
  { name: "label" data_type: TYPE_STRING dims: [-1] },
  { name: "score" data_type: TYPE_FP32 dims: [-1] }
]
instance_group [{ kind: KIND_CPU count: 1 }]
"""

# The engines of the bundle by our portable classifier. What a request says wrongly is refused as invalid.
MODEL = """
import numpy as np
import triton_python_backend_utils as pb

from runtime.classifier import Classifier, _Row

ROWS, LONGEST = 256, 32


class TritonPythonModel:
    def initialize(self, args):
        self.classify = Classifier.from_bundle("BUNDLE")

    def execute(self, requests):
        return [self.answer(x) for x in requests]

    def answer(self, request):
        try:
            made = self.compute(request)
        except ValueError as error:
            return pb.InferenceResponse(error=pb.TritonError(str(error), pb.TritonError.INVALID_ARG))
        return pb.InferenceResponse([pb.Tensor(x, made[x]) for x in request.requested_output_names()])

    def compute(self, request):
        found = {x.name(): x.as_numpy() for x in request.inputs()}
        text, ids = found.get("text"), found.get("input_ids")
        if (text is None) == (ids is None):
            raise ValueError("a request has either text, or input_ids")
        if text is not None:
            logits = self.texts(text)
        else:
            logits = self.tokens(ids, found.get("attention_mask"))
        values = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
        values /= values.sum(-1, keepdims=True)
        labels = np.array([self.classify.model.labels[i].encode() for i in values.argmax(-1)], object)
        return {"logits": logits, "label": labels, "score": values.max(-1).astype(np.float32)}

    def texts(self, text):
        if text.ndim > 2 or not 0 < len(text) <= ROWS:
            raise ValueError("rows or dimensions")
        pairs = text.ndim == 2 and text.shape[1] == 2
        rows = [[y.decode() for y in np.atleast_1d(x)] for x in text]
        return self.classify.logits([tuple(x) if pairs else x[0] for x in rows])

    def tokens(self, ids, mask):
        mask = np.ones_like(ids) if mask is None else mask
        if ids.shape != mask.shape or len(ids) > ROWS or (np.diff(mask, axis=1) > 0).any():
            raise ValueError("shapes, rows or padding")
        size = len(self.classify._tokenizer.get_vocab())
        if (ids < 0).any() or (ids >= size).any() or mask.sum(1).max() > LONGEST:
            raise ValueError("ids or length")
        answers = np.empty((len(ids), len(self.classify.model.labels)), np.float32)
        for i, (row, length) in enumerate(zip(ids, mask.sum(1))):
            at = next(j for j, x in enumerate(self.classify._lengths) if x >= length)
            self.classify._answer(at, [_Row(i, list(row[:length]), [0] * length)], answers)
        return answers
"""

RANK = "an input of Triton has one number of dimensions; ours takes [n], [n, 1] and pairs [n, 2]"
EVERY = {"http", "http json", "http asyncio", "grpc", "grpc asyncio"}
BY_HTTP, BY_GRPC = {"http", "http json", "http asyncio"}, {"grpc", "grpc asyncio"}
# Case -> in which ways of asking ours answers otherwise than Triton 2.51, and why.
DIFFERENCES: dict[str, tuple[set[str], str]] = {
    "texts as a column": (EVERY, RANK),
    "pairs": (EVERY, RANK),
    "a negative dimension": (
        BY_HTTP,
        "400, for the request is wrong; Triton's parser answers 500, as if the server were",
    ),
    "too many rows": (
        EVERY,
        "413 and RESOURCE_EXHAUSTED tell that smaller requests are taken; the other's model has no such code",
    ),
    "version that is no number": (BY_GRPC, "NOT_FOUND, as by HTTP in both servers; Triton's gRPC has INVALID_ARGUMENT"),
    "statistics": (EVERY, "there is no cache of answers to count the hits of"),
    "unknown model's statistics": (
        EVERY,
        "404 and NOT_FOUND as for its other paths; Triton has 400 and INVALID_ARGUMENT",
    ),
}


def by_name(answer: Any) -> Any:
    """Outputs without their order: ours is that of the request, Triton's its own, and clients look up names."""
    if isinstance(answer, dict) and isinstance(answer.get("outputs"), list):
        return {**answer, "outputs": sorted(answer["outputs"])}
    return answer


@pytest.fixture(scope="module")
def python() -> Path:
    named = os.environ.get("ATB_TRITON_PYTHON")
    if named is None:
        pytest.skip("ATB_TRITON_PYTHON names no Python that has nvidia-pytriton, which brings a Triton server")
    return Path(named).absolute()


@pytest.fixture(scope="module")
def triton(python: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """A running Triton; its ports of HTTP and gRPC."""
    ask = "import sysconfig as s, sys; print(s.get_paths()['purelib'], s.get_config_var('LIBDIR'), "
    ask += "'%d.%d' % sys.version_info[:2])"
    told = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.split()
    packages, library, version = Path(told[0]), told[1], told[2]
    home = packages / "pytriton" / "tritonserver"
    if not home.is_dir():
        pytest.skip(f"{python} has no nvidia-pytriton, which brings a Triton server")
    scratch = tmp_path_factory.mktemp("triton")
    model = scratch / "models" / "tiny" / "1"
    model.mkdir(parents=True)
    (model / "model.py").write_text(MODEL.replace("BUNDLE", str(bundle)))
    (model.parent / "config.pbtxt").write_text(CONFIG)
    backend = scratch / "backends" / "python"
    backend.mkdir(parents=True)
    for x in (*(home / "backends" / "python").iterdir(), *(home / "python_backend_stubs" / version).iterdir()):
        if x.is_file():
            (backend / x.name).symlink_to(x)
    ports = _ports(2)
    environment = {
        **os.environ,
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": f"{packages / 'nvidia_pytriton.libs'}:{library}",
        "PYTHONPATH": f"{ROOT}:{packages}",
        "OMP_NUM_THREADS": "1",
    }
    command = [
        *(str(home / "bin" / "tritonserver"), f"--model-repository={scratch / 'models'}"),
        *(f"--backend-directory={scratch / 'backends'}", f"--http-port={ports[0]}", "--http-address=127.0.0.1"),
        *(f"--grpc-port={ports[1]}", "--grpc-address=127.0.0.1", "--allow-metrics=false", "--exit-timeout-secs=5"),
        f"--backend-config=python,shm-region-prefix-name=atbc{os.getpid()}",
    ]
    log = scratch / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            _wait(ports[0], process, log)
            yield ports[0], ports[1]
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            shutil.rmtree(scratch / "models")


def _ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for x in sockets:
        x.bind(("127.0.0.1", 0))
    ports = [int(x.getsockname()[1]) for x in sockets]
    for x in sockets:
        x.close()
    return ports


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"Triton did not become ready:\n{log.read_text(errors='replace')[-4000:]}")


def test_triton_answers_the_same(server: Any, has_grpc: bool, triton: tuple[int, int], conform: Conform) -> None:
    if not has_grpc:
        pytest.skip("the server was built without gRPC")
    without = "a shape that overflows"  # to 0 elements there, and its process of the model dies of it
    ours = conform("tritonclient", f"127.0.0.1:{server.port}", f"127.0.0.1:{server.grpc_port}", "tiny", without)
    theirs = conform("tritonclient", f"127.0.0.1:{triton[0]}", f"127.0.0.1:{triton[1]}", "tiny", without)
    differences: dict[str, set[str]] = {}
    for way, answers in ours.items():
        for name, answer in answers.items():
            if by_name(answer) != by_name(theirs[way][name]):
                differences.setdefault(name, set()).add(way)
    assert differences == {name: ways for name, (ways, _) in DIFFERENCES.items()}
