"""The encoders of `transformers` that are BERTs by another name, as one table; from each to a supernet, and back.

What is not BERT's own in them, and why the answer stays the same:

- RoBERTa counts positions from pad_token_id + 1, so its table is kept without the rows before; its head is dense, tanh
  and projection of the first token, which is BERT's pooler and classifier;
- DistilBERT has no token types: a table of one row of zeros stands for them; its pooler's activation is ReLU;
- ELECTRA's pooler's activation is GELU.

A checkpoint is read under the head that is asked for: that of texts, of tokens, of spans, or, but for ELECTRA, of its
masked language model. What it holds of other heads is left aside.

RoBERTa gives the token `<pad>` written out inside of a text no position; here it has one, as any other token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import torch
from torch import Tensor

from supernet.errors import TeacherError
from supernet.facts import Head, ModelFacts, PoolerActivation
from supernet.heads import head_axes
from supernet.model import Supernet
from supernet.names import BERT, DISTILBERT, ELECTRA, ROBERTA, Names
from supernet.space import SubnetConfig

# Heads of other tasks: who asks for one does not read them, so they may be left over in its checkpoint.
_OTHER_HEADS = (
    *("cls.", "lm_head.", "qa_outputs.", "vocab_transform.", "vocab_layer_norm.", "vocab_projector."),
    *("discriminator_predictions.", "generator_predictions.", "generator_lm_head."),
)
# Where a masked language model's decoder stands beside the word table that it is tied to.
_DECODERS = ("cls.predictions.decoder.", "lm_head.decoder.", "vocab_projector.")
# What older versions of `transformers` saved though it is no weight.
_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
_DISTILBERT_EPS = 1e-12  # written into its code


@dataclass(frozen=True, kw_only=True)
class Family:
    """One architecture: `name` is the `model_type` of its configuration.

    `keys` maps BERT's configuration keys to its own where they differ, `offset` says that position 0 is row
    pad_token_id + 1, `unread` begins names inside the body that its classifier does not read.
    """

    name: str
    names: Names
    pooler_activation: PoolerActivation = "tanh"
    keys: Mapping[str, str] = field(default_factory=dict)
    token_types: bool = True
    offset: bool = False
    unread: tuple[str, ...] = ()

    def get(self, config: Any, key: str) -> Any:
        """The value of BERT's configuration key."""
        return getattr(config, self.keys.get(key, key))

    def ignores(self, name: str, head: Head = "sequence") -> bool:
        """Whether the model with this head computes without this weight of a checkpoint, though another's would not."""
        inner = name.removeprefix(self.names.body)
        if inner in _BUFFERS or inner.startswith(self.unread):
            return True
        if name.startswith(tuple(self.names.head(head).values())):
            return False
        return name.startswith(_OTHER_HEADS if head == "sequence" else (*_OTHER_HEADS, *self.heads))

    @property
    def heads(self) -> tuple[str, ...]:
        """How the names of all heads begin."""
        kinds: tuple[Head, ...] = get_args(Head)
        return tuple(name for kind in kinds for name in self.names.head(kind).values())


_ROBERTAS = ("roberta", "xlm-roberta", "camembert")
FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family(name="bert", names=BERT),
        Family(
            name="distilbert",
            names=DISTILBERT,
            pooler_activation="relu",
            keys={"hidden_act": "activation", "intermediate_size": "hidden_dim"},
            token_types=False,
        ),
        *(Family(name=x, names=ROBERTA, offset=True, unread=("pooler.",)) for x in _ROBERTAS),
        Family(name="electra", names=ELECTRA, pooler_activation="gelu"),
    )
}


def family_of(config: Any, *, where: str) -> Family:
    """The family of a `transformers` configuration; `TeacherError` for what this house does not compute, with its name.

    `where` names the model in the message.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise TeacherError(
            f"the model at {where!r} has model_type = {config.model_type!r}, which is not supported; supported are "
            f"{', '.join(FAMILIES)}: encoders with BERT's layers"
        )
    wanted = {
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
        "embedding_size": config.hidden_size,  # ELECTRA's small ones project their embeddings
    }
    for key, value in wanted.items():
        theirs = family.keys.get(key, key)
        found = getattr(config, theirs, value)
        if found != value:
            raise TeacherError(
                f"the model at {where!r} has {theirs} = {found!r}, but only {value!r} is supported in {family.name}. "
                "Choose a checkpoint without it (bert-base, MiniLM, TinyBERT, DistilBERT, RoBERTa, ...)"
            )
    kind, labels = getattr(config, "problem_type", None), config.num_labels
    if kind == "multi_label_classification" or (kind == "regression" and labels > 1):
        raise TeacherError(
            f"the model at {where!r} answers {labels} questions at once ({kind}); supported are one label of many, "
            "and regression to one value"
        )
    return family


def shape_of(config: Any) -> SubnetConfig:
    """The shape of a supported encoder by its `transformers` configuration: one feed-forward cell a layer."""
    family = family_of(config, where=config.name_or_path)
    return SubnetConfig.uniform(
        hidden_size=family.get(config, "hidden_size"),
        depth=family.get(config, "num_hidden_layers"),
        heads=family.get(config, "num_attention_heads"),
        ffn_size=family.get(config, "intermediate_size"),
    )


def facts_of(config: Any) -> ModelFacts:
    """What all subnets of a supported classifier share, by its `transformers` configuration."""
    family = family_of(config, where=config.name_or_path)
    pad = config.pad_token_id or 0
    try:
        return ModelFacts(
            vocab_size=config.vocab_size,
            max_position_embeddings=config.max_position_embeddings - (pad + 1 if family.offset else 0),
            type_vocab_size=config.type_vocab_size if family.token_types else 1,
            layer_norm_eps=getattr(config, "layer_norm_eps", _DISTILBERT_EPS),
            pad_token_id=pad,
            num_labels=config.num_labels,
            pooler_activation=family.pooler_activation,
        )
    except ValueError as error:
        raise TeacherError(f"the configuration at {config.name_or_path!r} is of no {family.name}: {error}") from error


def supernet_of(config: Any, weights: Mapping[str, Tensor], *, where: str, head: Head = "sequence") -> Supernet:
    """The model with these weights of a checkpoint; its largest subnet computes what theirs computes (law 1).

    Raises `TeacherError` where a weight is missing, unknown, of another shape, or not finite, and for a masked language
    model whose decoder is not its word table.
    """
    family = family_of(config, where=where)
    if head == "mlm" and mlm_head_of(config, weights, where=where) is None:
        raise TeacherError(
            f"the model at {where!r} has no head of a masked language model that is known ({family.name})"
        )
    return _read(config, weights, where=where, facts=_under(head, facts_of(config)))


def mlm_head_of(config: Any, weights: Mapping[str, Tensor], *, where: str) -> dict[str, Tensor] | None:
    """The tensors of a checkpoint's masked language model by our names (`supernet.heads`), or None where it has none.

    Raises `TeacherError` where its decoder is not its word table: the two are one here.
    """
    family = family_of(config, where=where)
    theirs = {_modern(name): tensor for name, tensor in weights.items()}
    for start in _DECODERS:
        words, decoder = theirs.get(family.names.of("word_embeddings.weight")), theirs.get(f"{start}weight")
        if words is not None and decoder is not None and not torch.equal(words, decoder):
            raise TeacherError(
                f"the masked language model at {where!r} has a decoder of its own, {start}weight; read are those that "
                "are the word table"
            )
    found: dict[str, Tensor] = {}
    for name in head_axes(_under("mlm", facts_of(config))):
        if not family.names.mlm:
            return None
        known = family.names.of(name, "mlm")
        also = [f"{start}bias" for start in _DECODERS] if name == "word_bias" else []
        tensor = next((theirs[x] for x in (known, *also) if x in theirs), None)
        if tensor is None:
            return None
        found[name] = tensor
    return found


def _under(head: Head, facts: ModelFacts) -> ModelFacts:
    return replace(facts, head=head, num_labels=2 if head == "span" else facts.num_labels)


def _read(config: Any, weights: Mapping[str, Tensor], *, where: str, facts: ModelFacts) -> Supernet:
    """The model of these facts."""
    family, head = family_of(config, where=where), facts.head
    offset = facts.pad_token_id + 1 if family.offset else 0
    theirs = {_modern(name): tensor for name, tensor in weights.items()}
    theirs = {name: tensor for name, tensor in theirs.items() if not family.ignores(name, head)}
    with torch.device("meta"):
        net = Supernet(shape=shape_of(config), facts=facts)
    found: dict[str, Tensor] = dict(mlm_head_of(config, weights, where=where) or {}) if head == "mlm" else {}
    known: dict[str, str] = {}
    for name in net.state_dict():
        if name == "token_type_embeddings.weight" and not family.token_types:
            found[name], known[name] = torch.zeros(1, net.shape.hidden_size), name
            continue
        known[name] = family.names.of(name, head) if name not in head_axes(facts) or family.names.head(head) else name
        tensor = theirs.pop(known[name], None)
        if tensor is not None:
            found[name] = tensor[offset:] if name == "position_embeddings.weight" else tensor
    return filled(net, found, names=known, unknown=theirs, where=where)


def filled(
    net: Supernet, weights: Mapping[str, Tensor], *, names: Mapping[str, str], unknown: Iterable[str] = (), where: str
) -> Supernet:
    """The network, made on torch's meta device, with copies of these weights in float32, in eval mode.

    `names` are those of the checkpoint, for messages. Raises `TeacherError` as `supernet_of` does.
    """
    wanted = net.state_dict()
    if missing := [names[name] for name in wanted if name not in weights]:
        raise TeacherError(
            f"the model at {where!r} lacks {len(missing)} of its {len(wanted)} weights: {', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}. Supported is a whole model: an encoder and its trained head"
        )
    if extra := sorted(unknown):
        raise TeacherError(
            f"the model at {where!r} has {len(extra)} weights that its configuration does not speak of, such as "
            f"{extra[0]}: what they do would be left out. Correct config.json, or drop them from the checkpoint"
        )
    ready = {}
    for name, empty in wanted.items():
        tensor = weights[name]
        if tensor.shape != empty.shape or not tensor.is_floating_point():
            raise TeacherError(
                f"the model at {where!r} cannot be loaded: its weight {names[name]} is {tensor.dtype} "
                f"{list(tensor.shape)}, and by its configuration floating point {list(empty.shape)}"
            )
        ready[name] = tensor.detach().to("cpu", torch.float32, copy=True)
        if not torch.isfinite(ready[name]).all():
            raise TeacherError(f"the model at {where!r}: its weight {names[name]} holds values that are not finite")
    net.load_state_dict(ready, assign=True)
    return net.eval()


def stock_settings(net: Supernet, family: Family) -> dict[str, Any] | None:
    """The configuration values with which the family's own class computes what the network does; None if it cannot."""
    facts, shape = net.facts, net.shape
    if not shape.is_stock_bert or facts.pooler_activation != family.pooler_activation:
        return None
    if facts.head not in ("sequence", "span") or facts.embedding != "table":
        return None
    if not family.token_types and (facts.type_vocab_size, facts.layer_norm_eps) != (1, _DISTILBERT_EPS):
        return None
    first = shape.layers[0]
    settings: dict[str, Any] = {
        "vocab_size": facts.vocab_size,
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": first.heads,
        "intermediate_size": first.ffn_size,
        "max_position_embeddings": facts.max_position_embeddings + (facts.pad_token_id + 1 if family.offset else 0),
        "pad_token_id": facts.pad_token_id,
    }
    if family.token_types:
        settings |= {"type_vocab_size": facts.type_vocab_size, "layer_norm_eps": facts.layer_norm_eps}
    if family is FAMILIES["electra"]:
        settings["embedding_size"] = shape.hidden_size
    return {family.keys.get(key, key): value for key, value in settings.items()}


@torch.no_grad()
def stock_weights(net: Supernet, family: Family) -> dict[str, Tensor]:
    """The network's tensors as the family's own class names and holds them; see `stock_settings` for whether it can."""
    ours = net.state_dict()
    positions = ours["position_embeddings.weight"]
    if not family.token_types:
        ours["position_embeddings.weight"] = positions + ours.pop("token_type_embeddings.weight")[0]
    if family.offset:
        unused = positions.new_zeros(net.facts.pad_token_id + 1, positions.shape[1])
        ours["position_embeddings.weight"] = torch.cat([unused, positions])
    return {family.names.of(name, net.facts.head): tensor for name, tensor in ours.items()}


def _modern(name: str) -> str:
    """The first checkpoints of all, converted from TensorFlow, name LayerNorm's tensors gamma and beta."""
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith(f"LayerNorm{old}"):
            return name.removesuffix(old) + new
    return name
