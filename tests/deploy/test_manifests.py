"""The manifests against the schemas of those who read them, and what must agree between them.

Kubernetes' JSON schemas come with the package kubernetes-validate, KServe's classes with kserve. Neither is needed for
anything else here, so an interpreter that has both may be named:

    python -m venv check && check/bin/pip install kubernetes-validate kserve
    ATB_KUBERNETES_PYTHON=check/bin/python pytest tests/deploy/test_manifests.py
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
yaml = pytest.importorskip("yaml")

_KUBERNETES = """
import json, sys, kubernetes_validate as k
documents = json.load(sys.stdin)
for version in ("1.30", k.latest_version()):
    for x in documents:
        k.validate(x, version, strict=True)
"""
# KServe's package has classes, no schema: a key that none of them knows or a value of another type is wrong.
_KSERVE = """
import json, re, sys
import kubernetes.client.models as core
from kserve import models

def check(value, kind, path):
    container = re.fullmatch(r"(list\\[|dict[\\[(]str, )(.+)[\\])]", kind, re.IGNORECASE)
    if container:
        assert isinstance(value, list if kind[0] in "lL" else dict), f"{path} is no {kind}"
        for key, x in enumerate(value) if kind[0] in "lL" else value.items():
            check(x, container[2], f"{path}.{key}")
        return
    plain = {"str": str, "int": int, "bool": bool, "float": (int, float), "datetime": str}
    if kind in plain:
        assert isinstance(value, plain[kind]), f"{path} is no {kind}: {value!r}"
    elif kind not in ("object", "ResourceQuantity", "IntstrIntOrString"):
        known = getattr(models, kind, None) or getattr(core, kind.replace("K8sIoApiAppsV1", "V1"))
        names = {json_name: name for name, json_name in known.attribute_map.items()}
        for key, x in value.items():
            assert key in names, f"{path} has no {key}; it has {', '.join(sorted(names))}"
            check(x, known.openapi_types[names[key]], f"{path}.{key}")

for x in json.load(sys.stdin):
    check(x, {"InferenceService": "V1beta1", "ServingRuntime": "V1alpha1"}[x["kind"]] + x["kind"], x["kind"])
"""


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text()))


def checked(code: str, found: list[dict[str, Any]], *packages: str) -> subprocess.CompletedProcess[str]:
    python = os.environ.get("ATB_KUBERNETES_PYTHON", sys.executable)
    lacks = subprocess.run([python, "-c", f"import {', '.join(packages)}"], capture_output=True, check=False)
    if lacks.returncode != 0:
        pytest.skip(f"{python} lacks {' or '.join(packages)}: name one that has them in ATB_KUBERNETES_PYTHON")
    given = json.dumps(found)
    return subprocess.run([python, "-c", code], input=given, capture_output=True, text=True, check=False)


def test_kubernetes_reads_the_deployment() -> None:
    found = documents("deployment.yaml")
    assert len(found) == 5
    done = checked(_KUBERNETES, found, "kubernetes_validate")
    assert done.returncode == 0, done.stderr
    found[0]["spec"]["template"]["spec"]["containers"][0]["startupProbe"]["failThreshold"] = 3
    assert "failThreshold" in checked(_KUBERNETES, found, "kubernetes_validate").stderr


def test_kserve_reads_the_service_and_the_runtime_it_names() -> None:
    found = documents("inference-service.yaml")
    service, runtime = found
    done = checked(_KSERVE, found, "kserve")
    assert done.returncode == 0, done.stderr
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] in {x["name"] for x in runtime["spec"]["supportedModelFormats"]}
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    model["storageUrl"] = "x"
    assert "storageUrl" in checked(_KSERVE, found, "kserve").stderr


@pytest.mark.parametrize("name", ["deployment.yaml", "inference-service.yaml"])
def test_probes_and_limits(name: str) -> None:
    """Live and ready are different questions, cores are whole, and nobody is root."""
    specs = [x["spec"] for x in documents(name) if x["kind"] in ("Deployment", "ServingRuntime")]
    (spec,) = [x["template"]["spec"] if "template" in x else x for x in specs]
    (container,) = spec["containers"]
    paths = {
        probe: container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    assert paths["livenessProbe"] == "/v2/health/live"
    assert paths["startupProbe"] == paths["readinessProbe"] == "/v2/health/ready"
    resources = container["resources"]
    assert resources["limits"] == resources["requests"]
    assert int(resources["limits"]["cpu"]) >= 1
    security = {**spec.get("securityContext", {}), **container["securityContext"]}
    assert security["runAsNonRoot"]
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}


def test_a_pod_outlives_the_drain_of_its_server() -> None:
    spec = documents("deployment.yaml")[0]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    arguments = container["args"]
    drain_s = int(arguments[arguments.index("--drain-ms") + 1]) / 1000
    pause_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] > drain_s + pause_s


def test_the_selectors_select() -> None:
    found = {x["kind"]: x for x in documents("deployment.yaml")}
    template = found["Deployment"]["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == found["Deployment"]["metadata"]["name"]
    ports = {x["name"] for x in template["spec"]["containers"][0]["ports"]}
    assert {x["targetPort"] for x in found["Service"]["spec"]["ports"]} <= ports
    (volume,) = template["spec"]["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == found["PersistentVolumeClaim"]["metadata"]["name"]


def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    if (systemd := shutil.which("systemd-analyze")) is None:
        pytest.skip("there is no systemd-analyze (Debian, Ubuntu: apt-get install systemd)")
    text = (DEPLOY / "systemd" / "atb-server.service").read_text()
    unit = tmp_path / "atb-server.service"
    unit.write_text(text.replace("/opt/atb/bin/atb", "/bin/true"))  # it must exist where it is checked
    done = subprocess.run([systemd, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    seconds = dict(x.split("=", 1) for x in text.splitlines() if "=" in x and not x.startswith("#"))
    drain_s = int(seconds["ExecStart"].split("--drain-ms ")[1].split()[0]) / 1000
    assert int(seconds["TimeoutStopSec"]) > drain_s


def test_the_image_runs_as_nobody_in_particular_and_has_no_torch() -> None:
    text = (DEPLOY / "docker" / "Dockerfile").read_text()
    stages = text.split("\nFROM ")[1:]
    assert len(stages) == 2
    assert "USER 10001:10001" in stages[1]
    assert "torch" not in "".join(x for x in text.splitlines() if not x.startswith("#"))
    assert "g++" not in stages[1]
    copied = {x for x in (DEPLOY / "docker" / "Dockerfile.dockerignore").read_text().splitlines() if x.startswith("!")}
    for needed in ("CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE", "runtime", "atb_export"):
        assert f"!{needed}" in copied
    if (hadolint := shutil.which("hadolint")) is not None:
        done = subprocess.run(
            [hadolint, str(DEPLOY / "docker" / "Dockerfile")], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


def test_every_option_of_the_server_is_one() -> None:
    """The command lines of all examples, held against the native server's own help."""
    from atb_export.serving.errors import ServingError
    from atb_export.serving.programs import native_program

    folder = os.environ.get("ATB_BIN")
    try:
        program = native_program("atb-server", Path(folder) if folder else None)
    except ServingError as error:
        pytest.skip(str(error))
    told = subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
    runtime = documents("inference-service.yaml")[1]["spec"]["containers"][0]["args"]
    deployment = documents("deployment.yaml")[0]["spec"]["template"]["spec"]["containers"][0]["args"]
    unit = (DEPLOY / "systemd" / "atb-server.service").read_text().split("ExecStart=")[1].splitlines()[0].split()
    image = (DEPLOY / "docker" / "Dockerfile").read_text().split("CMD")[-1].replace('"', " ").replace(",", " ").split()
    for word in [*runtime, *deployment, *unit, *image]:
        if word.startswith("--"):
            assert f"{word} " in told, word
