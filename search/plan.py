"""The budget and the settings of a search."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """How much to search, and how.

    The search ends with the generation in which `engines` designs were measured or `seconds` are over, or where no
    new design is found in `patience` draws, or more than `failures_per_engine` x `engines` candidates failed, or more
    than `spared_per_engine` x `engines` were not worth an engine. Designs
    are asked for in generations of `generation`; those of one generation do not know of each other, so they can be
    evaluated in any order and place. Accuracy is not asked of engines slower than `slack` x the constraint. Children
    are the most promising of `brood`, as models guess; `explore` of each generation is drawn without a guess.
    """

    engines: int
    seconds: float = math.inf
    population: int = 16
    generation: int = 8
    mutation_rate: float = 0.2
    slack: float = 1.25
    brood: int = 200
    explore: float = 0.25
    patience: int = 1000
    failures_per_engine: float = 2.0
    spared_per_engine: float = 4.0

    def __post_init__(self) -> None:
        rules = (
            (self.engines >= 1, f"engines must be 1 or more, got {self.engines}"),
            (self.seconds > 0, f"seconds must be more than 0, got {self.seconds}"),
            (self.population >= 2, f"population must be 2 or more, got {self.population}"),
            (self.generation >= 1, f"generation must be 1 or more, got {self.generation}"),
            (0 < self.mutation_rate <= 1, f"mutation_rate must lie in (0, 1], got {self.mutation_rate}"),
            (self.slack >= 1, f"slack must be 1 or more, got {self.slack}"),
            (self.brood >= 1, f"brood must be 1 or more, got {self.brood}"),
            (0 <= self.explore <= 1, f"explore must lie in [0, 1], got {self.explore}"),
            (self.patience >= 1, f"patience must be 1 or more, got {self.patience}"),
            (self.failures_per_engine >= 0, f"failures_per_engine must be 0 or more, got {self.failures_per_engine}"),
            (self.spared_per_engine >= 0, f"spared_per_engine must be 0 or more, got {self.spared_per_engine}"),
        )
        for holds, message in rules:
            if not holds:
                raise ValueError(message)
