"""What a run and its comparison were to reach, held against the `result.json` they wrote.

    make run && make compare && .venv/bin/python benchmarks/pipeline/targets.py
    .venv/bin/python benchmarks/pipeline/targets.py --result runs/long/result.json --kept 0.99

Without a result it runs `atb compare` on the recipe first, which does what is left of the run; `--quick` never does.
Prints a table and, as the last line, one JSON document.
"""

from __future__ import annotations

import argparse
import json
import operator
import subprocess
import sys
from pathlib import Path
from typing import Any

OPERATORS = {">=": operator.ge, "<=": operator.le, "==": operator.eq}


def dominates(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """As accurate or more, and as fast or faster, by the plain numbers."""
    return a["accuracy"] >= b["accuracy"] and a["latency_ms"] <= b["latency_ms"]


def targets(result: dict[str, Any], *, kept: float) -> list[dict[str, Any]]:
    """Name, value, operator, target and whether it was met."""
    teacher, winner = result["teacher"], result["winner"]
    wanted = [
        ("accuracy_of_teacher", winner["accuracy"] / teacher["accuracy"], ">=", kept),
        ("latency_of_teacher", winner["latency_of_teacher"], "<=", 1 / 3),
        ("engines_measured", result["engines_measured"], ">=", 40),
        ("test_rows", result["task"]["rows"]["test"], ">=", 1500),
        ("parity_failures", sum(x["passed"] is False for x in result["parity"]), "==", 0),
    ]
    if result["baselines"]:
        wanted.append(("baselines_dominating", sum(dominates(x, winner) for x in result["baselines"]), "==", 0))
    for x in result["baselines"]:
        if x["name"] == "tinybert4":
            wanted.append(("dominates_tinybert4", int(dominates(winner, x)), "==", 1))
    return [
        {"name": name, "value": value, "op": op, "target": target, "met": bool(OPERATORS[op](value, target))}
        for name, value, op, target in wanted
    ]


def main() -> int:
    """Exit code 0 where all targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/quickstart.toml")
    parser.add_argument("--result", type=Path, default=Path("runs/quickstart/result.json"))
    parser.add_argument("--kept", type=float, default=0.97, help="least share of the teacher's accuracy")
    parser.add_argument("--quick", action="store_true", help="only read a result that is there")
    options = parser.parse_args()
    if not options.result.is_file():
        if options.quick:
            parser.error(f"there is no {options.result}; run it without --quick")
        subprocess.run([sys.executable, "-m", "atb_export", "compare", options.recipe, "--resume"], check=True)
    result = json.loads(options.result.read_text())
    found = targets(result, kept=options.kept)
    for x in found:
        print(f"{x['name']:<22} {x['value']:>10.4f} {x['op']} {x['target']:<8.4g} {'met' if x['met'] else 'MISSED'}")
    document = {"benchmark": "pipeline/targets", "target": result["target"], "environment": result["environment"]}
    print(json.dumps({**document, "targets": found}))
    return 0 if all(x["met"] for x in found) else 1


if __name__ == "__main__":
    sys.exit(main())
