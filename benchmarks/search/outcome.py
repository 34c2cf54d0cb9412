"""How the benchmarks of this folder end: a table for people, one JSON line for programs, exit code 1 for a miss."""

from __future__ import annotations

import json
import operator
from collections.abc import Sequence
from typing import Any

OPERATORS = {">=": operator.ge, "<=": operator.le, "==": operator.eq, ">": operator.gt}


def target(name: str, value: float | None, op: str, wanted: float) -> dict[str, Any]:
    """One figure held against what it was to reach; what could not be computed is missed."""
    met = value is not None and bool(OPERATORS[op](value, wanted))
    return {"name": name, "value": value, "op": op, "target": wanted, "met": met}


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as their widest cell; numbers to the right."""
    cells = [[f"{x:.3f}" if isinstance(x, float) else str(x) for x in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(header), *cells]) for i in range(len(header))]
    for row in [list(header), ["-" * w for w in widths], *cells]:
        print("  ".join(x.ljust(w) if i == 0 else x.rjust(w) for i, (x, w) in enumerate(zip(row, widths, strict=True))))


def finish(benchmark: str, targets: Sequence[dict[str, Any]], **document: Any) -> int:
    """Prints the targets and, as the last line, one JSON document. Returns the exit code."""
    print()
    table(
        ["target", "value", "", "wanted", ""],
        [
            [
                x["name"],
                "-" if x["value"] is None else float(x["value"]),
                x["op"],
                float(x["target"]),
                "met" if x["met"] else "MISSED",
            ]
            for x in targets
        ],
    )
    print(json.dumps({"benchmark": benchmark, **document, "targets": list(targets)}))
    return 0 if all(x["met"] for x in targets) else 1
