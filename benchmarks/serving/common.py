"""What the benchmarks of this folder share: options, checks, rounds that take turns, and how they end."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from statistics import median

sys.path.append(str(Path(__file__).resolve().parents[1] / "search"))
from outcome import finish, table, target
from servers import Server

from atb_export.serving.errors import ServingError
from atb_export.serving.load import LoadPlan, LoadReport, run_load_file
from atb_export.serving.probe import first_answer
from atb_export.serving.programs import PROGRAMS, native_program
from atb_export.serving.requests import Endpoint, packed
from runtime.classifier import Text

__all__ = ["Load", "finish", "gathered", "labels_of", "options_parser", "read_lines", "spread", "table", "target"]


def options_parser(doc: str) -> argparse.ArgumentParser:
    """With the options that all have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--models", type=Path, required=True, help="the folder that models.py wrote")
    parser.add_argument("--texts", type=Path, help="a text per line; by default the folder's")
    parser.add_argument("--bin", type=Path, dest="programs", help="the folder of our native programs, or of a build")
    parser.add_argument("--server-cpus", help="such as 0,1; by default all but the last, which makes the load")
    return parser


def gathered(programs: Path | None, folder: Path) -> Path | None:
    """One folder with links to all programs, where they lie in those of a build."""
    names = [x for x in PROGRAMS if programs is not None and not (programs / x).is_file()]
    if programs is None or not names:
        return programs
    folder.mkdir()
    for name in PROGRAMS:
        found = next((x for x in programs.rglob(name) if x.is_file()), None)
        if found is not None:
            (folder / name).symlink_to(found.absolute())
    return folder


def read_lines(path: Path) -> list[Text]:
    """Texts of a file."""
    return [x for x in path.read_text(encoding="utf-8").splitlines() if x.strip()]


def labels_of(endpoint: Endpoint, texts: Sequence[Text]) -> list[str]:
    """What a server answers, one text after the other."""
    return [first_answer(endpoint, x) for x in texts]


class Load:
    """Runs of the generator on its own core; every server is sent the same texts in the same order."""

    def __init__(self, texts: Sequence[Text], *, programs: Path | None, cpu: str, scratch: Path) -> None:
        self.program = native_program("atb-load", programs)
        self.prefix = ("taskset", "-c", cpu)
        self.scratch = scratch
        self.texts = list(texts)
        Random(0).shuffle(self.texts)

    def run(self, server: Server, plan: LoadPlan, endpoint: Endpoint | None = None) -> LoadReport:
        """One run on a server that is awake. Raises `ServingError` where an answer failed."""
        to = endpoint or server.endpoint
        file = self.scratch / f"{server.name.replace(' ', '-')}-{to.protocol}.requests"
        if not file.exists():
            file.write_bytes(packed([to.request(x) for x in self.texts]))
        report = run_load_file(self.program, (to.host, to.port), file, plan, prefix=self.prefix)
        if plan.rate_per_s is None and report.failed:
            raise ServingError(f"{server.name} failed: {report.failures}")
        return report


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Median, least and most; None where there is nothing finite."""
    found = [x for x in values if math.isfinite(x)]
    if not found:
        return {"median": None, "least": None, "most": None}
    return {"median": median(found), "least": min(found), "most": max(found)}
