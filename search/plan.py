"""The budget and the settings of a search."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """How much to search, and how.

    Accuracy is not asked of engines slower than `slack` x the constraint; latencies below `focus` x the
    constraint count as equal. Every other child is the most promising of `brood`, as a surrogate guesses.
    The search ends when `engines` were measured, or `patience` draws in a row were known already, or more
    than `failures_per_engine` x `engines` candidates failed.
    """

    engines: int
    population: int = 16
    mutation_rate: float = 0.2
    slack: float = 1.5
    focus: float = 0.5
    brood: int = 64
    patience: int = 1000
    failures_per_engine: float = 2.0

    def __post_init__(self) -> None:
        rules = (
            (self.engines >= 1, f"engines must be 1 or more, got {self.engines}"),
            (self.population >= 2, f"population must be 2 or more, got {self.population}"),
            (0 < self.mutation_rate <= 1, f"mutation_rate must lie in (0, 1], got {self.mutation_rate}"),
            (self.slack >= 1, f"slack must be 1 or more, got {self.slack}"),
            (0 <= self.focus < 1, f"focus must lie in [0, 1), got {self.focus}"),
            (self.brood >= 1, f"brood must be 1 or more, got {self.brood}"),
            (self.patience >= 1, f"patience must be 1 or more, got {self.patience}"),
            (
                self.failures_per_engine >= 0,
                f"failures_per_engine must be 0 or more, got {self.failures_per_engine}",
            ),
        )
        for holds, message in rules:
            if not holds:
                raise ValueError(message)
