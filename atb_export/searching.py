"""The search of a run: candidates compiled and measured beside the teacher, then the front once more, side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from torch import Tensor

from atb_export.measuring import FINAL_PLAN, SEARCH_PLAN, Accuracy, Latency, measure_together, normalised, open_engine
from atb_export.recipe import Recipe
from atb_export.ui import Ui
from atb_export.verify import probe_texts
from atb_export.workspace import write_json
from runtime.engine import Engine, backend
from runtime.errors import BackendUnavailable
from search.candidate import Candidate
from search.evolution import evolve
from search.front import front, pick
from search.plan import SearchPlan
from search.record import Record
from supernet.batches import TokenizedTexts
from supernet.model import Supernet
from supernet.space import SearchSpace, SubnetConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchJob:
    """What a search needs; `texts` and `labels` are the search-dev rows, the only labelled ones it sees."""

    recipe: Recipe
    space: SearchSpace
    teacher: Supernet
    supernet: Supernet
    texts: TokenizedTexts
    labels: Tensor
    flops: Callable[[SubnetConfig], int]
    ui: Ui

    def run(self, folder: Path, context: str) -> dict[str, Any]:
        """Searches, continuing the record in `folder`, and returns the stage's plain-data result.

        `context` names everything else the record's numbers hold for. Raises `NothingFits` where no subnet meets the
        constraint, `BackendUnavailable` where the measured engine cannot run here.
        """
        part, limit, seed = self.recipe.search, self.recipe.constraint, self.recipe.seed
        with self._reference() as reference:
            teacher_ms = self._teacher_ms(folder, reference)
            constraint_ms = limit.max_ms if limit.max_ms is not None else (limit.of_teacher or 1.0) * teacher_ms
            self.ui.say(
                f"search: teacher {teacher_ms:.3f} ms in {reference.effective_precision} on {reference.target.label}; "
                f"constraint {constraint_ms:.3f} ms"
            )
            path = folder / "record.jsonl"
            record = Record.open(path, space=self.space, constraint_ms=constraint_ms, seed=seed, context=context)
            with self.ui.progress("search") as progress:
                found = evolve(
                    self.space,
                    accuracy=Accuracy(self.supernet, self.texts, self.labels),
                    latency=Latency(self.supernet, reference, teacher_ms, texts=self.texts, plan=SEARCH_PLAN),
                    flops=self.flops,
                    constraint_ms=constraint_ms,
                    plan=SearchPlan(engines=part.engines, population=part.population, mutation_rate=part.mutation_rate),
                    rng=Random(seed),
                    record=record,
                    progress=progress,
                )
            confirmed = self._confirm(found.front, reference, teacher_ms)
        fitting = [x for x in confirmed if x.latency_ci_ms is not None and x.latency_ci_ms[1] <= constraint_ms]
        again = {x.subnet: x for x in confirmed}
        kept = {x.subnet for x in front(confirmed)}
        return {
            "teacher_ms": teacher_ms,
            "constraint_ms": constraint_ms,
            "effective_precision": reference.effective_precision,
            "winner": pick(fitting or confirmed, constraint_ms).to_json(),
            "candidates": [{**again.get(x.subnet, x).to_json(), "front": x.subnet in kept} for x in found.candidates],
            "stopped": found.stopped,
        }

    @contextmanager
    def _reference(self) -> Iterator[Engine]:
        """The teacher compiled for the measured target."""
        target = self.recipe.targets[0].build()
        if (reason := backend(target.backend).can_run()) is not None:
            raise BackendUnavailable(f"the search measures {target.label}, which cannot run here: {reason}")
        with open_engine(self.teacher, target, pairs=self._pairs) as engine:
            yield engine

    @property
    def _pairs(self) -> bool:
        return self.texts.token_type_ids is not None

    def _probes(self, engine: Engine) -> TokenizedTexts:
        return probe_texts(self.texts, length=engine.target.shape.length, count=8)

    def _teacher_ms(self, folder: Path, reference: Engine) -> float:
        """The teacher's p50, measured once per search: a resumed search must not get another constraint."""
        path = folder / "reference.json"
        if path.is_file():
            return float(json.loads(path.read_text())["p50_ms"])
        engines = {"reference": reference}
        reports = measure_together(engines, self._probes(reference), reference="reference", plan=FINAL_PLAN)
        report = reports["reference"]
        write_json(path, {"p50_ms": report.p50_ms, "report": report.to_json()})
        return report.p50_ms

    def _confirm(self, found: Sequence[Candidate], reference: Engine, teacher_ms: float) -> list[Candidate]:
        """The front measured once more, all in one interleaved run, with more windows."""
        self.ui.say(f"search: measuring the {len(found)} subnets of the front once more, side by side")
        with ExitStack() as stack:
            engines = {"reference": reference}
            for x in found:
                engine = open_engine(self.supernet, reference.target, subnet=x.subnet, pairs=self._pairs)
                engines[x.subnet.key] = stack.enter_context(engine)
            reports = measure_together(engines, self._probes(reference), reference="reference", plan=FINAL_PLAN)
        timed = [normalised(reports[x.subnet.key], teacher_ms) for x in found]
        return [replace(x, latency_ms=t.ms, latency_ci_ms=t.ci_ms) for x, t in zip(found, timed, strict=True)]
