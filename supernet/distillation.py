"""Teaching students: the subnets of a supernet, or one dense model on its own; one function for every stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from supernet.answers import Answers
from supernet.batches import BatchOrder, TokenizedTexts
from supernet.comparable import refuse_incomparable
from supernet.engine import WHOLE, Engine, Part, autocast_type
from supernet.heads import head_axes
from supernet.losses import UNLABELLED, labelled
from supernet.masking import Masking
from supernet.model import Supernet, SupernetOutput
from supernet.objective import Paired, Project, Questions, Shares, paired, paired_in_place, weighted_sum
from supernet.projection import Projector
from supernet.sampler import Front, subnets_of
from supernet.space import SearchSpace, SubnetConfig
from supernet.stage import Stage
from supernet.training import Progress, TrainPlan, Watching, train


@dataclass(frozen=True, kw_only=True, eq=False)
class Lessons:
    """Texts to learn from and their labels: int64 with `UNLABELLED`, or float32 with NaN, where unknown.

    `labels` are [rows], [rows, S] of tokens (padded with `UNLABELLED`) or [rows, 2] of spans. `masking` hides words for
    a masked language model.
    """

    texts: TokenizedTexts
    labels: Tensor
    masking: Masking | None = None

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.labels):
            raise ValueError(
                f"every text has a place for its label: {len(self.texts)} texts, {len(self.labels)} labels"
            )


def teach(
    student: Supernet,
    lessons: Lessons,
    stage: Stage,
    *,
    teacher: Supernet | None,
    space: SearchSpace | None = None,
    subnet: SubnetConfig | None = None,
    seed: int,
    fingerprint: str = "",
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    engine: Engine | None = None,
    front: Front | None = None,
    watch: Watching | None = None,
    answers: Path | None = None,
    projector: Projector | None = None,
    train_words: bool | None = None,
) -> Projector | None:
    """One stage, in place. With a `space` the student is a supernet, whose subnets the stage's sampler draws; without,
    it is dense and learns as a whole.

    `subnet` says as what a dense student was cut from its teacher, so that its dims and heads are the teacher's first;
    one of any other shape has none. `front` is for an attentive sampler. With `answers`, a folder, what the teacher
    says is kept there where that is cheaper than asking it at every step. `fingerprint` names what decides the outcome
    beside the stage (teacher, texts, student), so that the checkpoint of another training is never continued.

    Returns the projector that was trained beside the student (None where the stage has none), for a following stage
    that goes on with it as its `projector`.

    A stage whose losses are all of inner values leaves the head as it is. Word embeddings stay as they are where they
    are the teacher's: they are most of the weights, and hardly any of the loss. `train_words` decides otherwise.

    Raises `StageError` for what cannot be taught, with what to change, and `TrainingError` as `train` does.
    """
    plan = TrainPlan(
        steps=stage.steps,
        learning_rate=stage.learning_rate,
        warmup=stage.warmup,
        checkpoint_every=stage.checkpoint_every,
        fingerprint=f"{fingerprint} {stage.fingerprint} {seed}",
        accumulate=stage.accumulate,
        patience=None if space is not None and stage.sampler.kind == "progressive" else TrainPlan.patience,
        name=stage.name,
    )
    lesson = _Lesson(
        student, lessons, stage, teacher, space=space, subnet=subnet, seed=seed, engine=engine, front=front
    )
    lesson.projector = lesson.projector and (projector or lesson.projector)
    if answers is not None:
        lesson.keep_answers(answers)
    learns_words = not _has_words_of(student, teacher) if train_words is None else train_words
    with _frozen(student, words=not learns_words, head=stage.losses.is_latent):
        lesson.train(plan, checkpoint=checkpoint, progress=progress, watch=watch)
    return lesson.projector


class _Lesson:
    """The loss of each step: what a teacher says about its texts, and how far the step's subnets are from it."""

    def __init__(
        self,
        student: Supernet,
        lessons: Lessons,
        stage: Stage,
        teacher: Supernet | None,
        *,
        space: SearchSpace | None = None,
        subnet: SubnetConfig | None = None,
        seed: int,
        engine: Engine | None = None,
        front: Front | None = None,
    ) -> None:
        self.student, self.stage, self.losses, self.seed, self.front = student, stage, stage.losses, seed, front
        self.texts, self.labels = lessons.texts, lessons.labels
        self.lengths = [min(n, stage.length or n) for n in self.texts.lengths]
        self.own = student.shape if subnet is None else subnet
        refuse_incomparable(
            stage,
            student,
            teacher,
            subnet=self.own,
            is_cut=teacher is not None and not (space is None and subnet is None) and self.own.fits(teacher.shape),
            space=space,
            front=front,
            longest=max(self.lengths, default=0),
            labels=lessons.labels,
            masking=lessons.masking,
        )
        self.teacher = teacher.eval() if teacher is not None and self.losses.needs_teacher else None
        self.space = None if stage.sampler.kind == "whole" else space
        self.masking = lessons.masking if self.losses.mlm else None
        self.engine = engine or Engine(local=True)
        self.batch_size = stage.batch_size * self.engine.count(stage.accumulate)
        self.order = BatchOrder(self.lengths, batch_size=self.batch_size, seed=seed)
        self.answers: Answers | None = None
        self.projector: Projector | None = None
        if self.teacher is not None and stage.projection != "none":
            self.projector = Projector(
                student_size=student.shape.hidden_size,
                teacher_size=self.teacher.shape.hidden_size,
                depth=student.shape.depth,
                shared=stage.projection == "shared",
                seed=seed,
            )

    def keep_answers(self, folder: Path) -> None:
        """What the teacher says about texts that are the same at every step is kept, where that is cheaper."""
        if self.teacher is not None and self.stage.length is None and self.masking is None:
            self.answers = Answers(
                teacher=self.teacher,
                texts=self.texts,
                asks=self.losses.asks,
                visits=self.stage.steps * self.batch_size,
                folder=folder,
                engine=self.engine,
            )

    def train(
        self,
        plan: TrainPlan,
        *,
        checkpoint: Path | None = None,
        progress: Progress | None = None,
        watch: Watching | None = None,
    ) -> None:
        """All steps; the teacher lies beside the student meanwhile."""
        model: nn.Module = self.student
        if self.projector is not None:
            model = nn.ModuleDict({"student": self.student, "projector": self.projector})
        home = next(self.student.parameters()).device
        try:
            if self.teacher is not None:
                self.engine.place(self.teacher)
            if self.answers is not None:
                self.answers.prepare()
            train(model, self, plan, checkpoint=checkpoint, progress=progress, engine=self.engine, watch=watch)
        finally:
            if self.teacher is not None:
                self.teacher.to(home)

    def __call__(self, step: int, *, part: Part = WHOLE) -> Iterator[Tensor]:
        """Terms whose sum is the mean loss of the step's subnets on a part of its batch; none where it has no rows.

        The gradient of each is taken before the next is made, so that one subnet's activations are in memory at a time.
        The last subnet comes first: that is the order in which one gradient of them all would add up, to the bit.
        """
        every = self.order[step]
        if not (rows := part.of(every)):
            return
        batch, asked = self._ask(rows, step, self._shares(every, part))
        at = {} if asked.at is None else {"at": asked.at}
        layer_map = self.stage.layer_map
        subnets = self._subnets(step)
        first = subnets[0] or self.own
        wanted = self._teacher_says(rows, batch, at)

        def answer(subnet: SubnetConfig | None) -> SupernetOutput:
            output: SupernetOutput = self.student(**batch, subnet=subnet, **at, **self.losses.asks)
            return output

        def compared(output: SupernetOutput, subnet: SubnetConfig | None) -> Tensor:
            own = subnet or self.own
            pairs = Paired((), ()) if self.teacher is None else paired(layer_map, own, self.teacher.shape.depth)
            return weighted_sum(asked, output, wanted, pairs=pairs, project=self._project(subnet)) / len(subnets)

        if self.stage.sampler.in_place and self.space is not None and wanted is not None:
            whole = answer(subnets[0])
            largest = _without_gradient(whole)
            for subnet in reversed(subnets[1:]):
                pairs = paired_in_place(layer_map, subnet or self.own, first)
                yield weighted_sum(asked, answer(subnet), largest, pairs=pairs) / len(subnets)
            yield compared(whole, subnets[0])
            return
        for subnet in reversed(subnets):
            yield compared(answer(subnet), subnet)

    def _project(self, subnet: SubnetConfig | None) -> Project | None:
        """The layers of a subnet share the supernet's maps, each that of its source."""
        projector = self.projector
        if projector is None or subnet is None:
            return projector
        return lambda state, m: projector(state, subnet.layers[m - 1].source + 1 if m else 0)

    def _subnets(self, step: int) -> Sequence[SubnetConfig | None]:
        if self.space is None:
            return [None]
        steps = self.stage.steps
        return subnets_of(self.stage.sampler, self.space, step=step, steps=steps, seed=self.seed, front=self.front)

    def _ask(self, rows: list[int], step: int, shares: Shares) -> tuple[dict[str, Tensor], Questions]:
        """The batch of some rows, and what is asked about it."""
        width = max(self.lengths[i] for i in rows)
        batch = self.texts.batch(rows, length=width)
        for i, row in enumerate(rows):
            if len(self.texts.input_ids[row]) > width:
                batch["input_ids"][i] = torch.tensor(self._ids(row))
        head = self.student.facts.head
        labels, words = self.labels[rows], None
        if head == "token":
            labels = labels[:, :width]
        elif head == "span":
            labels = labels.masked_fill((labels >= width).any(1, keepdim=True), UNLABELLED)
        if self.masking is not None:
            batch["input_ids"], words = self.masking(
                batch["input_ids"], batch["attention_mask"], rows=rows, seed=self.seed, step=step
            )
        batch, labels = self.engine.place(batch), self.engine.place(labels)
        words = None if words is None else self.engine.place(words)
        asked = Questions(
            mask=batch["attention_mask"],
            weights=self.losses,
            labels=labels,
            words=words,
            head=head,
            at=None if words is None else words != UNLABELLED,
            shares=shares,
        )
        return batch, asked

    def _teacher_says(self, rows: list[int], batch: dict[str, Tensor], at: dict[str, Tensor]) -> SupernetOutput | None:
        if self.teacher is None:
            return None
        if self.answers is not None:
            return self.answers(rows, batch, **self.losses.asks)
        with torch.no_grad():
            asked = at if self.teacher.facts.head == self.student.facts.head else {}
            output: SupernetOutput = self.teacher(**batch, **asked, **self.losses.asks)
        return output

    def _ids(self, row: int) -> list[int]:
        """A text's tokens; one that is cut ends as a whole one, with its last."""
        ids, length = self.texts.input_ids[row], self.lengths[row]
        return ids if len(ids) == length else [*ids[: length - 1], ids[-1]]

    def _shares(self, rows: list[int], part: Part) -> Shares:
        """How a part's means count in those of the step, whose rows these are."""
        if part.count == 1:
            return Shares()
        lengths = [self.lengths[i] for i in rows]
        labels = self.labels[rows]
        known = (labels != UNLABELLED).sum(1) if self.student.facts.head == "token" else labelled(labels)
        hidden = [] if self.masking is None else [self.masking.hides(self._ids(i)) for i in rows]
        return Shares(
            rows=part.weight([1.0] * len(rows)),
            labelled=part.weight(known.float()),
            tokens=part.weight(lengths),
            token_pairs=part.weight([n * n for n in lengths]),
            words=part.weight(hidden) if hidden else 1.0,
        )


def _without_gradient(output: SupernetOutput) -> SupernetOutput:
    """The same values, of which nothing is learned."""
    return SupernetOutput(
        logits=output.logits.detach(),
        hidden_states=tuple(x.detach() for x in output.hidden_states),
        attention_scores=tuple(x.detach() for x in output.attention_scores),
        projections=tuple(type(x)(*(y.detach() for y in x)) for x in output.projections),
    )


def _has_words_of(student: Supernet, teacher: Supernet | None) -> bool:
    """Whether the student's word embeddings are the first dims of the teacher's."""
    if teacher is None:
        return False
    mine, its = student.word_embeddings.weight, teacher.word_embeddings.weight
    if student.facts.embedding != teacher.facts.embedding or mine.shape[1] > its.shape[1] or len(mine) != len(its):
        return False
    return torch.equal(mine.detach().cpu(), its.detach()[:, : mine.shape[1]].cpu())


@contextmanager
def _frozen(student: Supernet, *, words: bool, head: bool) -> Iterator[None]:
    """Keeps the word table, the head or both from learning meanwhile."""
    names = ["word_embeddings.weight"] * words + list(head_axes(student.facts)) * head
    kept = [x for x in map(student.get_parameter, names) if x.requires_grad]
    for parameter in kept:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in kept:
            parameter.requires_grad_(True)


@torch.no_grad()
def predict(
    model: Supernet, texts: TokenizedTexts, *, subnet: SubnetConfig | None = None, batch_size: int = 64
) -> Tensor:
    """Float32 logits [rows, labels] in the order of `texts`; in bf16 where the CPU has it.

    Of a head of tokens they are [rows, S, labels], 0 behind a text's end.
    """
    dtype = autocast_type()
    labels = model.facts.num_logits
    of_tokens = model.facts.head != "sequence"
    longest = max(texts.lengths, default=0)
    logits = torch.zeros(len(texts), longest, labels) if of_tokens else torch.zeros(len(texts), labels)
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        for rows, batch in texts.in_order(batch_size):
            found = model(**batch, subnet=subnet).logits.float()
            if of_tokens:
                found = functional.pad(found * batch["attention_mask"][..., None], (0, 0, 0, longest - found.shape[1]))
            logits[rows] = found
    return logits
