from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import supernet.checkpoint
from supernet.checkpoint import (
    load_supernet,
    load_tensors,
    load_training,
    save_supernet,
    save_tensors,
    save_training,
)
from supernet.errors import CheckpointError
from supernet.model import Supernet
from supernet.space import SubnetConfig

Make = Callable[..., Any]


@pytest.fixture
def saved(tmp_path: Path, make_supernet: Make) -> Path:
    path = tmp_path / "supernet.safetensors"
    save_supernet(path, make_supernet())
    return path


def stepped(model: nn.Module, seed: int = 0, steps: int = 3) -> torch.optim.Optimizer:
    """An optimizer in the midst of its work."""
    rng = torch.Generator().manual_seed(seed)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01, fused=True)
    for _ in range(steps):
        for parameter in trained:
            parameter.grad = torch.randn(parameter.shape, generator=rng)
        optimizer.step()
    return optimizer


def test_a_supernet_comes_back_as_it_was(
    tmp_path: Path, make_supernet: Make, make_batch: Make, stacked: SubnetConfig
) -> None:
    model: Supernet = make_supernet(shape=stacked).train()
    path = tmp_path / "new" / "folder" / "supernet.safetensors"
    save_supernet(path, model)
    again = load_supernet(path)
    assert (again.shape, again.facts, again.training) == (model.shape, model.facts, False)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert torch.equal(again(**make_batch()).logits, model.eval()(**make_batch()).logits)
    assert [x.name for x in path.parent.iterdir()] == [path.name]


def test_saving_again_replaces(saved: Path, make_supernet: Make) -> None:
    save_supernet(saved, make_supernet(1))
    assert torch.equal(load_supernet(saved).pooler.weight, make_supernet(1).pooler.weight)


@pytest.mark.parametrize("kept", [0.0, 0.0001, 0.01, 0.5, 0.999])
def test_a_truncated_file(saved: Path, make_supernet: Make, kept: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(len(content) * kept)])
    for load in (load_tensors, load_supernet):
        with pytest.raises(CheckpointError, match=r"supernet\.safetensors is not a readable checkpoint.*Delete"):
            load(saved)
    model = make_supernet()
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_training(saved, model, stepped(model), fingerprint="a")


@pytest.mark.parametrize("content", [b"hello, I am text", b"\x00" * 4096, b"\xff" * 4096])
def test_a_file_of_another_kind(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_supernet(path)


def test_no_file_or_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match="not a readable checkpoint"):
            load_supernet(path)


def test_tensors_that_are_no_supernet(saved: Path) -> None:
    tensors, metadata = load_tensors(saved)
    save_tensors(saved, tensors, {})
    with pytest.raises(CheckpointError, match="holds no supernet"):
        load_supernet(saved)
    save_tensors(saved, {k: v for k, v in tensors.items() if k != "pooler.bias"}, metadata)
    with pytest.raises(CheckpointError, match=r"(?s)holds no supernet.*pooler\.bias"):
        load_supernet(saved)
    save_tensors(saved, tensors, {"supernet": metadata["supernet"].replace('"hidden_size": 48', '"hidden_size": 47')})
    with pytest.raises(CheckpointError, match="holds no supernet"):
        load_supernet(saved)
    save_tensors(saved, tensors, {"supernet": "{"})
    with pytest.raises(CheckpointError, match="holds no supernet"):
        load_supernet(saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(saved: Path, value: float) -> None:
    tensors, metadata = load_tensors(saved)
    tensors["layers.2.key.weight"][3, 4] = value
    save_tensors(saved, tensors, metadata)
    with pytest.raises(CheckpointError, match=r"layers\.2\.key\.weight.*not finite"):
        load_supernet(saved)


def test_a_failed_write_leaves_the_old_file_and_no_other(
    saved: Path, make_supernet: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def full(tensors: dict[str, torch.Tensor], path: Path, **rest: Any) -> None:
        save_file(tensors, path, **rest)
        path.write_bytes(path.read_bytes()[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(supernet.checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match=r"cannot write .*supernet\.safetensors.*No space left.*Free some space"):
        save_supernet(saved, make_supernet(1))
    assert saved.read_bytes() == before
    assert [x.name for x in saved.parent.iterdir()] == [saved.name]


def test_a_killed_write_leaves_the_old_file(saved: Path, make_supernet: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def killed(tensors: dict[str, torch.Tensor], path: Path, **rest: Any) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(supernet.checkpoint, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        save_supernet(saved, make_supernet(1))
    monkeypatch.undo()
    assert saved.read_bytes() == before
    save_supernet(saved, make_supernet(1))
    assert [x.name for x in saved.parent.iterdir()] == [saved.name]


def test_a_folder_that_cannot_be_made(tmp_path: Path, make_supernet: Make) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(CheckpointError, match="cannot write"):
        save_supernet(tmp_path / "taken" / "supernet.safetensors", make_supernet())


def test_training_state_comes_back_whole(tmp_path: Path, make_supernet: Make) -> None:
    """Weights, both moments and the number of updates that each parameter has had, which may differ."""
    path, model = tmp_path / "training.safetensors", make_supernet()
    model.word_embeddings.requires_grad_(False)
    optimizer = stepped(model)
    skipped = [model.layers[2].query.weight, model.layers[3].cells[0].output.bias]
    for parameter in skipped:
        parameter.grad = None
    optimizer.step()
    save_training(path, model, optimizer, step=4, fingerprint="plan")
    assert not any("word_embeddings" in name for name in load_tensors(path)[0])

    again = make_supernet(1)
    again.word_embeddings.requires_grad_(False)
    untouched = again.word_embeddings.weight.clone()
    fresh = torch.optim.AdamW([p for p in again.parameters() if p.requires_grad], lr=0.01, fused=True)
    assert load_training(path, again, fresh, fingerprint="plan").step == 4
    assert torch.equal(again.word_embeddings.weight, untouched)
    for (name, ours), theirs in zip(model.named_parameters(), again.parameters(), strict=True):
        if not ours.requires_grad:
            continue
        assert torch.equal(ours, theirs), name
        assert set(fresh.state[theirs]) == set(optimizer.state[ours]) == {"step", "exp_avg", "exp_avg_sq"}
        for key, value in optimizer.state[ours].items():
            assert torch.equal(value, fresh.state[theirs][key]), f"{key} of {name}"
    # and what follows is the same
    for net, optimiser in ((model, optimizer), (again, fresh)):
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
        optimiser.step()
    trained = [(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True) if a.requires_grad]
    assert all(torch.equal(a, b) for a, b in trained)


def test_a_parameter_that_never_had_a_gradient_has_no_state(tmp_path: Path, make_supernet: Make) -> None:
    path, model = tmp_path / "training.safetensors", make_supernet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    model.pooler.weight.grad = torch.ones_like(model.pooler.weight)
    optimizer.step()
    save_training(path, model, optimizer, step=1, fingerprint="plan")
    again = make_supernet(1)
    fresh = torch.optim.AdamW(again.parameters(), lr=0.01, fused=True)
    assert load_training(path, again, fresh, fingerprint="plan").step == 1
    assert fresh.state[again.pooler.weight]
    assert not fresh.state[again.pooler.bias]
    assert torch.equal(again.classifier.weight, model.classifier.weight)


def test_nothing_saved_or_another_plan_starts_anew(tmp_path: Path, make_supernet: Make) -> None:
    path, model = tmp_path / "training.safetensors", make_supernet()
    optimizer = stepped(model)
    assert load_training(path, model, optimizer, fingerprint="plan").step == 0
    save_training(path, model, optimizer, step=3, fingerprint="another plan")
    again = make_supernet(1)
    fresh = torch.optim.AdamW(again.parameters(), lr=0.01, fused=True)
    assert load_training(path, again, fresh, fingerprint="plan").step == 0
    assert not fresh.state
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), make_supernet(1).parameters(), strict=True))


@pytest.mark.parametrize("damage", ["weight gone", "moment gone", "other shape", "no step"])
def test_a_checkpoint_of_the_right_plan_that_lacks_something(tmp_path: Path, make_supernet: Make, damage: str) -> None:
    path, model = tmp_path / "training.safetensors", make_supernet()
    optimizer = stepped(model)
    save_training(path, model, optimizer, step=3, fingerprint="plan")
    tensors, metadata = load_tensors(path)
    if damage == "weight gone":
        del tensors["weight.pooler.bias"]
    elif damage == "moment gone":
        del tensors["exp_avg_sq.pooler.bias"]
    elif damage == "other shape":
        tensors["weight.pooler.bias"] = torch.zeros(5)
    else:
        del metadata["step"]
    save_tensors(path, tensors, metadata)
    with pytest.raises(CheckpointError, match=r"training\.safetensors"):
        load_training(path, model, optimizer, fingerprint="plan")
