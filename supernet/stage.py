"""A stage of a training as data: who teaches, on what, which losses, which layers, which subnets, how long.

Standard library only. A recipe is a list of stages for the supernet and one for the picked student; what a stage needs
beside this (teacher, texts) is handed to `supernet.distillation.teach`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field, fields
from typing import Any, Literal, TypeAlias, get_args

from supernet.layer_map import LayerMap
from supernet.subnet import check

TeacherKind: TypeAlias = Literal["task", "pretrained", "multitask", "none"]
DataKind: TypeAlias = Literal["task", "transfer", "augmented", "all"]
Projection: TypeAlias = Literal["none", "shared", "layer"]
SamplerKind: TypeAlias = Literal["uniform", "sandwich", "attentive", "progressive", "whole"]

_ANSWERS = ("soft_label", "hard_label", "mlm")
_LATENT = ("hidden", "attention", "attention_kl", "relations", "embedding")


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """How much each term counts; a term of weight 0 is not computed.

    `soft_label` and `hard_label` are of the answers, `mlm` of the words that were masked; `hidden` and `attention`
    (scores) or `attention_kl` (their softmax) of the layers that a map pairs; `embedding` of the input; `relations`
    (MiniLM v2) of queries, keys and values of the last pair, cut into `relation_heads` parts, or the most of them that
    divide both widths.
    """

    soft_label: float = 1.0
    hidden: float = 1.0
    attention: float = 0.1
    hard_label: float = 0.0
    attention_kl: float = 0.0
    relations: float = 0.0
    embedding: float = 0.0
    mlm: float = 0.0
    temperature: float = 1.0
    relation_heads: int = 12

    def __post_init__(self) -> None:
        terms = [getattr(self, name) for name in (*_ANSWERS, *_LATENT)]
        if min(terms) < 0 or max(terms) == 0:
            raise ValueError(f"loss weights must be 0 or more and one of them positive, got {self}")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        if self.relation_heads < 1:
            raise ValueError(f"relation_heads must be 1 or more, got {self.relation_heads}")

    @property
    def asks(self) -> dict[str, bool]:
        """Which inner values of a network the terms need: the flags of `Supernet.forward`."""
        return {
            "hidden_states": self.hidden > 0 or self.embedding > 0,
            "attention_scores": self.attention > 0 or self.attention_kl > 0,
            "projections": self.relations > 0,
        }

    @property
    def needs_teacher(self) -> bool:
        """Whether a term compares with a teacher."""
        return self.soft_label > 0 or any(getattr(self, name) for name in _LATENT)

    @property
    def is_latent(self) -> bool:
        """Whether no term is of the answers: the head then learns nothing and stays as it is."""
        return not any(getattr(self, name) for name in _ANSWERS)


@dataclass(frozen=True)
class Sampler:
    """Which subnets a step teaches; all follow from (seed, step) alone.

    - `uniform`: one drawn from the space (AutoTinyBERT).
    - `sandwich`: the largest, the smallest and `random_subnets` drawn ones (Yu & Huang 2019).
    - `attentive`: a sandwich whose drawn ones are each the one of `draws` that costs nearest to what is asked for.
    - `progressive`: a sandwich in a space that opens while it trains: depth, then heads and feed-forward, then
      hidden size (Once-for-all).
    - `whole`: the network as it is.

    With `in_place` all but the largest copy its soft labels and inner values instead of the teacher's.
    """

    kind: SamplerKind = "sandwich"
    _: KW_ONLY
    random_subnets: int = 1
    in_place: bool = False
    draws: int = 8

    def __post_init__(self) -> None:
        kinds = get_args(SamplerKind)
        check(self.kind in kinds, f"a sampler is one of {', '.join(kinds)}; got {self.kind!r}")
        check(self.random_subnets >= 0, f"random_subnets must be 0 or more, got {self.random_subnets}")
        check(self.draws >= 1, f"draws must be 1 or more, got {self.draws}")
        check(
            not self.in_place or self.kind not in ("uniform", "whole"),
            f"in_place needs the largest subnet beside others in each step: sandwich, attentive or progressive; "
            f"{self.kind} has one subnet a step",
        )


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage.

    `teacher`: fine-tuned on the `task`, as it came (`pretrained`), fine-tuned on several tasks (`multitask`) or `none`
    (labels and masked words only). `data`: the `task`'s labelled rows, unlabelled `transfer` text, `augmented` rows, or
    `all` of task and transfer. `projection`: a learned map from the student's hidden states to the teacher's, `shared`
    by all layers or one a `layer`; `none` compares with the teacher's first dims, for a student that was cut from it.
    `length` is in tokens (None: as the task has it); a step takes `accumulate` batches of `batch_size` rows;
    `warmup` is the part of the steps in which the learning rate rises.
    """

    name: str
    teacher: TeacherKind = "task"
    data: DataKind = "all"
    losses: LossWeights = field(default_factory=LossWeights)
    layer_map: LayerMap = field(default_factory=LayerMap)
    projection: Projection = "none"
    sampler: Sampler = field(default_factory=Sampler)
    steps: int
    learning_rate: float
    batch_size: int = 32
    length: int | None = None
    warmup: float = 0.1
    checkpoint_every: int = 200
    accumulate: int = 1

    def __post_init__(self) -> None:
        where = f"stage {self.name!r}"
        check(bool(self.name), "a stage needs a name")
        for key, kind in (("teacher", TeacherKind), ("data", DataKind), ("projection", Projection)):
            known = get_args(kind)
            check(
                getattr(self, key) in known, f"{where}: {key} is one of {', '.join(known)}; got {getattr(self, key)!r}"
            )
        for key in ("steps", "batch_size", "checkpoint_every", "accumulate"):
            check(getattr(self, key) >= 1, f"{where}: {key} must be 1 or more, got {getattr(self, key)}")
        check(self.length is None or self.length >= 1, f"{where}: length is in tokens, 1 or more, got {self.length}")
        check(self.learning_rate > 0, f"{where}: learning_rate must be positive, got {self.learning_rate}")
        check(0 <= self.warmup <= 1, f"{where}: warmup is a part of the steps, 0 to 1, got {self.warmup}")
        check(
            self.teacher != "none" or not self.losses.needs_teacher,
            f"{where}: without a teacher only hard_label and mlm can be learned; set the other losses to 0 or name a "
            "teacher",
        )
        check(
            self.projection == "none" or self.losses.hidden > 0 or self.losses.embedding > 0,
            f"{where}: a projection serves the hidden and embedding losses, and both are 0; drop it",
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data, for fingerprints; `from_json` reads it back to an equal object."""
        found = {x.name: getattr(self, x.name) for x in fields(self)}
        return found | {
            "losses": asdict(self.losses),
            "layer_map": self.layer_map.to_json(),
            "sampler": asdict(self.sampler),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Stage:
        """Raises `ValueError` where a field is missing, unknown or out of range; those with a default may be left
        out."""
        check(isinstance(data, Mapping), f"a stage is an object, got {type(data).__name__}")
        made = dict(data)
        try:
            if "losses" in made:
                made["losses"] = LossWeights(**made["losses"])
            if "layer_map" in made:
                made["layer_map"] = LayerMap.from_json(made["layer_map"])
            if "sampler" in made:
                made["sampler"] = Sampler(**made["sampler"])
            return cls(**made)
        except TypeError as error:
            raise ValueError(f"this is no stage ({error}): {str(dict(data))[:200]}") from error

    @property
    def fingerprint(self) -> str:
        """Sha256 (hexadecimal) of the whole of it."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
