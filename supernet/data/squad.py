"""SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016, 2018): questions read from json, and the official exact match and F1.

Standard library only; windows of tokens and answers from logits are in `supernet.spans`.
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from supernet.data.hub import read_hub
from supernet.data.location import local_path
from supernet.errors import DataError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = frozenset(string.punctuation)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A piece of the context and the character it starts at."""

    text: str
    start: int

    @property
    def end(self) -> int:
        """The character after its last."""
        return self.start + len(self.text)


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question about one context; no `answers` where the context does not tell (2.0)."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]

    @property
    def is_impossible(self) -> bool:
        """Whether the right answer is none."""
        return not self.answers


def read_squad(path: str, *, split: str = "train") -> list[Question]:
    """The questions of a SQuAD json file, of the one of that split in a folder, or of a hub data set with its columns.

    In a folder the file's name holds the split: train-v1.1.json, dev-v2.0.json. Raises `DataError` where a field is
    missing, an id comes twice, an answer is not in its context, or there is no question.
    """
    found = local_path(path)
    if found is None:
        questions = list(_from_hub(path, split))
    else:
        file = _file_of(found, split)
        try:
            document = json.loads(file.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{file} is no readable json ({error})") from error
        questions = list(_from_document(document, file))
    if not questions:
        raise DataError(f"{path} holds no questions")
    repeated = next((name for name, count in Counter(x.id for x in questions).items() if count > 1), None)
    if repeated is not None:
        raise DataError(f"{path}: every question has an id of its own, but {repeated!r} comes twice")
    return questions


def _file_of(path: Path, split: str) -> Path:
    if not path.is_dir():
        return path
    names = {"dev": ("dev", "validation"), "validation": ("validation", "dev")}.get(split, (split,))
    known = sorted(x for x in path.glob("*.json"))
    found = [x for x in known if x.name.lower().startswith(names)]
    if len(found) != 1:
        listed = ", ".join(x.name for x in known[:12]) or "no json file"
        raise DataError(f"{path} holds {len(found)} files of the split {split!r} of SQuAD, name one; it has {listed}")
    return found[0]


def _from_document(document: Any, file: Path) -> Iterator[Question]:
    try:
        for article in document["data"]:
            for paragraph in article["paragraphs"]:
                context = paragraph["context"]
                for entry in paragraph["qas"]:
                    answers = [] if entry.get("is_impossible") else entry["answers"]
                    yield _question(
                        entry["id"],
                        entry["question"],
                        context,
                        [(x["text"], x["answer_start"]) for x in answers],
                        file,
                    )
    except (KeyError, TypeError, AttributeError) as error:
        missing = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"{file} is not in SQuAD's layout ({missing}): data[].paragraphs[] have context and qas[] of id, question "
            "and answers[] of text and answer_start"
        ) from error


def _from_hub(name: str, split: str) -> Iterator[Question]:
    for _, (key, question, context, answers) in read_hub(
        name, ("id", "question", "context", "answers"), subset=None, split=split
    ):
        pairs = list(zip(answers["text"], answers["answer_start"], strict=True))
        yield _question(key, question, context, pairs, name)


def _question(key: object, question: Any, context: Any, answers: Sequence[tuple[Any, Any]], place: object) -> Question:
    if not all(isinstance(x, str) for x in (question, context, *(text for text, _ in answers))):
        raise DataError(f"{place}: question {key!r} has something else than text as question, context or answer")
    found = []
    for text, start in answers:
        if not text or type(start) is not int:
            raise DataError(f"{place}: question {key!r}: an answer is text and its first character's place, got "
                            f"{text!r} and {start!r}")  # fmt: skip
        found.append(Answer(text=text, start=_nearest(context, text, start, key, place)))
    return Question(id=str(key), question=question.strip(), context=context, answers=tuple(found))


def _nearest(context: str, text: str, start: int, key: object, place: object) -> int:
    """Where the text is; the occurrence nearest to `start` where it is not there."""
    if start >= 0 and context.startswith(text, start):
        return start
    places = [match.start() for match in re.finditer(f"(?={re.escape(text)})", context)]
    if not places:
        raise DataError(f"{place}: question {key!r}: its context does not hold the answer {text[:60]!r}")
    return min(places, key=lambda x: abs(x - start))


def split_questions(
    questions: Sequence[Question], count: int, *, seed: int
) -> tuple[tuple[Question, ...], tuple[Question, ...]]:
    """The rest, and whole contexts with at least `count` questions, drawn by `seed`: no context is in both."""
    by_context: dict[str, list[Question]] = {}
    for question in questions:
        by_context.setdefault(question.context, []).append(question)
    rng = Random(seed)
    order = [context for _, context in sorted((rng.random(), context) for context in sorted(by_context))]
    taken: set[str] = set()
    have = 0
    while have < count and len(taken) < len(order) - 1:
        context = order[len(taken)]
        taken.add(context)
        have += len(by_context[context])
    if have < count or count < 1:
        raise DataError(
            f"{count} questions cannot be taken from {len(questions)} about {len(order)} contexts and leave a context "
            "to train on; ask for fewer"
        )
    return (
        tuple(x for x in questions if x.context not in taken),
        tuple(x for x in questions if x.context in taken),
    )


# --- the official scores --------------------------------------------------------------------------------------------


def normalised(answer: str) -> str:
    """Lower case, without punctuation, articles and needless white space, in the official order."""
    plain = "".join(x for x in answer.lower() if x not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", plain).split())


def exact_match(answer: str, truth: str) -> float:
    """1 where both are the same once normalised."""
    return float(normalised(answer) == normalised(truth))


def overlap_f1(answer: str, truth: str, *, nothing: bool = True) -> float:
    """F1 of the two bags of words; with `nothing` (2.0's rule) two answers without a word are the same."""
    ours, theirs = normalised(answer).split(), normalised(truth).split()
    if nothing and not (ours and theirs):
        return float(ours == theirs)
    same = sum((Counter(ours) & Counter(theirs)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(ours), same / len(theirs)
    return 2 * precision * recall / (precision + recall)


def squad_scores(questions: Sequence[Question], answers: Mapping[str, str]) -> dict[str, float]:
    """`f1` and `exact_match` over all questions, 0 to 1, each the best over the true answers.

    Where some question has no answer, by the rules of 2.0 and for the two kinds apart too (`f1_answerable`,
    `f1_impossible`, ...), else by those of 1.1, which differ for answers without a word only. A question without an
    entry in `answers` (by id) is answered wrongly. Raises `DataError` where there is no question.
    """
    if not questions:
        raise DataError("SQuAD's scores need questions, got none")
    second = any(x.is_impossible for x in questions)
    rows = []
    for question in questions:
        said = answers.get(question.id)
        truths = [x.text for x in question.answers if not second or normalised(x.text)] or [""]
        if said is None:
            rows.append((question.is_impossible, 0.0, 0.0))
            continue
        f1 = max(overlap_f1(said, truth, nothing=second) for truth in truths)
        rows.append((question.is_impossible, f1, max(exact_match(said, truth) for truth in truths)))
    found = {"f1": fmean(f1 for _, f1, _ in rows), "exact_match": fmean(exact for *_, exact in rows)}
    kinds = {"answerable": False, "impossible": True}
    if {impossible for impossible, *_ in rows} == {False, True}:
        for name, kind in kinds.items():
            found[f"f1_{name}"] = fmean(f1 for impossible, f1, _ in rows if impossible is kind)
            found[f"exact_match_{name}"] = fmean(exact for impossible, _, exact in rows if impossible is kind)
    return found
