"""The charts of the search as files that stand alone, for papers, slides and wikis."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atb_export.report import digits
from atb_export.report.candidates import measured, targets
from atb_export.report.checked import checked
from atb_export.report.search import search_charts
from runtime.files import appearing

NAMES = ("growth", "prediction", "flops", "time")


def write_pictures(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes the charts of a `result.json` document as `NAME.svg` and `NAME.png`; returns the files written.

    A chart whose numbers the result does not have is left out, and a file of an earlier result is removed.
    Files appear whole or not at all. Raises `ReportError` as `write_report` does.
    """
    whole = checked(result)
    footer = conditions(whole)
    files = {name: data for plot in search_charts(whole) for name, data in plot.files(footer).items()}
    if files:
        with appearing(folder) as aside:
            for name, data in files.items():
                (aside / name).write_bytes(data)
    for name in (f"{stem}.{kind}" for stem in NAMES for kind in ("svg", "png")):
        if name not in files:
            (folder / name).unlink(missing_ok=True)
    return [folder / name for name in files]


def conditions(result: Mapping[str, Any]) -> str:
    """What the numbers hold for, in one line: task, backend, precision, threads, batch, length, processor."""
    target, shape = result["target"], result["target"].get("shape") or {}
    words = [result["task"]["name"] or result["recipe"]]
    if len(found := targets(result)) > 1:
        words += [x.label for x in found]
    else:
        tried = sorted({c.precision for c in measured(result)})
        words.append(f"{digits.engine(target['backend'])} on {target['device']}")
        words.append("/".join(tried) if len(tried) > 1 else target["effective_precision"] or "".join(tried))
        words.append(f"{target['threads']} thread{'' if target['threads'] == 1 else 's'}")
        words += [f"{name} {shape[name]}" for name in ("batch", "length") if name in shape]
    cpu = result["environment"].get("cpu")
    words.append(cpu.get("model", "") if isinstance(cpu, Mapping) else cpu or "")
    return " · ".join(digits.clean(x, 80) for x in words if x)
