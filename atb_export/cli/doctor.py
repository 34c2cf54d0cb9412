"""`atb doctor`: what is installed, what works here, and how to get the rest."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from atb_export.cli.output import emit, json_option, table
from runtime.backends import BACKENDS
from runtime.engine import backend
from runtime.environment import environment

# package -> what it is for and how to get it
PACKAGES = {
    "torch": ("training and slicing", "pip install 'atb-export[train]'"),
    "transformers": ("teachers, tokenizers, dense models", "pip install 'atb-export[train]'"),
    "onnx": ("writing ONNX models", "pip install 'atb-export[train]'"),
    "matplotlib": ("the report's pictures", "pip install 'atb-export[train]'"),
    "tokenizers": ("text to tokens in the engine world", "pip install atb-export"),
    "openvino": ("engines for CPUs", "pip install 'atb-export[openvino]'"),
    "onnxruntime": ("engines for CPUs, and the check of every ONNX model", "pip install 'atb-export[onnxruntime]'"),
    "tensorrt": ("engines for NVIDIA GPUs", "pip install 'atb-export[tensorrt]'"),
    "tensorrt_rtx_cu13": ("plans for RTX GPUs, built without one", "pip install 'atb-export[tensorrt-rtx]'"),
    "cuda-python": ("running TensorRT engines", "pip install 'atb-export[gpu]'"),
    "datasets": ("data sets by hub name", "pip install 'atb-export[hub]'"),
}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@click.command("doctor")
@json_option
def doctor_command(as_json: bool) -> None:
    """Show what is installed, which engines work here, the CPU's features, and how to get what is missing.

    \b
    Example:
      atb doctor
    """
    facts = environment()
    cpu = facts["cpu"]
    quota = "" if cpu["quota"] is None else f", a quota of {cpu['quota']:g}"
    click.echo(f"CPU      {cpu['model']}: {cpu['usable']} of {cpu['cores']} usable{quota}")
    click.echo(f"features {', '.join(cpu['flags']) or 'none that matter here'}")
    click.echo(f"system   {facts['os']}, Python {facts['python']}\n")
    packages = {name: _version(name) for name in PACKAGES}
    rows = []
    for name, (purpose, how) in PACKAGES.items():
        rows.append([name, packages[name] or "missing", purpose, "" if packages[name] else how])
    table(["package", "version", "for", "to install"], rows)
    engines: dict[str, Any] = {}
    for name in BACKENDS:
        found = backend(name)
        engines[name] = {"builds": found.unavailable(), "runs": found.can_run()}
    click.echo("")
    table(
        ["engine", "builds here", "runs here"],
        [[name, x["builds"] or "yes", "yes" if x["runs"] is None else x["runs"]] for name, x in engines.items()],
    )
    document = {
        "packages": packages,
        "engines": {
            name: {
                "builds": x["builds"] is None,
                "runs": x["runs"] is None,
                "why_not": x["builds"] or x["runs"],
            }
            for name, x in engines.items()
        },
        "environment": facts,
    }
    emit(document, as_json=as_json)
