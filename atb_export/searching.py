"""The search of a run: candidates compiled and measured beside the teacher, then the front once more, side by side."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from atb_export.eager import eager_timings, fitted
from atb_export.evaluation import Evaluation, Reference, Subject, find_reference
from atb_export.jobs import Executor
from atb_export.measuring import FINAL_PLAN, measure_together, open_engine
from atb_export.opening import earlier_fronts, hand_made_cuts
from atb_export.recipe import Recipe
from atb_export.ui import Ui
from atb_export.verify import probe_texts
from atb_export.work import WorkInputs, engine_graph
from atb_export.workspace import write_json
from runtime.environment import environment, hardware_id
from runtime.target import EngineTarget
from search.candidate import Candidate, Timing
from search.design import Design, DesignSpace
from search.errors import SearchError
from search.front import front, most_accurate
from search.goals import Goals
from search.guide import Known
from search.loop import Result, search
from search.plan import SearchPlan
from search.store import Store
from search.strategies.autotinybert import AutoTinyBert
from search.strategies.evolution import Evolution
from search.strategies.fast import Fast
from search.strategies.random_search import RandomSearch
from search.strategy import Strategy
from supernet.batches import TokenizedTexts
from supernet.model import Supernet
from supernet.space import SearchSpace, SubnetConfig


def content_hash(*parts: Tensor | TokenizedTexts | Supernet) -> str:
    """Sha256 (hexadecimal) of weights, token ids or labels: what an accuracy holds for."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, Supernet):
            for name, tensor in sorted(part.state_dict().items()):
                found.update(name.encode() + tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
        elif isinstance(part, TokenizedTexts):
            found.update(json.dumps([part.input_ids, part.token_type_ids, part.pad_token_id]).encode())
        else:
            found.update(part.contiguous().numpy().tobytes())
    return found.hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchTarget:
    """One target of a search: what is built, the precisions to choose from, and its limit."""

    target: EngineTarget
    precisions: tuple[str, ...]
    max_ms: float | None
    of_reference: float | None

    def limit_ms(self, reference_ms: float) -> float | None:
        """The limit in milliseconds; None where there is none."""
        if self.max_ms is not None:
            return self.max_ms
        return None if self.of_reference is None else self.of_reference * reference_ms


def search_targets(recipe: Recipe) -> tuple[SearchTarget, ...]:
    """The recipe's first target under its `[constraint]`, and every other that names a limit of its own."""
    found = []
    for i, target in enumerate(recipe.targets):
        if i > 0 and not target.is_searched:
            continue
        limit = recipe.constraint if i == 0 else target
        found.append(
            SearchTarget(
                target=target.build(), precisions=target.precisions, max_ms=limit.max_ms, of_reference=limit.of_teacher
            )
        )
    return tuple(found)


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchJob:
    """What a search needs besides its work: where it may look, what it wants, and where it keeps what it learns."""

    inputs: WorkInputs
    space: SearchSpace
    targets: tuple[SearchTarget, ...]
    plan: SearchPlan
    method: str
    small: bool
    seed: int
    flops: Callable[[SubnetConfig], int]
    executor: Executor
    store: Store
    ui: Ui
    base: SubnetConfig | None = None  # what the phase before found, to be asked for first

    @property
    def pairs(self) -> bool:
        """Whether the task has two texts a row."""
        return self.inputs.texts.token_type_ids is not None

    def run(self, folder: Path, context: str) -> dict[str, Any]:
        """Searches, continuing what `folder` began, and returns the stage's plain-data result.

        `context` names everything else the numbers hold for. Raises `NothingFits` where no design meets the limits,
        `SearchError` where a target cannot be measured.
        """
        begun = time.monotonic()
        start = self._start(folder)
        references = [self._reference(x, plain) for x, plain in zip(self.targets, start["references"], strict=True)]
        goals = Goals(constraints_ms=tuple(start["constraints_ms"]), small=self.small)
        labels = [x.target.label for x in self.targets]
        for target, reference, limit in zip(self.targets, references, goals.constraints_ms, strict=True):
            self.ui.say(
                f"search: {target.target.label}: teacher {reference.ms:.3f} ms in {reference.effective_precision}; "
                + ("no limit" if limit is None else f"limit {limit:.3f} ms")
            )
        history = self.store.history(
            start["search"],
            {
                "context": context,
                "space": self._space.fingerprint,
                "constraints_ms": list(goals.constraints_ms),
                "targets": labels,
                "method": self.method,
                "seed": self.seed,
            },
        )
        evaluation = Evaluation(
            executor=self.executor,
            store=self.store,
            goals=goals,
            slack=self.plan.slack,
            references=references,
            subject=Subject(
                checkpoint=content_hash(self.inputs.supernet),
                data=self._data_hash(),
                facts=self.inputs.supernet.facts,
                token_types=self.pairs,
            ),
            flops=self.flops,
        )
        with self.ui.progress("search") as progress:
            found = search(
                self._strategy(goals, start),
                evaluation,
                goals=goals,
                plan=self.plan,
                history=history,
                progress=progress,
            )
        spent = evaluation.spent
        self.ui.say(
            f"search: {spent['measured']} engines measured and {spent['scored']} subnets scored now, "
            f"{spent['reused']} numbers reused from {self.store.path}"
        )
        confirmed = self._confirm(found, references, goals)
        return self._result(found, confirmed, goals, references, seconds=time.monotonic() - begun)

    # --- the start, which a resumed search must not make again --------------------------------------------------------

    @property
    def _space(self) -> DesignSpace:
        return DesignSpace(subnets=self.space, precisions=tuple(x.precisions for x in self.targets))

    def _data_hash(self) -> str:
        tuning = self.inputs.tuning
        plain = content_hash(self.inputs.texts, self.inputs.labels)
        metrics = self.inputs.metrics
        if metrics is not None and metrics.primary not in ("accuracy", "pearson"):
            plain = f"{plain} by {metrics.primary}"
        if tuning is None:
            return plain
        return f"{plain} after {tuning.steps} steps of {tuning.batch_size} at {tuning.learning_rate:g}, {tuning.seed}"

    def _start(self, folder: Path) -> dict[str, Any]:
        """References, limits, the opening and what the store knows at this moment, kept in `folder`."""
        path = folder / "start.json"
        if path.is_file():
            start: dict[str, Any] = json.loads(path.read_text())
            return start
        name = uuid.uuid4().hex
        references = []
        for x in self.targets:
            net = self.inputs.reference
            graph = engine_graph(net.shape, net.facts, token_types=self.pairs, precision=x.target.precision)
            references.append(find_reference(self.executor, self.store, x.target, graph=graph))
        limits = [x.limit_ms(r.ms) for x, r in zip(self.targets, references, strict=True)]
        labels = [x.target.label for x in self.targets]
        plain = hand_made_cuts(self.space) if self.base is None else [self.base]
        cuts = [self._space.of(x) for x in plain if self._worth_building(x, limits, references)]
        earlier = earlier_fronts(self.store, self._space, labels, without=name)
        start = {
            "search": name,
            "references": [
                {
                    "graph": x.graph,
                    "ms": x.ms,
                    "precision": x.effective_precision,
                    "runtime": x.runtime,
                    "hardware": x.hardware,
                }
                for x in references
            ],
            "constraints_ms": limits,
            "opening": [x.to_json() for x in dict.fromkeys([*cuts, *earlier])],
            "known": self._known(references),
            "eager": [],
        }
        if self.method == "autotinybert":
            timed = eager_timings(self.inputs, self.space, self.targets[0].target, rng=Random(f"{self.seed} eager"))
            start["eager"] = [[subnet.to_json(), ms] for subnet, ms in timed]
        write_json(path, start)
        return start

    def _worth_building(
        self, subnet: SubnetConfig, limits: Sequence[float | None], references: Sequence[Reference]
    ) -> bool:
        """Whether a cut may come near the limits: operations tell that much."""
        share = self._share(subnet)
        pairs = zip(limits, references, strict=True)
        return all(limit is None or share * reference.ms <= 2 * limit for limit, reference in pairs)

    def _known(self, references: Sequence[Reference]) -> list[dict[str, Any]]:
        """What the store has measured on the same machines: it fits the latency models from the first generation on."""
        rows = []
        for i, (x, reference) in enumerate(zip(self.targets, references, strict=True)):
            for precision in x.precisions:
                target = replace(x.target, precision=precision)  # type: ignore[arg-type]
                found = self.store.measurements(
                    target=target.label,
                    hardware=reference.hardware,
                    runtime=reference.runtime,
                    limit=512,
                    reports=False,
                )
                rows += [
                    {
                        "target": i,
                        "precision": precision,
                        "subnet": row.subnet,
                        "ms": row.ms * reference.ms / row.reference_ms,
                    }
                    for row in found
                    if row.subnet is not None and row.reference == reference.graph
                ]
        return rows

    def _reference(self, target: SearchTarget, plain: dict[str, Any]) -> Reference:
        return Reference(
            target=target.target,
            graph=plain["graph"],
            ms=plain["ms"],
            effective_precision=plain["precision"],
            runtime=plain["runtime"],
            hardware=plain["hardware"],
        )

    def _strategy(self, goals: Goals, start: dict[str, Any]) -> Strategy:
        rng = Random(self.seed)
        opening = [Design.from_json(x) for x in start["opening"]]
        if self.method == "random":
            return RandomSearch(self._space, self.plan, rng, opening=opening)
        if self.method == "fast":
            try:
                return Fast(self._space, self.plan, rng)
            except ValueError as error:
                raise SearchError(str(error)) from error
        if self.method == "autotinybert":
            limit = goals.constraints_ms[0] or start["references"][0]["ms"]
            # Its predictor learns from eager timings; the scale is set where both are known, at the reference.
            predict = fitted([(SubnetConfig.from_json(x), ms) for x, ms in start["eager"]])
            scale = start["references"][0]["ms"] / predict(self.inputs.reference.shape)
            return AutoTinyBert(self._space, self.plan, rng, predict=lambda x: scale * predict(x), constraint_ms=limit)
        known: dict[tuple[int, str], list[tuple[SubnetConfig, float]]] = {}
        for row in reversed(start["known"]):  # newest last
            pair = (SubnetConfig.from_json(row["subnet"]), float(row["ms"]))
            known.setdefault((int(row["target"]), str(row["precision"])), []).append(pair)
        guesses: Known = known
        return Evolution(
            self._space,
            goals,
            self.plan,
            rng,
            opening=opening,
            known=guesses,
            rough_load=lambda subnet: goals.load([x["ms"] * self._share(subnet) for x in start["references"]]),
        )

    def _share(self, subnet: SubnetConfig) -> float:
        """A subnet's operations as a share of the reference's."""
        return self.flops(subnet) / self.flops(self.inputs.reference.shape)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _confirm(self, found: Result, references: Sequence[Reference], goals: Goals) -> dict[Design, Candidate]:
        """The front measured once more, all in one interleaved run with more windows, on targets of this machine."""
        here = hardware_id(environment())
        again = {x.design: x for x in found.front}
        for i, reference in enumerate(references):
            if reference.hardware != here:
                continue
            self.ui.say(f"search: measuring the {len(again)} designs of the front once more, side by side")
            with ExitStack() as stack:
                net = self.inputs.reference
                whole = open_engine(net, reference.target, pairs=self.pairs, calibration=self.inputs.calibration)
                engines = {"reference": stack.enter_context(whole)}
                for design in again:
                    target = replace(reference.target, precision=design.precisions[i])  # type: ignore[arg-type]
                    engine = open_engine(
                        self.inputs.supernet,
                        target,
                        subnet=design.subnet,
                        pairs=self.pairs,
                        calibration=self.inputs.calibration,
                    )
                    engines[design.key] = stack.enter_context(engine)
                probes = probe_texts(self.inputs.texts, length=reference.target.shape.length, count=8)
                reports = measure_together(engines, probes, reference="reference", plan=FINAL_PLAN)
            for design, x in again.items():
                report = reports[design.key]
                low, high = report.ratio_ci
                timing = Timing(
                    ms=report.ratio_to_reference * reference.ms, ci_ms=(low * reference.ms, high * reference.ms)
                )
                latencies = (*x.latencies[:i], timing, *x.latencies[i + 1 :])
                again[design] = replace(x, latencies=latencies)
        return again

    def _result(
        self,
        found: Result,
        confirmed: dict[Design, Candidate],
        goals: Goals,
        references: Sequence[Reference],
        *,
        seconds: float,
    ) -> dict[str, Any]:
        candidates = [confirmed.get(x.design, x) for x in found.candidates]
        kept = {x.design for x in front(confirmed.values(), small=self.small)}
        # Who meets the limits with the upper end of the interval, too, goes first.
        sure = [
            x for x in confirmed.values() if goals.fits(x) and goals.violation([t.ci_ms[1] for t in x.latencies]) == 0
        ]
        winner = most_accurate(sure or candidates, goals)
        return {
            "targets": [x.target.label for x in self.targets],
            "teacher_ms": [x.ms for x in references],
            "constraints_ms": list(goals.constraints_ms),
            "effective_precisions": [x.effective_precision for x in references],
            "winner": winner.to_json(),
            "candidates": [{**x.to_json(), "front": x.design in kept} for x in candidates],
            "method": self.method,
            "generations": found.generations,
            "stopped": found.stopped,
            "seconds": seconds,
        }
