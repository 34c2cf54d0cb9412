"""What stands on the encoder and answers, by `ModelFacts.head`.

- `sequence`: pooler of the first token, activation, classifier: one answer a text;
- `token`: a linear on every token; `span`: the same with two labels, where the answer starts and where it ends;
- `mlm`: BERT's masked language model: transform, GELU, LayerNorm, and the word table itself as the decoder, with a bias
  of its own. Where the word table is narrower than the hidden size, the transform leads to its width, as ALBERT's does.

Shapes in the comments: B batch, S sequence, N hidden size, V words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from supernet.facts import ModelFacts, PoolerActivation
from supernet.layer import Linear, cut_linear, cut_norm

_POOLER_ACTIVATIONS: Mapping[PoolerActivation, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "gelu": functional.gelu,
}
_INITIAL_DEVIATION = 0.02  # BERT's


class HeadWeights(NamedTuple):
    """A head's tensors, cut to the subnet's hidden size.

    `pooler` and `norm` stand before the `classifier` where the head has them: the masked language model's transform and
    its LayerNorm are these, and its classifier the word table with a bias.
    """

    classifier: Linear
    pooler: Linear | None = None
    norm: Linear | None = None


def head_axes(facts: ModelFacts) -> Mapping[str, tuple[int, ...]]:
    """Name of each of the head's parameters -> its axes that are hidden dims, which a cut shortens."""
    if facts.head != "mlm":
        axes: dict[str, tuple[int, ...]] = {"classifier.weight": (1,), "classifier.bias": ()}
        return axes | ({"pooler.weight": (0, 1), "pooler.bias": (0,)} if facts.head == "sequence" else {})
    own = () if facts.embedding_size else (0,)
    return {
        "transform.weight": (*own, 1),
        "transform.bias": own,
        "transform_norm.weight": own,
        "transform_norm.bias": own,
        "word_bias": (),
    }


class AnswerHead(nn.Module):
    """A head with its largest sizes, as a part of `Supernet`, whose names of weights it has."""

    facts: ModelFacts
    word_embeddings: nn.Embedding

    def make_head(self, n: int) -> None:
        """Adds the modules for hidden size `n`."""
        facts = self.facts
        if facts.head == "mlm":
            width = facts.embedding_size or n
            self.transform = nn.Linear(n, width)
            self.transform_norm = nn.LayerNorm(width, eps=facts.layer_norm_eps)
            self.word_bias = nn.Parameter(torch.zeros(facts.vocab_size))
            return
        if facts.head == "sequence":
            self.pooler = nn.Linear(n, n)
        self.classifier = nn.Linear(n, facts.num_labels)

    def head_weights(self, n: int) -> HeadWeights:
        """The head's tensors for hidden size `n`: views."""
        facts = self.facts
        if facts.head == "mlm":
            width = facts.embedding_size or n
            return HeadWeights(
                classifier=(self.word_embeddings.weight[:, :width], self.word_bias),
                pooler=cut_linear(self.transform, width, n),
                norm=cut_norm(self.transform_norm, width),
            )
        classifier = cut_linear(self.classifier, facts.num_labels, n)
        return HeadWeights(
            classifier=classifier, pooler=cut_linear(self.pooler, n, n) if facts.head == "sequence" else None
        )

    def answer(self, hidden: Tensor, at: Tensor | None) -> Tensor:
        """The last hidden states [B, S, N] to logits: [B, labels] of texts, [B, S, labels or V] of tokens.

        With `at`, bool [B, S], a head of tokens answers those only: [how many, labels or V].
        """
        w = self.head_weights(hidden.shape[-1])
        if self.facts.head == "sequence":
            if at is not None:
                raise ValueError("at names the tokens to answer for, and this model answers for whole texts")
            hidden = hidden[:, 0]
        elif at is not None:
            hidden = hidden[at]
        if w.pooler is not None:
            hidden = functional.linear(hidden, *w.pooler)
            if w.norm is None:
                hidden = _POOLER_ACTIVATIONS[self.facts.pooler_activation](hidden)
            else:
                size = (hidden.shape[-1],)
                hidden = functional.layer_norm(functional.gelu(hidden), size, *w.norm, eps=self.facts.layer_norm_eps)
        return functional.linear(hidden, *w.classifier)

    @torch.no_grad()
    def draw_head(self, seed: int) -> None:
        """Draws the head's weights anew as BERT's are: normal with deviation 0.02, biases 0, LayerNorm 1."""
        rng = torch.Generator().manual_seed(seed)
        for name in head_axes(self.facts):
            parameter = self.get_parameter(name)
            if parameter.dim() == 2:
                drawn = torch.normal(0.0, _INITIAL_DEVIATION, tuple(parameter.shape), generator=rng)
                parameter.copy_(drawn)
            else:
                parameter.fill_(1.0 if name == "transform_norm.weight" else 0.0)
