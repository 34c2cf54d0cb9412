"""The engine world must import on a machine that has numpy and nothing heavier."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import runtime

BLOCKED = (
    "torch",
    "transformers",
    "onnx",
    "openvino",
    "onnxruntime",
    "tensorrt",
    "tensorrt_rtx",
    "cuda",
    "tokenizers",
)

PROGRAM = """
import importlib, sys

blocked = {blocked!r}

class Bare:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ImportError(name + " is not on this machine")
        return None

sys.meta_path.insert(0, Bare())
for name in {names!r}:
    importlib.import_module(name)
loaded = sorted(name for name in sys.modules if name.partition(".")[0] in blocked)
if loaded:
    sys.exit("loaded all the same: " + ", ".join(loaded))
{then}
"""


def _names() -> list[str]:
    found = [info.name for info in pkgutil.walk_packages(runtime.__path__, "runtime.")]
    return ["runtime", *found]


def _run(names: list[str], then: str = "") -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(blocked=BLOCKED, names=names, then=then)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_every_module_imports_in_a_bare_environment() -> None:
    names = _names()
    assert {"runtime.backends.openvino", "runtime.backends.tensorrt", "runtime.classifier"} <= set(names)
    done = _run(names)
    assert done.returncode == 0, done.stderr


def test_the_environment_is_bare_indeed() -> None:
    done = _run(["openvino"])
    assert done.returncode != 0
    assert "openvino is not on this machine" in done.stderr
