"""What a search chooses: a subnet, and the precision it is compiled in on each target."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from supernet.space import SearchSpace, SubnetConfig


@dataclass(frozen=True, kw_only=True, order=True)
class Design:
    """One subnet and, in the order of the search's targets, one precision for each."""

    subnet: SubnetConfig
    precisions: tuple[str, ...]

    def __post_init__(self) -> None:
        good = isinstance(self.precisions, tuple) and all(isinstance(x, str) and x for x in self.precisions)
        if not good or not self.precisions:
            raise ValueError(f"a design names one precision per target, got {self.precisions!r}")

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits that name this design in files and tables."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back to an equal object."""
        return {"subnet": self.subnet.to_json(), "precisions": list(self.precisions)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Design:
        """Raises `ValueError` where a field is missing, unknown or not what it should be."""
        if not isinstance(data, Mapping) or set(data) != {"subnet", "precisions"}:
            raise ValueError(f"a design has subnet and precisions, got {data!r:.200}")
        if not isinstance(data["precisions"], list):
            raise ValueError(f"precisions is a list, got {data['precisions']!r:.200}")
        return cls(subnet=SubnetConfig.from_json(data["subnet"]), precisions=tuple(data["precisions"]))

    def __str__(self) -> str:
        return f"{self.subnet} in {', '.join(self.precisions)}"


@dataclass(frozen=True, kw_only=True)
class DesignSpace:
    """All subnets of `subnets` in all combinations of the precisions each target offers, fastest guess first."""

    subnets: SearchSpace
    precisions: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if not self.precisions or not all(self.precisions):
            raise ValueError(f"every target offers at least one precision, got {self.precisions}")
        for offered in self.precisions:
            if len(set(offered)) != len(offered):
                raise ValueError(f"a target offers each precision once, got {offered}")

    @property
    def fingerprint(self) -> str:
        """Sha256 (hexadecimal) of all choices."""
        plain = {"subnets": self.subnets.fingerprint, "precisions": [list(x) for x in self.precisions]}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

    def of(self, subnet: SubnetConfig) -> Design:
        """The subnet in the first precision of every target."""
        return Design(subnet=subnet, precisions=tuple(offered[0] for offered in self.precisions))

    def smallest(self) -> Design:
        """The smallest subnet."""
        return self.of(self.subnets.smallest())

    def largest(self) -> Design:
        """The largest subnet."""
        return self.of(self.subnets.largest())

    def size(self) -> int:
        """How many designs there are."""
        total = self.subnets.size()
        for offered in self.precisions:
            total *= len(offered)
        return total

    def contains(self, design: Design) -> bool:
        """Whether `sample` could return it."""
        return (
            len(design.precisions) == len(self.precisions)
            and all(mine in offered for mine, offered in zip(design.precisions, self.precisions, strict=True))
            and self.subnets.contains(design.subnet)
        )

    def sample(self, rng: Random) -> Design:
        """One design, every dimension drawn uniformly."""
        return Design(
            subnet=self.subnets.sample(rng), precisions=tuple(rng.choice(offered) for offered in self.precisions)
        )

    def mutate(self, design: Design, rng: Random, *, rate: float = 0.2) -> Design:
        """A neighbour: the subnet's as the space draws it, and each precision redrawn with probability `rate`."""
        return Design(
            subnet=self.subnets.mutate(design.subnet, rng, rate=rate),
            precisions=tuple(
                rng.choice(offered) if rng.random() < rate else mine
                for mine, offered in zip(design.precisions, self.precisions, strict=True)
            ),
        )

    def crossover(self, a: Design, b: Design, rng: Random) -> Design:
        """A child of both subnets, which takes each target's precision from either parent."""
        return Design(
            subnet=self.subnets.crossover(a.subnet, b.subnet, rng),
            precisions=tuple(rng.choice(pair) for pair in zip(a.precisions, b.precisions, strict=True)),
        )
