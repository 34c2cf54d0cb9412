"""What cannot be taught is refused before the first step, with what to change."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from supernet.errors import StageError
from supernet.losses import labelled
from supernet.masking import Masking
from supernet.model import Supernet
from supernet.objective import paired
from supernet.sampler import Front
from supernet.space import SearchSpace, SubnetConfig
from supernet.stage import Stage


def refuse_incomparable(
    stage: Stage,
    student: Supernet,
    teacher: Supernet | None,
    *,
    subnet: SubnetConfig,
    is_cut: bool,
    space: SearchSpace | None,
    front: Front | None,
    longest: int,
    labels: Tensor,
    masking: Masking | None,
) -> None:
    """Raises `StageError` with all that keeps a stage from being taught.

    `subnet` is the student's shape by the layers it was cut from; `is_cut` says that its dims and heads are the
    teacher's first ones; `longest` is the longest text's length in tokens.
    """
    reasons = [
        *_texts(stage, student, teacher, longest, labels, masking),
        *(() if space is None else _space(stage, student, space, front)),
        *_teacher(stage, student, teacher, subnet, is_cut=is_cut),
    ]
    if reasons:
        raise StageError(f"stage {stage.name!r}: {'; '.join(reasons)}")


def _texts(
    stage: Stage,
    student: Supernet,
    teacher: Supernet | None,
    longest: int,
    labels: Tensor,
    masking: Masking | None,
) -> Iterator[str]:
    losses, facts = stage.losses, student.facts
    for name, model in (("student", student), ("teacher", teacher)):
        if model is not None and longest > model.facts.max_position_embeddings:
            yield (
                f"a text has {longest} tokens, the {name}'s position table ends at "
                f"{model.facts.max_position_embeddings}: set length to it"
            )
    if losses.mlm and facts.head != "mlm":
        yield f"mlm needs a head of words, and the student's is for a {facts.head}: use with_head('mlm')"
    if losses.mlm and masking is None:
        yield "mlm needs to know the mask and the special tokens: give the lessons a masking"
    if masking is not None and masking.vocab_size != facts.vocab_size:
        yield f"the masking is for {masking.vocab_size} words, the student has {facts.vocab_size}: make it for those"
    if losses.hard_label:
        wanted = {"sequence": 1, "token": 2, "span": 2, "mlm": 0}[facts.head]
        if not wanted:
            yield "a head of words learns from masked words: set hard_label = 0 and mlm"
        elif labels.dim() != wanted or (facts.head == "span" and labels.shape[1] != 2):
            yield f"the labels of a {facts.head} head have {wanted} dims, these have the shape {list(labels.shape)}"
        elif not labelled(labels).any():
            yield "none of the texts has a label: set hard_label = 0 or choose data = 'task'"


def _space(stage: Stage, student: Supernet, space: SearchSpace, front: Front | None) -> Iterator[str]:
    if stage.sampler.kind == "attentive" and front is None:
        yield "an attentive sampler needs a front: what a subnet costs and the costs asked for; or use 'sandwich'"
    for subnet in (space.largest(), space.smallest()):
        if not subnet.fits(student.shape):
            yield f"the space has {subnet}, which cannot be cut from the supernet {student.shape}: use space.within"
            return


def _teacher(
    stage: Stage, student: Supernet, teacher: Supernet | None, subnet: SubnetConfig, *, is_cut: bool
) -> Iterator[str]:
    losses = stage.losses
    if not losses.needs_teacher:
        return
    if teacher is None:
        yield "soft labels and inner values are a teacher's, and there is none: give one, or keep to hard_label and mlm"
        return
    mine, its = student.facts, teacher.facts
    if mine.vocab_size != its.vocab_size:
        yield f"the student reads {mine.vocab_size} words, the teacher {its.vocab_size}: both must share a tokenizer"
    if losses.soft_label and (mine.head, mine.num_logits) != (its.head, its.num_logits):
        yield (
            f"the student answers a {mine.head} with {mine.num_logits} logits, the teacher a {its.head} with "
            f"{its.num_logits}: set soft_label = 0, or give both the same head"
        )
    whole = teacher.shape
    if (losses.hidden or losses.embedding) and stage.projection == "none":
        narrow, wide = subnet.hidden_size, whole.hidden_size
        if narrow > wide or (narrow < wide and not is_cut):
            yield (
                f"hidden states of {narrow} dims are compared with the teacher's {wide}, of which they are no cut: set "
                "projection = 'shared' or 'layer', or hidden = 0 and embedding = 0"
            )
    try:
        pairs = paired(stage.layer_map, subnet, whole.depth)
    except ValueError as error:
        yield str(error)
        return
    names = stage.layer_map.names
    if isinstance(names, tuple) and len(names) > student.shape.depth:
        yield f"layer_map names {len(names)} layers of the student, which has {student.shape.depth}: leave the rest out"
    if not pairs.hidden and (losses.hidden or losses.relations or losses.attention or losses.attention_kl):
        yield f"layer_map pairs no layer of {subnet} with the teacher's {whole.depth}: use 'uniform' or 'last'"
    if losses.attention or losses.attention_kl:
        for m, layer in pairs.attention:
            mine_heads, its_heads = subnet.layers[m - 1].heads, whole.layers[layer - 1].heads
            if mine_heads > its_heads or (mine_heads < its_heads and not is_cut):
                yield (
                    f"{mine_heads} heads of layer {m} are compared with {its_heads} of the teacher's layer {layer}, of "
                    "which they are no cut: set attention = 0 and attention_kl = 0 and use relations, which compare "
                    "any two widths, or choose as many heads"
                )
                return
