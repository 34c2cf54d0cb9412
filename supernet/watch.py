"""How the smallest, a middle and the largest subnet do while they train: beside the loss, to trackers, to a log."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from supernet.batches import TokenizedTexts
from supernet.engine import Engine
from supernet.losses import hard_label
from supernet.metrics import score
from supernet.model import Supernet
from supernet.space import SearchSpace, SubnetConfig
from supernet.training import Watching

Judge: TypeAlias = Callable[[Tensor, Tensor], Mapping[str, float]]
"""Figures by name from float32 logits of all rows and their labels; the last one stands beside the loss."""


def loss_and_accuracy(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Cross-entropy and accuracy, or squared error and correlation of a regression."""
    return {"loss": hard_label(logits, labels).item(), "accuracy": float(score(logits, labels))}


def three_of(space: SearchSpace) -> dict[str, SubnetConfig]:
    """The smallest subnet, one of the middle choice of every dimension, and the largest."""
    depth = _middle(space.depths)
    # Of the sets of so many layers, the one that lies most evenly.
    sets = space.layer_sets_of(depth)
    step = space.source_layers / depth
    even = min(sets, key=lambda kept: sum(abs(x + 0.5 - (i + 0.5) * step) for i, x in enumerate(kept)))
    middle = SubnetConfig.uniform(
        hidden_size=_middle(space.hidden_sizes),
        depth=depth,
        heads=_middle(space.heads),
        head_size=_middle(space.head_sizes),
        ffn_size=_middle(space.ffn_sizes),
        ffn_stack=_middle(space.ffn_stacks),
        sources=even,
    )
    return {"smallest": space.smallest(), "middle": middle, "largest": space.largest()}


def _middle(choices: tuple[int, ...]) -> int:
    return sorted(choices)[len(choices) // 2]


@dataclass(frozen=True, kw_only=True, eq=False)
class Watch:
    """Looks at `subnets` by name (None: the whole network) every `every` steps and at no other, on a few hundred
    labelled rows. `log` gets a JSON line for each look: step, running loss, and each subnet's figures. A resumed
    training takes back what was logged after the step it goes on from.
    """

    subnets: Mapping[str, SubnetConfig | None]
    texts: TokenizedTexts
    labels: Tensor
    every: int = 200
    log: Path | None = None
    batch_size: int = 64
    judge: Judge = loss_and_accuracy

    def __post_init__(self) -> None:
        if not self.subnets or not len(self.texts) or len(self.texts) != len(self.labels) or self.every < 1:
            raise ValueError(
                f"a watch needs subnets, rows with as many labels, and every >= 1; got {len(self.subnets)} subnets, "
                f"{len(self.texts)} texts, {len(self.labels)} labels, every {self.every}"
            )

    def on(self, student: Supernet, engine: Engine | None = None, *, name: str = "training") -> Watching:
        """What `train` takes as `watch`; `name` is what trackers file it under, as in the plan."""
        engine = engine or Engine(local=True)
        state = {"text": "", "begun": ""}

        def look(done: int, running: float) -> str:
            if not state["begun"]:
                state["begun"] = "yes"
                self._forget(after=done - 1)
            if done % self.every == 0:
                figures = self.figures(student, engine)
                state["text"] = ", ".join(f"{x} {list(found.values())[-1]:.3f}" for x, found in figures.items())
                engine.log(
                    {f"{name}/{x}/{key}": v for x, found in figures.items() for key, v in found.items()}, step=done
                )
                if self.log is not None:
                    with self.log.open("a", encoding="utf-8") as file:
                        file.write(json.dumps({"step": done, "loss": running, **figures}) + "\n")
            return state["text"]

        return look

    @torch.no_grad()
    def figures(self, student: Supernet, engine: Engine) -> dict[str, dict[str, float]]:
        """Of each subnet, now; leaves the student in the mode it was in."""
        training = student.training
        student.eval()
        found = {}
        for name, subnet in self.subnets.items():
            answers: list[Tensor | None] = [None] * len(self.texts)
            with engine.autocast():
                for rows, batch in self.texts.in_order(self.batch_size):
                    logits = student(**engine.place(batch), subnet=subnet).logits.float().cpu()
                    for row, logit in zip(rows, logits, strict=True):
                        answers[row] = logit
            found[name] = dict(self.judge(_stacked(answers), self.labels))
        student.train(training)
        return found

    def _forget(self, *, after: int) -> None:
        if self.log is None:
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        kept = []
        if self.log.exists():
            for line in self.log.read_text(encoding="utf-8").splitlines():
                try:
                    kept += [line] if json.loads(line)["step"] <= after else []
                except (ValueError, KeyError, TypeError):
                    continue  # the half of a line that a kill left
        aside = self.log.with_name(f".{self.log.name}.partial")
        aside.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        aside.replace(self.log)


def _stacked(answers: list[Tensor | None]) -> Tensor:
    """Logits of all rows; those of tokens padded with zeros to the longest."""
    known = [x for x in answers if x is not None]
    if known[0].dim() == 1:
        return torch.stack(known)
    return torch.nn.utils.rnn.pad_sequence(known, batch_first=True)
