"""Tables for people; one JSON document on the last line of stdout for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import click


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document as the last line of stdout.")(
        command
    )


def emit(document: Any, *, as_json: bool) -> None:
    """The last line of stdout."""
    if as_json:
        click.echo(json.dumps(document, separators=(",", ":")))


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Aligned columns on stdout."""
    cells = [list(map(str, row)) for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for i, row in enumerate(cells):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if i == 0:
            click.echo("  ".join("-" * width for width in widths))
