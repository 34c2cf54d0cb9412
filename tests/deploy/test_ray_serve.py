"""Ray Serve runs deploy/ray on a local cluster, which answers by `runtime.Classifier`.

Ray Serve is more than the `ray` this package needs elsewhere, so its environment may be named:

    python -m venv serve && serve/bin/pip install 'ray[serve]' '.[openvino]'
    ATB_RAY_SERVE_PYTHON=serve/bin/python pytest tests/deploy/test_ray_serve.py
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "deploy" / "ray"
TEXTS = ["good", "a dull plot.", "this film is superb and the story is warm , clever and all", "🎬 映画"]
_CODE = """
import json, sys, urllib.error, urllib.request
from concurrent.futures import ThreadPoolExecutor
import ray
from ray import serve
import text_classifier

ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": 0})
bundle, texts = json.loads(sys.argv[1])
serve.run(text_classifier.app({"bundle": bundle}), route_prefix="/predict")
port = int(sys.argv[2])

def ask(inputs):
    body = json.dumps({"inputs": inputs}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)

with ThreadPoolExecutor(8) as pool:
    alone = list(pool.map(ask, texts * 5))
wrong = [ask(7), ask([]), ask([["a", "b"]]), ask([[1]]), ask([["x"]] * 300)]
status = serve.status().applications["default"].status
print(json.dumps({"alone": alone, "together": ask([[x] for x in texts]), "wrong": wrong, "status": str(status)}))
serve.shutdown()
ray.shutdown()
"""


@pytest.fixture(scope="module")
def told(deployed_bundle: Path, ray_serve_python: Path, free_port: int) -> dict[str, Any]:
    code = _CODE.replace('"port": 0', f'"port": {free_port}')
    given = json.dumps([str(deployed_bundle), TEXTS])
    done = subprocess.run(
        [ray_serve_python, "-c", code, given, str(free_port)],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    # ray prints, too
    found: dict[str, Any] = json.loads(next(x for x in done.stdout.splitlines() if x.startswith("{")))
    return found


def test_replicas_answer_as_the_classifier_does(told: dict[str, Any], expected: Any) -> None:
    wanted = expected(TEXTS)
    status, together = told["together"]
    assert status == 200
    for answers in (together, *([x for _, x in told["alone"][i : i + 4]] for i in range(0, 20, 4))):
        assert [x[0]["label"] for x in answers] == [label for label, _ in wanted]
        assert [x[0]["score"] for x in answers] == pytest.approx([score for _, score in wanted], abs=1e-6)
    assert told["status"].endswith("RUNNING")


def test_wrong_requests_are_told_why(told: dict[str, Any]) -> None:
    assert [status for status, _ in told["wrong"]] == [422] * 5
    assert all(answer["error"] for _, answer in told["wrong"])


def test_the_configuration_names_what_is_there() -> None:
    yaml = pytest.importorskip("yaml")
    (application,) = yaml.safe_load((FOLDER / "serve.yaml").read_text())["applications"]
    module, name = application["import_path"].split(":")
    source = (FOLDER / f"{module}.py").read_text()
    assert f"def {name}(args" in source
    (deployment,) = application["deployments"]
    assert f"class {deployment['name']}:" in source
