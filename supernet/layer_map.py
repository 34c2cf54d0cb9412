"""Which of a teacher's layers teaches which of a student's. Standard library only.

Layers are counted as in TinyBERT (Jiao et al. 2020): 0 is the embedding's output, 1 the first Transformer layer. The
embedding has a loss term of its own, so no map names it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from supernet.subnet import check

MapName: TypeAlias = Literal["span", "uniform", "last"]
MAP_NAMES: tuple[MapName, ...] = ("span", "uniform", "last")
Pairs: TypeAlias = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class LayerMap:
    """`span`, `uniform`, `last`, or for each layer of the student the teacher's, from 1; 0 where it has none.

    - `span`: a kept layer stands in for itself and for the dropped ones up to the next kept layer, whose input it has
      to provide, the last one for all the rest; it attends as the layer it was cut from. For students cut from a
      network as deep as the teacher.
    - `uniform`: the student's layer m learns from the teacher's g(m) = m T / S, rounded down (TinyBERT: 3m for 12 and
      4). In a deeper student each of the teacher's layers teaches one, the others take no part.
    - `last`: the last layer learns from the last (MiniLM, AutoTinyBERT).
    - a tuple: the layer cut from source i (a dense student's layer i + 1) learns from the teacher's layer `names[i]`;
      those beyond its end take no part.
    """

    names: MapName | tuple[int, ...] = "span"

    def __post_init__(self) -> None:
        if isinstance(self.names, str):
            check(
                self.names in MAP_NAMES,
                f"a layer map is {', '.join(MAP_NAMES)} or a list of the teacher's layers, got {self.names!r}",
            )
            return
        check(
            isinstance(self.names, tuple) and all(type(x) is int and x >= 0 for x in self.names) and any(self.names),
            "a layer map lists, for each layer of the student, the teacher's layer from 1, or 0 for none, and names "
            f"one at least; got {self.names!r}",
        )

    def pairs(
        self, student: Sequence[int] | int, teacher_depth: int, *, of: Literal["hidden", "attention"] = "hidden"
    ) -> Pairs:
        """(student's layer, teacher's layer), both from 1, ascending in the student's; empty where none has a teacher.

        `student` are the sources of its layers, or its depth where it was cut from nothing. `span` has other pairs for
        hidden states than for attention. Raises `ValueError` where the map names a layer the teacher does not have.
        """
        sources = range(student) if isinstance(student, int) else student
        depth = len(sources)
        if self.names == "last":
            return ((depth, teacher_depth),)
        if self.names == "uniform":
            spread = [m * teacher_depth // depth for m in range(depth + 1)]
            return tuple((m, spread[m]) for m in range(1, depth + 1) if spread[m] > spread[m - 1])
        if self.names == "span":
            known = [source for source in sources if source < teacher_depth]
            # A layer's hidden state is the next one's input: its number from 1 is the next one's source from 0.
            reached = [*known[1:], teacher_depth] if of == "hidden" else [source + 1 for source in known]
            return tuple((m, layer) for m, layer in enumerate(reached, 1) if known)
        check(
            max(self.names) <= teacher_depth,
            f"the layer map {list(self.names)} names layer {max(self.names)}, the teacher has {teacher_depth} layers",
        )
        named = enumerate(sources, 1)
        return tuple((m, self.names[i]) for m, i in named if i < len(self.names) and self.names[i])

    def to_json(self) -> str | list[int]:
        """Its name or its list; `from_json` reads it back to an equal object."""
        return self.names if isinstance(self.names, str) else list(self.names)

    @classmethod
    def from_json(cls, data: Any) -> LayerMap:
        """Raises `ValueError` for anything but a known name or a list of integers."""
        return cls(tuple(data) if isinstance(data, list) else data)
