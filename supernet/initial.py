"""What a network starts as: random weights, or a cut of another network."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from supernet.errors import StageError
from supernet.facts import ModelFacts
from supernet.model import Supernet
from supernet.space import SubnetConfig

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
