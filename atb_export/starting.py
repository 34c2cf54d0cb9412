"""What a network starts as before its first stage: weights of its teacher, random ones, or those of another network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from atb_export.recipe_space import Space
from supernet.checkpoint import load_supernet
from supernet.facts import Head, ModelFacts
from supernet.growth import with_stack
from supernet.initial import random_supernet, started_from
from supernet.model import Supernet
from supernet.presets import Preset
from supernet.space import SubnetConfig
from supernet.teacher import load_teacher, supernet_from_bert


def supernet_shape(initial: str, teacher: SubnetConfig, space: Space) -> SubnetConfig:
    """The largest subnet of a supernet: its teacher, the other network, or the most that the space asks for.

    Where the space stacks more feed-forward cells than the teacher has, the teacher is cut to the other sizes that the
    space asks for, and gets them. Raises `SupernetError` where `initial` names no readable network.
    """
    if initial == "teacher":
        return _stacked(teacher, space.choices)
    if initial != "random":
        return _other(initial, ("0", "1"), seed=0).shape
    asked = space.choices
    return SubnetConfig.uniform(
        hidden_size=max(asked.hidden_sizes),
        depth=asked.source_layers,
        heads=max(asked.heads),
        head_size=max(asked.head_sizes),
        ffn_size=max(asked.ffn_sizes),
        ffn_stack=max(asked.ffn_stacks),
    )


def start_of(
    initial: str,
    teacher: Supernet,
    shape: SubnetConfig,
    *,
    seed: int,
    labels: Sequence[str] = (),
    facts: ModelFacts | None = None,
) -> Supernet:
    """A network of `shape` with the teacher's vocabulary and labels, its weights as `initial` says.

    `facts` are the teacher's unless told: a student may embed words in another way. A cut keeps the layers that `shape`
    names as its sources. Raises `StageError` where it cannot be cut from what it starts as, other `SupernetError` where
    that cannot be read.
    """
    if initial == "random":
        return random_supernet(shape, facts or teacher.facts, seed=seed)
    source = teacher if initial == "teacher" else _other(initial, labels, seed=seed, head=teacher.facts.head)
    stack = max(layer.ffn_stack for layer in shape.layers)
    if stack > min(layer.ffn_stack for layer in source.shape.layers):
        source = with_stack(source, stack)
    return started_from(source, shape, facts or teacher.facts)


def _stacked(teacher: SubnetConfig, asked: Preset) -> SubnetConfig:
    """The teacher, or a cut of it with more cells a layer."""
    stack = max(asked.ffn_stacks)
    if all(layer.ffn_stack >= stack for layer in teacher.layers):
        return teacher
    layers = (
        replace(
            layer,
            heads=min(layer.heads, max(asked.heads)),
            head_size=min(layer.head_size, max(asked.head_sizes)),
            ffn_size=min(layer.ffn_size, max(asked.ffn_sizes)),
            ffn_stack=stack,
        )
        for layer in teacher.layers
    )
    return SubnetConfig(hidden_size=min(teacher.hidden_size, max(asked.hidden_sizes)), layers=tuple(layers))


def _other(initial: str, labels: Sequence[str], *, seed: int, head: Head = "sequence") -> Supernet:
    """The supernet in a file of ours, or the encoder in a folder of `transformers`."""
    if Path(initial).is_file():
        return load_supernet(Path(initial))
    return supernet_from_bert(load_teacher(initial, labels=labels, seed=seed, head=head).model)
