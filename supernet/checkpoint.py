"""Weights and training state on disk: safetensors, whole or not at all, checked on load."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from supernet.errors import CheckpointError
from supernet.facts import ModelFacts
from supernet.model import Supernet
from supernet.space import SubnetConfig


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes beside `path`, then renames, so that a killed process or a full disk leaves the old file."""
    aside = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.detach().contiguous() for k, v in tensors.items()}, aside, metadata=dict(metadata))
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise CheckpointError(f"cannot write {path}: {error}. Free some space or choose another output.") from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata; `CheckpointError` where the file is not readable safetensors."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is not a readable checkpoint ({error}). Delete it and resume: its stage runs again."
        ) from error


def save_supernet(path: Path, model: Supernet) -> None:
    """Weights with the shape and facts needed to build the module again."""
    facts = {"shape": model.shape.to_json(), "facts": model.facts.to_json()}
    save_tensors(path, model.state_dict(), {"supernet": json.dumps(facts, sort_keys=True)})


def load_supernet(path: Path) -> Supernet:
    """The module as saved, in eval mode; `CheckpointError` where the file holds something else."""
    tensors, metadata = load_tensors(path)
    try:
        described = json.loads(metadata["supernet"])
        shape = SubnetConfig.from_json(described["shape"])
        model = Supernet(shape=shape, facts=ModelFacts.from_json(described["facts"]))
        model.load_state_dict(tensors)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path} holds no supernet ({error}). Delete it and resume.") from error
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} holds values that are not finite")
    return model.eval()


class Saved(NamedTuple):
    """Where a training goes on: the step that comes next, and what else was noted with it."""

    step: int
    notes: dict[str, Any]


def save_training(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    step: int,
    fingerprint: str,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """The trainable weights, AdamW's state of each, the step that comes next, and `notes`, which are plain data.

    Its update count is kept per parameter: a layer that a step's subnets left out is not updated by that step.
    """
    tensors = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            state = optimizer.state[parameter]
            tensors[f"weight.{name}"] = parameter
            tensors |= {f"{key}.{name}": value for key, value in state.items()}
    noted = {} if notes is None else {"notes": json.dumps(dict(notes), sort_keys=True)}
    save_tensors(path, tensors, {"step": str(step), "fingerprint": fingerprint, **noted})


def load_training(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, *, fingerprint: str) -> Saved:
    """Restores what `save_training` wrote; step 0 where nothing (or another plan) was saved."""
    if not path.exists():
        return Saved(0, {})
    tensors, metadata = load_tensors(path)
    if metadata.get("fingerprint") != fingerprint:
        return Saved(0, {})
    try:
        saved = Saved(int(metadata["step"]), dict(json.loads(metadata.get("notes", "{}"))))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(tensors[f"weight.{name}"])
                    if f"step.{name}" in tensors:
                        optimizer.state[parameter] = {
                            key: tensors[f"{key}.{name}"].to(parameter.device)
                            for key in ("step", "exp_avg", "exp_avg_sq")
                        }
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not fit the training it is named for ({error}). Delete it.") from error
    return saved
