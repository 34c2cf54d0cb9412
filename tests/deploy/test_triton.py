"""Triton itself runs the model of deploy/triton, which answers by `runtime.Classifier`.

The server is the one of the package nvidia-pytriton, whose environment the variable names:

    python -m venv triton && triton/bin/pip install nvidia-pytriton '.[openvino]'
    ATB_TRITON_PYTHON=triton/bin/python pytest tests/deploy/test_triton.py
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TEXTS = [
    "",
    "good",
    "a dull plot.",
    "this film is superb and the story is warm , clever and all",
    "bad " * 30,
    "🎬 映画",
]


@pytest.fixture(scope="module")
def url(deployed_bundle: Path, triton_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running server with the one model, under two instances."""
    scratch = tmp_path_factory.mktemp("triton")
    model = scratch / "models" / "text_classifier"
    shutil.copytree(ROOT / "deploy" / "triton" / "text_classifier", model)
    shutil.copytree(deployed_bundle, model / "1" / "bundle")
    ask = (
        "import sys, sysconfig as s; print(s.get_paths()['purelib'], s.get_config_var('LIBDIR'), *sys.version_info[:2])"
    )
    told = subprocess.run([triton_python, "-c", ask], capture_output=True, text=True, check=True).stdout.split()
    packages, library, version = Path(told[0]), told[1], ".".join(told[2:])
    triton = packages / "pytriton" / "tritonserver"
    backend = scratch / "backends" / "python"
    backend.mkdir(parents=True)
    for x in (*(triton / "backends" / "python").iterdir(), *(triton / "python_backend_stubs" / version).iterdir()):
        if x.is_file():
            (backend / x.name).symlink_to(x)
    environment = {
        **os.environ,
        "PATH": f"{triton_python.parent}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": f"{packages}/nvidia_pytriton.libs:{library}",
    }
    port = 20_000 + os.getpid() % 20_000
    command = [str(triton / "bin" / "tritonserver"), f"--model-repository={scratch / 'models'}"]
    command += [f"--backend-directory={scratch / 'backends'}", f"--http-port={port}", "--http-address=127.0.0.1"]
    command += ["--allow-grpc=false", "--allow-metrics=false", "--exit-timeout-secs=5"]
    command.append(f"--backend-config=python,shm-region-prefix-name=atbdeploy{os.getpid()}")
    log = scratch / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=scratch)
        try:
            _wait(f"http://127.0.0.1:{port}", process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 90
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"Triton did not become ready:\n{log.read_text(errors='replace')[-4000:]}")


def ask(url: str, path: str, document: Any = None) -> Any:
    data = None if document is None else json.dumps(document).encode()
    try:
        with urllib.request.urlopen(f"{url}/v2/{path}", data, timeout=20) as answer:
            return json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as error:
        return json.loads(error.read() or b"{}")


def classified(url: str, texts: Sequence[str]) -> list[tuple[str, float]]:
    tensor = {"name": "text", "shape": [len(texts), 1], "datatype": "BYTES", "data": list(texts)}
    answer = ask(url, "models/text_classifier/infer", {"inputs": [tensor]})
    assert "outputs" in answer, answer
    outputs = {x["name"]: x["data"] for x in answer["outputs"]}
    return list(zip(outputs["label"], outputs["score"], strict=True))


def test_triton_answers_as_the_classifier_does(url: str, expected: Any) -> None:
    wanted = expected(TEXTS)
    for got in (classified(url, TEXTS), [classified(url, [x])[0] for x in TEXTS]):
        assert [label for label, _ in got] == [label for label, _ in wanted]
        assert [score for _, score in got] == pytest.approx([score for _, score in wanted], abs=1e-6)


def test_requests_that_arrive_together_keep_their_own_answers(url: str, expected: Any) -> None:
    wanted = dict(zip(TEXTS, expected(TEXTS), strict=True))
    order = [TEXTS[i % len(TEXTS)] for i in range(48)]
    with ThreadPoolExecutor(12) as pool:
        got = list(pool.map(lambda x: classified(url, [x])[0], order))
    for text, (label, score) in zip(order, got, strict=True):
        assert label == wanted[text][0]
        assert score == pytest.approx(wanted[text][1], abs=1e-6)


def test_a_wrong_request_harms_nobody(url: str) -> None:
    tensor = {"name": "text", "shape": [1, 2], "datatype": "BYTES", "data": ["a", "pair"]}
    assert "error" in ask(url, "models/text_classifier/infer", {"inputs": [tensor]})
    assert len(classified(url, ["good"])) == 1
