"""What a supernet starts as: random weights, a teacher with its dims in order of importance, or another supernet."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from supernet.errors import StageError
from supernet.facts import ModelFacts
from supernet.importance import Measure, kept_layers, measure_importance, reorder
from supernet.model import Supernet
from supernet.space import SubnetConfig

Order: TypeAlias = Measure | Literal["none"]
Batches: TypeAlias = Iterable[tuple[dict[str, Tensor], Tensor]]

_DEVIATION = 0.02  # BERT's


@torch.no_grad()
def random_supernet(shape: SubnetConfig, facts: ModelFacts, *, seed: int) -> Supernet:
    """Weights as BERT draws them (Devlin et al. 2019): normal with deviation 0.02, biases 0, LayerNorm 1, the padding's
    row 0."""
    net = Supernet(shape=shape.renumbered(), facts=facts)
    draw = torch.Generator().manual_seed(seed)
    norms = {f"{name}.weight" for name, module in net.named_modules() if isinstance(module, nn.LayerNorm)}
    for name, parameter in net.named_parameters():
        if parameter.dim() == 2:
            parameter.copy_(torch.normal(0.0, _DEVIATION, tuple(parameter.shape), generator=draw))
        else:
            parameter.fill_(1.0 if name in norms else 0.0)
    net.word_embeddings.weight[facts.pad_token_id] = 0
    return net.eval()


def ordered_supernet(
    teacher: Supernet,
    batches: Batches,
    *,
    by: Order = "taylor",
    shape: SubnetConfig | None = None,
    keep_layers: Literal["named", "important"] = "named",
) -> Supernet:
    """A copy of the teacher whose dims stand in order of importance, cut to `shape` where there is one.

    `batches` of (inputs, labels) are what importance is measured on. `shape` names the layers it keeps by its sources;
    with `important` it keeps as many of the most important instead, in their order.

    Raises `StageError` where the shape cannot be cut from the teacher.
    """
    net = copy.deepcopy(teacher)
    importance = None
    if by != "none":
        importance = measure_importance(net, batches, by=by)
        reorder(net, importance)
    if shape is None:
        return net.eval()
    if keep_layers == "important":
        if importance is None:
            raise StageError("important layers are kept by a measure: choose by = 'taylor' or 'activation'")
        sources = kept_layers(importance.layers, shape.depth)
        shape = replace(
            shape, layers=tuple(replace(layer, source=i) for layer, i in zip(shape.layers, sources, strict=True))
        )
    return started_from(net, shape, teacher.facts)


def started_from(source: Supernet, shape: SubnetConfig, facts: ModelFacts) -> Supernet:
    """A network of this shape and head with the weights it would have as a subnet of `source`; a head that this one
    does not have is drawn.

    Raises `StageError` where it cannot be cut from it, or reads other words.
    """
    if not shape.fits(source.shape):
        raise StageError(
            f"{shape} cannot be cut from {source.shape}, with whose weights it was to start: every size must be as "
            "large there. Choose a smaller shape, a larger start, or random weights"
        )
    own, wanted = (replace(x, head="sequence", num_labels=1) for x in (source.facts, facts))
    if own != wanted:
        raise StageError(
            f"what it was to start from has {own.to_json()}, but {wanted.to_json()} is wanted: embeddings and position "
            "table cannot be taken over. Choose the same, or random weights"
        )
    net = source.slice(shape)
    if (source.facts.head, source.facts.num_logits) != (facts.head, facts.num_logits):
        net = net.with_head(facts.head, num_labels=facts.num_labels)
    return net.eval()
