"""Feed-forward cells: what a layer computes between two residuals, as a small typed expression. Standard library only.

EfficientBERT (Dong et al., Findings of EMNLP 2021) searches them: over the input x, with exactly two linear layers,
seven activations, and sum, product and maximum. Widths are types: x has the hidden size N, `linear1` makes N into the
feed-forward size F, `linear2` makes F into N; an activation keeps its width, a sum, product or maximum wants two equal
ones, and the whole has N. BERT's own cell is `linear2(gelu(linear1(x)))`. Where EfficientBERT meets two widths it drops
the last dims of the wider one without a word; here that is written: `cut` makes N into the first F dims (zeros where
there are fewer), so that its fifth cell is `linear2(relu(mul(cut(x), linear1(x))))`.

A cell is its text, in one form: operands of what commutes are sorted, so that equal expressions are equal. Only what
the grammar has is ever computed; nothing is evaluated as code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Final, Literal

ACTIVATIONS: Final = ("gelu", "sigmoid", "tanh", "relu", "leaky_relu", "elu", "swish")
BINARIES: Final = ("add", "mul", "max")
LINEARS: Final = ("linear1", "linear2")
_FREE: Final = ("x", *LINEARS, "cut")  # what counts as no operation
MAX_OPERATIONS: Final = 12
"""Activations and binary operations of a cell at most; those that EfficientBERT found have 1 to 3."""
MAX_TEXT: Final = 400
_MAX_DEPTH: Final = MAX_OPERATIONS + len(LINEARS) + 1
_SAMPLED: Final = 5

Width = Literal["N", "F"]

_ARITY: Mapping[str, int] = {
    "x": 0,
    **dict.fromkeys((*LINEARS, "cut"), 1),
    **dict.fromkeys(ACTIVATIONS, 1),
    **dict.fromkeys(BINARIES, 2),
}
_WORD = re.compile(r"\s*([A-Za-z_][A-Za-z_0-9]*|[(),])")


@dataclass(frozen=True)
class Node:
    """One step of an expression: `op` is x, a linear, the cut, an activation or a binary operation."""

    op: str
    inputs: tuple[Node, ...] = ()

    def __str__(self) -> str:
        return f"{self.op}({', '.join(map(str, self.inputs))})" if self.inputs else self.op

    def walk(self) -> Iterator[Node]:
        """Every step, this one first."""
        yield self
        for each in self.inputs:
            yield from each.walk()


@dataclass(frozen=True, order=True)
class Cell:
    """A feed-forward cell by its canonical `text`, which is also its JSON; made from any way to write it.

    An activation's name alone stands for the plain cell around it: `gelu` is `linear2(gelu(linear1(x)))`.
    Raises `ValueError` for a text that is no cell.
    """

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise ValueError(f"a feed-forward cell is a text such as {_PLAIN_TEXT!r}, got {type(self.text).__name__}")
        object.__setattr__(self, "text", str(_read(self.text)))

    @classmethod
    def parse(cls, text: str) -> Cell:
        """The cell that a text describes; the same as `Cell(text)`."""
        return cls(text)

    @property
    def root(self) -> Node:
        """The expression; its leaves are x."""
        return _read(self.text)

    @property
    def operations(self) -> int:
        """Activations and binary operations: what it computes besides its two products."""
        return sum(self.passes)

    @property
    def passes(self) -> tuple[int, int]:
        """Its operations over the hidden and over the feed-forward width; those of BERT's own are 0 and 1."""
        widths = [_width(node, self.text) for node in self.root.walk() if node.op not in _FREE]
        return widths.count("N"), widths.count("F")

    @property
    def cuts(self) -> bool:
        """Whether it ties its neurons to the hidden dims in their order, so that neither can be reordered alone."""
        return any(node.op == "cut" for node in self.root.walk())

    @property
    def is_plain(self) -> bool:
        """Whether it is BERT's own."""
        return self == PLAIN

    def neighbours(self) -> tuple[Cell, ...]:
        """All cells one step away, in order: an operation is changed, put in or taken out."""
        return _neighbours(self.text)

    def mutate(self, rng: Random) -> Cell:
        """One of the neighbours."""
        return rng.choice(self.neighbours())

    @staticmethod
    def sample(rng: Random, *, operations: int | None = None) -> Cell:
        """A cell of so many operations, of 1 to 5 unless told, at least one of them between its linears.

        No activation follows another at once; further ones are put before, between and after the linears at random.
        """
        count = rng.randint(1, _SAMPLED) if operations is None else operations
        if not 1 <= count <= MAX_OPERATIONS:
            raise ValueError(f"a cell is drawn with 1 to {MAX_OPERATIONS} operations, got {count}")
        between = rng.randint(1, count)
        before = rng.randint(0, count - between)
        node = Node("linear1", (_grown(rng, Node("x"), before, "N"),))
        node = Node("linear2", (_grown(rng, node, between, "F"),))
        return Cell(str(_grown(rng, node, count - between - before, "N")))

    def __str__(self) -> str:
        return self.text


def _grown(rng: Random, node: Node, operations: int, width: Width) -> Node:
    """`node` of this width under so many operations, some of them in branches beside it."""
    while operations > 0:
        operations -= 1
        op = rng.choice(BINARIES if node.op in ACTIVATIONS else (*ACTIVATIONS, *BINARIES))
        if op in BINARIES:
            inside = rng.randint(0, operations)
            operations -= inside
            beside = _grown(rng, Node("x"), inside, "N")
            node = Node(op, (node, beside if width == "N" else Node("cut", (beside,))))
        else:
            node = Node(op, (node,))
    return node


# --- reading ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _read(text: str) -> Node:
    """The canonical expression of a text; `ValueError` with what the grammar wants."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"a feed-forward cell is written in at most {MAX_TEXT} characters, got {len(text)}")
    words = _words(text)
    if len(words) == 1 and words[0] in ACTIVATIONS:
        return Node("linear2", (Node(words[0], (Node("linear1", (Node("x"),)),)),))
    node, end = _expression(words, 0, 1, text)
    if end != len(words):
        raise _wrong(text, f"{words[end]!r} follows where it should end")
    ops = [each.op for each in node.walk()]
    for linear in LINEARS:
        if ops.count(linear) != 1:
            raise _wrong(
                text, f"it has {linear} {ops.count(linear)} times; each of linear1 and linear2 stands in it once"
            )
    if (count := sum(op not in _FREE for op in ops)) > MAX_OPERATIONS:
        raise _wrong(text, f"it has {count} operations, at most {MAX_OPERATIONS} are computed")
    if _width(node, text) != "N":
        raise _wrong(text, "its result has the feed-forward width; linear2 must bring it back to the hidden size")
    return node


def _words(text: str) -> list[str]:
    words, at = [], 0
    text_end = len(text.rstrip())
    while at < text_end:
        found = _WORD.match(text, at)
        if found is None:
            raise _wrong(text, f"{text[at:].strip()[:1]!r} is no part of it")
        words.append(found[1])
        at = found.end()
    return words


def _expression(words: list[str], at: int, depth: int, text: str) -> tuple[Node, int]:
    """The expression that starts at a word, its commuting operands sorted, and where it ends."""
    if depth > _MAX_DEPTH:
        raise _wrong(text, f"it is nested more than {_MAX_DEPTH} deep")
    op = words[at] if at < len(words) else ""
    if op not in _ARITY:
        raise _wrong(text, f"{op!r} stands where one of {', '.join(_ARITY)} should" if op else "it ends too early")
    at, inputs = at + 1, []
    for i in range(_ARITY[op]):
        _expect(words, at, "," if i else "(", f"{op} takes {_ARITY[op]} in brackets", text)
        node, at = _expression(words, at + 1, depth + 1, text)
        inputs.append(node)
    if inputs:
        _expect(words, at, ")", f"{op} takes {_ARITY[op]} in brackets", text)
        at += 1
    return Node(op, tuple(sorted(inputs, key=str))), at


def _expect(words: list[str], at: int, wanted: str, rule: str, text: str) -> None:
    found = words[at] if at < len(words) else "the end"
    if found != wanted:
        raise _wrong(text, f"{rule}; {wanted!r} is wanted and {found!r} is there")


def _width(node: Node, text: str) -> Width:
    """The width of a result; `ValueError` where widths do not meet."""
    if node.op == "x":
        return "N"
    widths = [_width(each, text) for each in node.inputs]
    if node.op in (*LINEARS, "cut"):
        takes: Width = "F" if node.op == "linear2" else "N"
        if widths[0] != takes:
            raise _wrong(text, f"{node.op} takes the {_WIDTHS[takes]}, and is given the {_WIDTHS[widths[0]]}")
        return "F" if takes == "N" else "N"
    if len(set(widths)) > 1:
        raise _wrong(
            text, f"{node.op} takes two of one width, and is given hidden and feed-forward size; cut(...) makes F of N"
        )
    return widths[0]


_WIDTHS: Mapping[Width, str] = {"N": "hidden size", "F": "feed-forward size"}


def _wrong(text: str, why: str) -> ValueError:
    return ValueError(f"{text[:80]!r} is no feed-forward cell such as {_PLAIN_TEXT!r}: {why}")


# --- one step away ---------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _neighbours(text: str) -> tuple[Cell, ...]:
    found = set()
    for node in _changed(_read(text)):
        try:
            found.add(Cell(str(node)))
        except ValueError:  # of two widths, too large, or without a linear
            continue
    return tuple(sorted(found - {Cell(text)}))


def _changed(node: Node) -> Iterator[Node]:
    """The expression with one change anywhere in it; not all of them are cells."""
    for op in ACTIVATIONS:  # put in
        yield Node(op, (node,))
    for op in BINARIES:
        yield Node(op, (node, Node("x")))
        yield Node(op, (node, Node("cut", (Node("x"),))))
    if node.op in ACTIVATIONS or node.op in BINARIES:
        yield from node.inputs  # taken out, with what stands beside
        for op in ACTIVATIONS if node.op in ACTIVATIONS else BINARIES:  # changed
            yield Node(op, node.inputs)
    for i, each in enumerate(node.inputs):
        for other in _changed(each):
            yield Node(node.op, (*node.inputs[:i], other, *node.inputs[i + 1 :]))


_PLAIN_TEXT: Final = "linear2(gelu(linear1(x)))"
PLAIN: Final = Cell(_PLAIN_TEXT)
"""BERT's own cell."""
