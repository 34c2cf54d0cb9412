"""A bundle to deploy, what it must answer, and the environments of the servers it is deployed to."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from runtime.classifier import Classifier


@pytest.fixture(scope="session")
def deployed_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path) -> Path:
    """Two lengths of OpenVINO in float32."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from atb_export.cli.main import run

    folder = tmp_path_factory.mktemp("deploy")
    config = BertConfig.from_pretrained(tiny_teacher)
    config.id2label, config.label2id = {0: "bad", 1: "good"}, {"bad": 0, "good": 1}
    BertForSequenceClassification(config).save_pretrained(folder / "dense")
    AutoTokenizer.from_pretrained(tiny_teacher).save_pretrained(folder / "dense")
    words = ["export", folder / "dense", "--out", folder / "bundle", "--target", "openvino:f32", "--lengths", "16,32"]
    assert run([*map(str, words), "--text", "a lovely film"]) == 0
    return folder / "bundle"


@pytest.fixture(scope="session")
def expected(deployed_bundle: Path) -> Callable[[Sequence[str]], list[tuple[str, float]]]:
    """The best label and its score of each text."""

    def answers(texts: Sequence[str]) -> list[tuple[str, float]]:
        with Classifier.from_bundle(deployed_bundle) as classify:
            return [(row[0]["label"], row[0]["score"]) for row in classify(list(texts))]

    return answers


@pytest.fixture(scope="session")
def triton_python() -> Path:
    return _python("ATB_TRITON_PYTHON", "pytriton")


@pytest.fixture(scope="session")
def ray_serve_python() -> Path:
    return _python("ATB_RAY_SERVE_PYTHON", "ray.serve")


@pytest.fixture(scope="session")
def free_port() -> int:
    with socket.socket() as x:
        x.bind(("127.0.0.1", 0))
        return int(x.getsockname()[1])


def _python(variable: str, package: str) -> Path:
    """The interpreter it names, with that package and our native binding."""
    named = os.environ.get(variable)
    if named is None:
        pytest.skip(f"{variable} names no Python that has {package} and atb-export")
    code = f"import importlib.util as u, runtime._native; assert u.find_spec('{package}')"
    done: Any = subprocess.run([named, "-c", code], capture_output=True, text=True, cwd="/", check=False)
    if done.returncode != 0:
        pytest.skip(f"{named} lacks {package} or runtime._native: {done.stderr.strip().splitlines()[-1]}")
    return Path(named).absolute()
