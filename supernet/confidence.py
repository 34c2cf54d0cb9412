"""Which unlabelled texts a teacher can label: those of whose class it is as sure as of the task's own texts.

A teacher answers about any text, also about one of another kind, where its answer is a guess: a student that learns
from guesses learns less of the task. What is sure enough is no number to choose, for it hangs on the task and on how
many classes it has; the teacher's own probabilities on texts of the task say it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from supernet.batches import TokenizedTexts
from supernet.engine import Engine
from supernet.model import Supernet
from supernet.training import Progress


def confident(
    teacher: Supernet,
    texts: TokenizedTexts,
    *,
    like: TokenizedTexts,
    quantile: float,
    engine: Engine | None = None,
    progress: Progress | None = None,
    batch_size: int = 64,
) -> tuple[list[int], float]:
    """The places of the texts about which the teacher is sure, ascending, and from which probability on it is.

    That is the `quantile` (0 to 1) of the probabilities of its likeliest class on the texts `like` which they should
    be: of the task, and not trained on. The teacher has one logit a class. Raises `ValueError` where there is no text
    to be like.
    """
    if not len(like):
        raise ValueError("there is no text of the task to compare confidence with")
    least = float(np.quantile(_probabilities(teacher, like, engine, batch_size).numpy(), quantile))
    found = _probabilities(teacher, texts, engine, batch_size, progress)
    return (found >= least).nonzero().flatten().tolist(), least


@torch.no_grad()
def _probabilities(
    teacher: Supernet, texts: TokenizedTexts, engine: Engine | None, batch_size: int, progress: Progress | None = None
) -> Tensor:
    """Of each text's likeliest class: float32 [texts]."""
    engine = engine or Engine(local=True)
    home = next(teacher.parameters()).device
    engine.place(teacher)
    try:
        found, done = torch.zeros(len(texts)), 0
        for rows, batch in texts.in_order(batch_size):
            with engine.autocast():
                logits = teacher(**engine.place(batch)).logits
            found[rows] = logits.float().softmax(-1).amax(-1).cpu()
            done += len(rows)
            if progress is not None:
                progress(done, len(texts), "")
        return found
    finally:
        teacher.to(home)
