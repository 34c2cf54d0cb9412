"""The dense models stock BERT cannot express, as a `transformers` model: per-layer heads, head sizes and widths,
and stacked feed-forward cells.

`AutoModelForSequenceClassification` and `AutoModelForQuestionAnswering` find them once `atb_export` is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import QuestionAnsweringModelOutput, SequenceClassifierOutput

from supernet.facts import ModelFacts
from supernet.losses import hard_label
from supernet.model import Supernet
from supernet.space import SubnetConfig


class AtbBertConfig(PretrainedConfig):  # type: ignore[misc]
    """A subnet's shape and the facts it shares with its supernet, as plain data."""

    model_type = "atb_bert"

    def __init__(
        self, subnet: Mapping[str, Any] | None = None, facts: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        self.subnet = dict(subnet) if subnet is not None else None
        self.facts = dict(facts) if facts is not None else None
        super().__init__(**kwargs)


class _AtbBert(PreTrainedModel):  # type: ignore[misc]
    """A sliced subnet with its head, as `net`."""

    config_class = AtbBertConfig
    base_model_prefix = "net"

    def __init__(self, config: AtbBertConfig) -> None:
        super().__init__(config)
        if config.subnet is None or config.facts is None:
            raise ValueError("an atb_bert configuration needs subnet and facts; this one was not written by atb")
        self.net = Supernet(shape=SubnetConfig.from_json(config.subnet), facts=ModelFacts.from_json(config.facts))
        self.post_init()

    def get_input_embeddings(self) -> Any:
        """The word embedding table."""
        return self.net.word_embeddings

    def _init_weights(self, module: Any) -> None:
        """Leaves modules as torch made them: weights always come from a file."""

    def logits(self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None) -> Tensor:
        """What the network answers to int64 [B, S] inputs."""
        mask = (input_ids != -1).long() if attention_mask is None else attention_mask
        found: Tensor = self.net(input_ids, mask, token_type_ids).logits
        return found


class AtbBertForSequenceClassification(_AtbBert):
    """Inputs and outputs are those of BertForSequenceClassification."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """int64 [B, S] inputs to `logits` [B, labels], and the loss where labels are given."""
        logits = self.logits(input_ids, attention_mask, token_type_ids)
        loss = None if labels is None else hard_label(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class AtbBertForQuestionAnswering(_AtbBert):
    """Inputs and outputs are those of BertForQuestionAnswering."""

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None, **_: Any
    ) -> QuestionAnsweringModelOutput:
        """int64 [B, S] inputs to `start_logits` and `end_logits` [B, S]."""
        start, end = self.logits(input_ids, attention_mask, token_type_ids).unbind(-1)
        return QuestionAnsweringModelOutput(start_logits=start, end_logits=end)


def register() -> None:
    """Makes `transformers`' Auto classes know the architecture."""
    AutoConfig.register(AtbBertConfig.model_type, AtbBertConfig, exist_ok=True)
    AutoModel.register(AtbBertConfig, AtbBertForSequenceClassification, exist_ok=True)
    AutoModelForSequenceClassification.register(AtbBertConfig, AtbBertForSequenceClassification, exist_ok=True)
    AutoModelForQuestionAnswering.register(AtbBertConfig, AtbBertForQuestionAnswering, exist_ok=True)
