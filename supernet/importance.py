"""Orders a supernet's dimensions so that every cut keeps what matters most.

By `taylor`, importance is of first order (Molchanov et al. 2019, Michel et al. 2019): the loss changes by about
|w . dL/dw| when the weights w of a group are removed. By `activation` it needs no labels: of heads, neurons and their
dims how far what they hand on varies, times the length of the weights that read it (Sun et al. 2023, An et al. 2024: a
constant is no news); of hidden dims how large they are (Muralidharan et al. 2024); of layers how far they turn their
input (Men et al. 2024). Both are summed over calibration batches. Reordering permutes weights consistently, so the
largest subnet still computes the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from supernet.model import Supernet, SupernetLayer
from supernet.objective import LossWeights, Paired, Questions, weighted_sum

Measure: TypeAlias = Literal["taylor", "activation"]


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Scores, larger is more important: `hidden` [N] and, per layer, `heads` [H], `neurons` [cells, F] and the dims
    within each head of query and key (`score_dims` [H, D]) and of value (`value_dims` [H, D]); `layers` [L] are whole
    layers'."""

    hidden: Tensor
    heads: tuple[Tensor, ...]
    neurons: tuple[Tensor, ...]
    score_dims: tuple[Tensor, ...]
    value_dims: tuple[Tensor, ...]
    layers: Tensor


class _LayerScores(NamedTuple):
    heads: Tensor
    neurons: Tensor
    score_dims: Tensor
    value_dims: Tensor


class _Scores(NamedTuple):
    """Of one batch."""

    hidden: Tensor
    depth: Tensor
    layers: list[_LayerScores]


def measure_importance(
    model: Supernet, batches: Iterable[tuple[dict[str, Tensor], Tensor]], *, by: Measure = "taylor"
) -> Importance:
    """Scores from `batches` of (inputs, labels); leaves weights and mode as they were, no gradients.

    Labels are as `Lessons` has them, of a masked language model the hidden words [B, S]; `activation` does not look at
    them.
    """
    if by not in get_args(Measure):
        raise ValueError(f"importance is measured by {', '.join(get_args(Measure))}; got {by!r}")
    training, frozen = model.training, [p for p in model.parameters() if not p.requires_grad]
    model.eval()
    model.requires_grad_(by == "taylor")
    of_batch: Callable[[Supernet, dict[str, Tensor], Tensor], _Scores] = (
        _by_taylor if by == "taylor" else _by_activation
    )
    total: _Scores | None = None
    try:
        for inputs, labels in batches:
            scores = of_batch(model, inputs, labels)
            total = scores if total is None else _sum(total, scores)
    finally:
        model.zero_grad(set_to_none=True)
        model.requires_grad_(True)
        for parameter in frozen:
            parameter.requires_grad_(False)
        model.train(training)
    if total is None:
        raise ValueError("importance needs at least one calibration batch")
    return Importance(
        hidden=total.hidden,
        heads=tuple(x.heads for x in total.layers),
        neurons=tuple(x.neurons for x in total.layers),
        score_dims=tuple(x.score_dims for x in total.layers),
        value_dims=tuple(x.value_dims for x in total.layers),
        layers=total.depth,
    )


def _sum(a: _Scores, b: _Scores) -> _Scores:
    layers = [
        _LayerScores(*(x + y for x, y in zip(p, q, strict=True))) for p, q in zip(a.layers, b.layers, strict=True)
    ]
    return _Scores(a.hidden + b.hidden, a.depth + b.depth, layers)


# --- by the loss's slope ---------------------------------------------------------------------------------------------


def _by_taylor(model: Supernet, inputs: dict[str, Tensor], labels: Tensor) -> _Scores:
    model.zero_grad(set_to_none=True)
    asked = Questions(
        mask=inputs["attention_mask"],
        weights=LossWeights(soft_label=0.0, hidden=0.0, attention=0.0, hard_label=1.0),
        labels=labels,
        head=model.facts.head,
    )
    output = model(**inputs, hidden_states=True)
    for state in output.hidden_states:
        state.retain_grad()
    torch.autograd.backward(weighted_sum(asked, output, None, pairs=Paired((), ())))
    # LayerNorm's weights and biases gate the residual stream, one dim each.
    hidden = sum((_slope(norm.weight) + _slope(norm.bias)).abs() for norm in _norms(model))
    states = output.hidden_states
    # Without a layer its input would be its output.
    depth = [(_slope(after) - before.detach() * after.grad).sum().abs() for before, after in pairwise(states)]
    return _Scores(
        torch.zeros(model.shape.hidden_size) + hidden, torch.stack(depth), [*map(_layer_slopes, model.encoder)]
    )


def _slope(parameter: Tensor) -> Tensor:
    gradient = parameter.grad
    if gradient is None:
        raise RuntimeError("importance needs a backward pass first")
    return parameter.detach() * gradient


def _layer_slopes(layer: SupernetLayer) -> _LayerScores:
    heads, size = layer.whole.heads, layer.whole.head_size
    back = _slope(layer.attention_output.weight).sum(0).view(heads, size)
    query = _slope(layer.query.weight).sum(1) + _slope(layer.query.bias)
    neurons = torch.stack([_slope(cell.output.weight).sum(0).abs() for cell in layer.stack])
    # The value path carries the whole head's contribution, so it also ranks the heads.
    return _LayerScores(back.sum(1).abs(), neurons, query.view(heads, size).abs(), back.abs())


def _norms(model: Supernet) -> list[nn.LayerNorm]:
    """All that hold the hidden dims."""
    inner = ((layer.attention_norm, *(cell.output_norm for cell in layer.stack)) for layer in model.encoder)
    return [model.embedding_norm, *(norm for norms in inner for norm in norms)]


# --- by what is handed on --------------------------------------------------------------------------------------------


class _Inputs(TorchFunctionMode):
    """Keeps what every linear layer is given, by where its weight lies: whatever a cell computes, its neurons are what
    its second linear reads."""

    def __init__(self) -> None:
        self.seen: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is functional.linear:
            self.seen[args[1].data_ptr()] = args[0]
        return func(*args, **(kwargs or {}))

    def of(self, linear: nn.Linear) -> Tensor:
        """[B, S, in]."""
        return self.seen[linear.weight.data_ptr()]


@torch.no_grad()
def _by_activation(model: Supernet, inputs: dict[str, Tensor], _labels: Tensor) -> _Scores:
    kept = inputs["attention_mask"].bool()
    with _Inputs() as given:
        output = model(**inputs, hidden_states=True, projections=True)

    def tokens(x: Tensor) -> Tensor:
        return x[kept].float()

    def handed_on(linear: nn.Linear) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(linear.weight, dim=0)
        return tokens(given.of(linear)).std(0, correction=0) * length

    layers = []
    for layer, parts in zip(model.encoder, output.projections, strict=True):
        heads, size = layer.whole.heads, layer.whole.head_size
        values = handed_on(layer.attention_output).view(heads, size)
        # A constant added to all keys changes no attention.
        scores = tokens(parts.query).abs().mean(0) * tokens(parts.key).std(0, correction=0)
        neurons = torch.stack([handed_on(cell.output) for cell in layer.stack])
        whole = _heads(tokens(given.of(layer.attention_output)), layer)
        layers.append(_LayerScores(whole, neurons, scores.view(heads, size), values))
    states = output.hidden_states
    hidden = torch.stack([tokens(state).abs().mean(0) for state in states]).sum(0)
    turned = [1 - functional.cosine_similarity(x[kept], y[kept], dim=-1).mean() for x, y in pairwise(states)]
    return _Scores(hidden, torch.stack(turned), layers)


def _heads(context: Tensor, layer: SupernetLayer) -> Tensor:
    """How far what each head adds to the residual stream varies, from contexts [tokens, H*D]: [H]."""
    heads, size = layer.whole.heads, layer.whole.head_size
    parts = (context - context.mean(0)).view(-1, heads, size)
    back = layer.attention_output.weight.view(-1, heads, size)
    covariance = torch.einsum("thd,the->hde", parts, parts) / len(parts)
    return (covariance * torch.einsum("nhd,nhe->hde", back, back)).sum((1, 2)).sqrt()


# --- putting it in order ---------------------------------------------------------------------------------------------


def kept_layers(scores: Tensor, depth: int) -> tuple[int, ...]:
    """The `depth` most important layers by `scores` [L], ascending: what a space of nested depths keeps."""
    return tuple(sorted(_descending(scores)[:depth].tolist()))


def _descending(scores: Tensor) -> Tensor:
    return torch.sort(scores, descending=True, stable=True).indices


def _head_rows(heads: Tensor, dims: Tensor) -> Tensor:
    """Row order of a [H*D, ...] matrix: heads in order `heads` [H], in each the dims in its order `dims` [H, D]."""
    size = dims.shape[1]
    return (heads[:, None] * size + dims[heads]).flatten()


@torch.no_grad()
def reorder(model: Supernet, importance: Importance) -> None:
    """Permutes hidden dims, heads, head dims and neurons in place, most important first.

    Raises `ValueError` for a network with a cell that cuts its input: it ties neurons to hidden dims, one by one.
    """
    if tied := [str(layer.whole.cell) for layer in model.encoder if layer.whole.cell.cuts]:
        raise ValueError(f"the cell {tied[0]} ties neurons to hidden dims, which cannot be put in order then")
    n = _descending(importance.hidden)
    for name, axes in model.hidden_axes.items():
        parameter = model.get_parameter(name)
        for axis in axes:
            parameter.copy_(parameter.index_select(axis, n))
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
        for norm in (layer.attention_norm, *(cell.output_norm for cell in layer.stack)):
            norm.weight.copy_(norm.weight[n])
            norm.bias.copy_(norm.bias[n])
