"""What stages learn from: a task's training texts, transfer text, and new rows made from old ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from atb_export.examples import Examples
from supernet.augmentation import AugmentPlan, augmented_tokens, candidates_of
from supernet.batches import TokenizedTexts, tokenize
from supernet.data.text import sentences
from supernet.distillation import Lessons
from supernet.errors import DataError
from supernet.masking import Masking
from supernet.stage import DataKind
from supernet.teacher import Teacher, find_teacher, load_mlm
from supernet.token_cache import transfer_tokens


def lessons(
    teacher: Teacher,
    data: Examples,
    *,
    max_length: int,
    task_repeats: int = 2,
    kind: DataKind = "all",
    folder: Path | None = None,
    augmented: TokenizedTexts | None = None,
    kept: Sequence[int] | None = None,
) -> Lessons:
    """What a stage of that `kind` of data learns from.

    `all`: the task's training texts (repeated, for they matter most) and transfer text; `task`: its training texts;
    `transfer`: the transfer text; `augmented`: the training texts and the new rows made from them (`augment_task`).
    With a `folder` the tokens of transfer text are kept in a file there, and the text may be larger than the memory.
    Of its sentences only those `kept` are learnt from, by their places, where they are given.
    Raises `DataError` where there is no transfer text, or no augmented rows, and the kind is that.
    """
    parts: list[Lessons] = []
    if kind != "transfer":
        task = data.of_split(teacher, "train", max_length=max_length)
        parts += [task] * (task_repeats if kind == "all" else 1)
    if kind == "transfer" or (kind == "all" and data.text is not None):
        text = transfer_texts(teacher, data, max_length=max_length, folder=folder)
        parts.append(_unlabelled(text if kept is None else text.take(kept), data))
    if kind == "augmented":
        if augmented is None:
            raise DataError("a stage learns from augmented rows, but none were made: the recipe needs [augmentation]")
        parts.append(_unlabelled(augmented, data))
    return replace(_joined(parts), masking=masking_of(teacher))


def masking_of(teacher: Teacher) -> Masking | None:
    """How words are hidden from a masked language model; None where the tokenizer has no mask."""
    tokenizer = teacher.tokenizer
    if tokenizer.mask_token_id is None:
        return None
    return Masking(
        mask_token_id=tokenizer.mask_token_id,
        special_token_ids=tuple(sorted(tokenizer.all_special_ids)),
        vocab_size=teacher.model.config.vocab_size,
    )


def transfer_sentences(data: Examples) -> tuple[str, ...]:
    """The transfer text in memory; of a large one `lessons` with a folder is the way."""
    text = data.text
    if text is None:
        return ()
    limit = text.limit if text.limit is not None else 2**62
    words = {"min_words": text.min_words, "max_words": text.max_words}
    return tuple(sentences(text.rows(), **words, limit=limit, seed=text.seed, exclude=data.held_out))


def transfer_count(teacher: Teacher, data: Examples, *, max_length: int, folder: Path | None = None) -> int:
    """Sentences of transfer text; with the `folder` of the lessons, without reading the text again."""
    return 0 if data.text is None else len(transfer_texts(teacher, data, max_length=max_length, folder=folder))


def transfer_texts(teacher: Teacher, data: Examples, *, max_length: int, folder: Path | None = None) -> TokenizedTexts:
    """The tokens of the sentences of transfer text: `DataError` where there is none; a `folder` is as in `lessons`."""
    if data.text is None:
        raise DataError("a stage learns from transfer text, but the recipe names none: it needs a table [transfer]")
    if folder is None:
        return tokenize(teacher.tokenizer, [(x,) for x in transfer_sentences(data)], max_length=max_length)
    return transfer_tokens(folder, teacher.tokenizer, data.text, max_length=max_length, exclude=data.held_out)


def _unlabelled(texts: TokenizedTexts, data: Examples) -> Lessons:
    return Lessons(texts=texts, labels=data.unlabelled(len(texts)))


def _joined(parts: Sequence[Lessons]) -> Lessons:
    texts = parts[0].texts
    for part in parts[1:]:
        texts = texts + part.texts
    return Lessons(texts=texts, labels=torch.cat([part.labels for part in parts]))


def augment_task(
    teacher: Teacher, data: Examples, plan: AugmentPlan, *, checkpoint: str, max_length: int, folder: Path
) -> TokenizedTexts:
    """New rows from the task's training rows, kept in `folder`; see `supernet.augmentation`.

    `checkpoint` is what the teacher was made from (`[teacher] model`): its masked language model is asked where it was
    saved with one, for fine-tuning loses it.
    """
    return augmented_tokens(
        folder,
        teacher.tokenizer,
        list(data.train_texts),
        lambda: candidates_of(teacher.model, teacher.tokenizer, plan, mlm=load_mlm(checkpoint)),
        plan,
        teacher=_checkpoint_hash(checkpoint),
        max_length=max_length,
    )


def _checkpoint_hash(name: str) -> str:
    """Of the weights in a folder; of the name of what the hub has."""
    folder = Path(find_teacher(name))
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest() if folder.is_dir() else name
