"""Protocol Buffers' text format, as far as a Triton `config.pbtxt` needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias


class Enum(str):
    """A value that is written without quotation marks."""

    __slots__ = ()


Value: TypeAlias = "str | int | bool | Enum | Mapping[str, Value] | Sequence[Value]"


def text_of(message: Mapping[str, Value], *, indent: int = 0) -> str:
    """One field a line; a sequence is a repeated field; None does not occur, fields are left out instead."""
    pad = "  " * indent
    lines = []
    for name, value in message.items():
        if isinstance(value, Mapping):
            lines.append(f"{pad}{name} {{\n{text_of(value, indent=indent + 1)}{pad}}}\n")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            if all(isinstance(x, Mapping) for x in value):
                lines += [text_of({name: x}, indent=indent) for x in value]
            else:
                lines.append(f"{pad}{name}: [{', '.join(map(_scalar, value))}]\n")
        else:
            lines.append(f"{pad}{name}: {_scalar(value)}\n")
    return "".join(lines)


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | Enum):
        return str(value)
    return '"' + "".join(_escaped(byte) for byte in str(value).encode()) + '"'


def _escaped(byte: int) -> str:
    """Printable ASCII as it is, every other byte in octal."""
    char = chr(byte)
    return char if 32 <= byte < 127 and char not in '"\\' else f"\\{byte:03o}"
