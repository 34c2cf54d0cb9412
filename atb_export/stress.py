"""A network of a model's shape with random weights and large values, for which an engine is held to `verify.STRESS`.

Trained weights are kind: scores of a few units, activations of a few tens. Here scores reach 500 to 1800, so softmax
is all or nothing and must subtract its maximum, hidden dims differ by a factor of tens as the outliers of a trained
BERT do, and GELU sees its far tails. All of it is far inside what f16 can hold: an engine that overflows here is wrong.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

import torch
from torch import nn

from supernet.batches import TokenizedTexts
from supernet.model import Supernet

GAIN = 8.0  # at 16 scores pass 10000, which is what stands for "masked" in the graph; at 32 f16 overflows
_WORDS = 128
_OUTLIERS = 97  # every so many hidden dims one is an outlier


@torch.no_grad()
def stress_copy(model: Supernet, *, length: int, seed: int = 0, gain: float = GAIN) -> Supernet:
    """The model's architecture with few words and positions and other weights, which follow from `seed`."""
    facts = replace(
        model.facts,
        vocab_size=min(_WORDS, model.facts.vocab_size),
        max_position_embeddings=min(length, model.facts.max_position_embeddings),
        pad_token_id=0,
    )
    net = Supernet(shape=model.shape, facts=facts).eval()
    rng = torch.Generator().manual_seed(seed)
    norms = [module for module in net.modules() if isinstance(module, nn.LayerNorm)]
    ones = {id(module.weight) for module in norms}
    for parameter in net.parameters():
        noise = torch.randn(parameter.shape, generator=rng)
        if id(parameter) in ones:
            parameter.copy_(1 + 0.5 * noise)
        else:
            parameter.copy_(0.5 * noise if parameter.dim() == 1 else noise * parameter.shape[1] ** -0.5)
    for layer in net.encoder:
        for linear in (layer.query, layer.key, layer.attention_output):
            linear.weight.mul_(gain)
        for cell in layer.stack:
            cell.intermediate.weight.mul_(gain)
            cell.output.weight.mul_(gain)
    for module in norms:
        module.weight[::_OUTLIERS].mul_(gain)
        module.bias[::_OUTLIERS].add_(gain)
    return net


def stress_texts(net: Supernet, *, pairs: bool, length: int, seed: int = 0) -> TokenizedTexts:
    """Random rows of every kind of length, for a network of `stress_copy`."""
    rng = Random(seed)
    counts = sorted({1, min(2, length), max(1, length // 3), max(1, length // 2), max(1, length - 1), length})
    ids = tuple(rng.choices(range(net.facts.vocab_size), k=n) for n in counts)
    types = tuple([int(i >= n // 2 and net.facts.type_vocab_size > 1) for i in range(n)] for n in counts)
    return TokenizedTexts(input_ids=ids, token_type_ids=types if pairs else None, pad_token_id=0)
