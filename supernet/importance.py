"""Orders a supernet's dimensions so that every cut keeps what matters most.

Importance is first-order Taylor (Molchanov et al. 2019, Michel et al. 2019): the loss changes by about |w . dL/dw|
when the weights w of a group are removed; it is summed over calibration batches. Reordering permutes weights
consistently, so the largest subnet still computes the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from supernet.losses import hard_label
from supernet.model import Supernet, SupernetLayer


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Scores, larger is more important: `hidden` [N] and, per layer, `heads` [H], `neurons` [cells, F] and the dims
    within each head of query and key (`score_dims` [H, D]) and of value (`value_dims` [H, D])."""

    hidden: Tensor
    heads: tuple[Tensor, ...]
    neurons: tuple[Tensor, ...]
    score_dims: tuple[Tensor, ...]
    value_dims: tuple[Tensor, ...]


class _LayerScores(NamedTuple):
    heads: Tensor
    neurons: Tensor
    score_dims: Tensor
    value_dims: Tensor


def _taylor(parameter: Tensor) -> Tensor:
    gradient = parameter.grad
    if gradient is None:
        raise RuntimeError("importance needs a backward pass first")
    return parameter.detach() * gradient


def _layer_scores(layer: SupernetLayer) -> _LayerScores:
    heads, size = layer.whole.heads, layer.whole.head_size
    back = _taylor(layer.attention_output.weight).sum(0).view(heads, size)
    query = _taylor(layer.query.weight).sum(1) + _taylor(layer.query.bias)
    neurons = torch.stack([_taylor(cell.output.weight).sum(0).abs() for cell in layer.stack])
    # The value path carries the whole head's contribution, so it also ranks the heads.
    return _LayerScores(back.sum(1).abs(), neurons, query.view(heads, size).abs(), back.abs())


def _sum(a: _LayerScores, b: _LayerScores) -> _LayerScores:
    return _LayerScores(*(x + y for x, y in zip(a, b, strict=True)))


def _norms(model: Supernet) -> list[nn.LayerNorm]:
    """All that hold the hidden dims."""
    inner = ((layer.attention_norm, *(cell.output_norm for cell in layer.stack)) for layer in model.encoder)
    return [model.embedding_norm, *(norm for norms in inner for norm in norms)]


def measure_importance(model: Supernet, batches: Iterable[tuple[dict[str, Tensor], Tensor]]) -> Importance:
    """Scores from `batches` of (inputs, labels); leaves weights and mode as they were, no gradients."""
    training, frozen = model.training, [p for p in model.parameters() if not p.requires_grad]
    model.eval()
    model.requires_grad_(True)
    hidden = torch.zeros(model.shape.hidden_size)
    layers: list[_LayerScores] = []
    norms = _norms(model)
    for inputs, labels in batches:
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(hard_label(model(**inputs).logits.float(), labels))
        # LayerNorm's weights and biases gate the residual stream, one dim each.
        hidden += sum((_taylor(norm.weight) + _taylor(norm.bias)).abs() for norm in norms)
        scores = [_layer_scores(layer) for layer in model.encoder]
        layers = [_sum(x, y) for x, y in zip(layers, scores, strict=True)] if layers else scores
    model.zero_grad(set_to_none=True)
    for parameter in frozen:
        parameter.requires_grad_(False)
    model.train(training)
    if not layers:
        raise ValueError("importance needs at least one calibration batch")
    return Importance(
        hidden=hidden,
        heads=tuple(x.heads for x in layers),
        neurons=tuple(x.neurons for x in layers),
        score_dims=tuple(x.score_dims for x in layers),
        value_dims=tuple(x.value_dims for x in layers),
    )


def _descending(scores: Tensor) -> Tensor:
    return torch.sort(scores, descending=True, stable=True).indices


def _head_rows(heads: Tensor, dims: Tensor) -> Tensor:
    """Row order of a [H*D, ...] matrix: heads in order `heads` [H], in each the dims in its order `dims` [H, D]."""
    size = dims.shape[1]
    return (heads[:, None] * size + dims[heads]).flatten()


@torch.no_grad()
def reorder(model: Supernet, importance: Importance) -> None:
    """Permutes hidden dims, heads, head dims and neurons in place, most important first."""
    n = _descending(importance.hidden)
    for table in (model.word_embeddings, model.position_embeddings, model.token_type_embeddings):
        table.weight.copy_(table.weight[:, n])
    for norm in _norms(model):
        norm.weight.copy_(norm.weight[n])
        norm.bias.copy_(norm.bias[n])
    for i, layer in enumerate(model.encoder):
        heads = _descending(importance.heads[i])
        scored = _head_rows(heads, _descending(importance.score_dims[i]))
        valued = _head_rows(heads, _descending(importance.value_dims[i]))
        pieces = [
            (layer.query, scored, n),
            (layer.key, scored, n),
            (layer.value, valued, n),
            (layer.attention_output, n, valued),
        ]
        for cell, neurons in zip(layer.stack, _descending(importance.neurons[i]), strict=True):
            pieces += [(cell.intermediate, neurons, n), (cell.output, n, neurons)]
        for module, rows, columns in pieces:
            module.weight.copy_(module.weight[rows][:, columns])
            module.bias.copy_(module.bias[rows])
    model.pooler.weight.copy_(model.pooler.weight[n][:, n])
    model.pooler.bias.copy_(model.pooler.bias[n])
    model.classifier.weight.copy_(model.classifier.weight[:, n])
