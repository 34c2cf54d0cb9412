"""The two questions a search asks, answered for real on this machine: latency by the compiled engine, accuracy by the
inherited weights."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atb_export.errors import VerificationError
from atb_export.graphs import graph_kind, graph_parts_for
from atb_export.jobs import Failed, Measured, MeasureJob, Scored, ScoreJob
from atb_export.onnx.graph import graph_hash
from atb_export.onnx.quantise import SCHEME
from atb_export.scoring import Tuning, race
from atb_export.verify import compare, engine_logits, exact_quantised_logits, feeds_for, probe_texts, refuse
from atb_export.word_files import WordFiles
from runtime.engine import Engine, backend, usable_cpus
from runtime.environment import environment, hardware_id, runtime_version
from runtime.errors import AtbRuntimeError
from runtime.measure import MeasurePlan, measure
from runtime.target import EngineTarget
from search.store import EngineKey
from supernet.batches import TokenizedTexts
from supernet.facts import ModelFacts
from supernet.metrics import Metrics
from supernet.model import Supernet
from supernet.space import SubnetConfig

_Result = TypeVar("_Result", Measured, Scored)

# Beside a reference in every window, five windows of 12 ms place an engine within about 2.5 %.
SEARCH_PLAN = MeasurePlan(windows=5, window_ms=12.0, max_repeats=5)
REFERENCE_PLAN = MeasurePlan(windows=30, window_ms=25.0, max_repeats=30)
PROBES = 4  # of lengths from the shortest to the longest; what is packed is held against many more
CALIBRATION_ROWS = 16
_MOST_ROUNDED = 32  # int8 graphs kept, of some megabytes each: more than a generation asks for
_BATCH = 16  # rows an int8 engine answers at once when it is asked for its accuracy


@dataclass(frozen=True, kw_only=True, eq=False)
class WorkInputs:
    """What the work needs, as plain picklable objects: the nets, the rows a search sees, how to measure.

    `reference` is the net every engine is timed beside; `supernet` what subnets inherit from; `texts` and `labels` the
    search-dev rows; `calibration` unlabelled texts for int8. With `tuning` a subnet is trained shortly before it is
    asked, as AutoTinyBERT does. `metrics` are accuracy or Pearson's r unless told.
    """

    reference: Supernet
    supernet: Supernet
    texts: TokenizedTexts
    labels: Tensor
    calibration: TokenizedTexts
    plan: MeasurePlan = SEARCH_PLAN
    tuning: Tuning | None = None
    metrics: Metrics | None = None


def engine_graph(subnet: SubnetConfig, facts: ModelFacts, *, token_types: bool, precision: str) -> str:
    """The hash an engine's latency is stored under: of its graph without weights; quantised ones are other graphs."""
    plain = graph_hash(subnet, facts, token_types=token_types)
    return hashlib.sha256(f"{plain} int8 {SCHEME}".encode()).hexdigest() if precision == "int8" else plain


class _Stopwatch:
    """Seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun


class Work:
    """Does jobs in this process, one at a time. Close it when done."""

    def __init__(self, inputs: WorkInputs) -> None:
        self.inputs = inputs
        self._references: dict[EngineTarget, Engine] = {}
        self._rounded: dict[tuple[bool, SubnetConfig, str], Sequence[bytes | memoryview]] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="atb-work-")
        self._words = WordFiles(Path(self._folder.name))

    def close(self) -> None:
        """Closes the reference engines and removes the files; may be called twice."""
        for engine in self._references.values():
            engine.close()
        self._references.clear()
        self._folder.cleanup()

    @property
    def pairs(self) -> bool:
        """Whether the graph takes token types."""
        return self.inputs.texts.token_type_ids is not None

    @cached_property
    def hardware(self) -> str:
        """The machine this work is done on."""
        return hardware_id(environment())

    def measure(self, job: MeasureJob) -> Measured | Failed:
        """Build, verify, then time beside the reference: an engine that computes something else is not timed."""
        if job.hardware is not None and job.hardware != self.hardware:
            return Failed(
                reason=f"this machine is {self.hardware}, the search measures {job.target.label} on {job.hardware}",
                lasting=False,
            )
        if (reason := backend(job.target.backend).can_run()) is not None:
            return Failed(reason=f"{job.target.label} cannot run here: {reason}", lasting=False)
        return self._guarded(lambda: self._measure(job))

    def score(self, job: ScoreJob) -> Scored | Failed:
        """The accuracy of inherited weights, of the int8 engine where the job says so."""
        return self._guarded(lambda: self._score(job))

    def _guarded(self, work: Callable[[], _Result]) -> _Result | Failed:
        """What can go wrong with one candidate is its result, not the end of the search."""
        try:
            return work()
        except VerificationError as error:
            return Failed(reason=f"computes something else: {error}")
        except AtbRuntimeError as error:
            # A reason is kept with the engine; the folder is gone by tomorrow.
            return Failed(reason=f"does not compile: {error}".replace(f"{self._folder.name}/", ""))

    # --- latency -------------------------------------------------------------------------------------------------

    def _net(self, subnet: SubnetConfig | None) -> tuple[Supernet, SubnetConfig]:
        if subnet is None:
            return self.inputs.reference, self.inputs.reference.shape
        return self.inputs.supernet, subnet

    @contextmanager
    def _graph(self, subnet: SubnetConfig | None, target: EngineTarget) -> Iterator[tuple[Path, int]]:
        """The file of the graph that would be shipped, and the bytes of the whole model."""
        net, cut = self._net(subnet)
        path = Path(self._folder.name, f"{cut.key}.onnx")
        size = self._write(path, net, cut, target)
        try:
            yield path, size
        finally:
            path.unlink()

    def _write(self, path: Path, net: Supernet, cut: SubnetConfig, target: EngineTarget) -> int:
        """The word table lies beside the graph: joining and parsing what most of a small model is takes longer than
        compiling the rest. A typed graph, whose table is of its own type, has it inside."""
        words = None
        if graph_kind(target) not in ("f16", "bf16"):
            words = self._words.file(net, cut.hidden_size)
        with path.open("wb") as file:
            file.writelines(self._parts(net, cut, target, None if words is None else words.name))
        return path.stat().st_size + (0 if words is None else words.stat().st_size)

    def _parts(
        self, net: Supernet, cut: SubnetConfig, target: EngineTarget, words_file: str | None
    ) -> Sequence[bytes | memoryview]:
        """The graph without its words; an int8 one is calibrated once for a subnet's latency and its accuracy."""
        made = partial(
            graph_parts_for,
            net,
            cut,
            target,
            token_types=self.pairs,
            calibration=self.inputs.calibration,
            words_file=words_file,
        )
        if target.precision != "int8":
            return made()
        key = (net is self.inputs.reference, cut, graph_kind(target))
        if key not in self._rounded:
            while len(self._rounded) >= _MOST_ROUNDED:
                del self._rounded[next(iter(self._rounded))]
            self._rounded[key] = made()
        return self._rounded[key]

    def _probes(self, target: EngineTarget) -> TokenizedTexts:
        return probe_texts(self.inputs.texts, length=target.shape.length, count=PROBES)

    def _measure(self, job: MeasureJob) -> Measured:
        watch = _Stopwatch()
        reference = self._reference(job.reference)
        probes = self._probes(job.target)
        longest = [max(range(len(probes)), key=lambda i: len(probes.input_ids[i]))]
        with ExitStack() as stack:
            with watch("graph"):
                onnx, model_bytes = stack.enter_context(self._graph(job.subnet, job.target))
            engine = reference
            if job.subnet is not None:
                with watch("compile"):
                    engine = stack.enter_context(backend(job.target.backend).open(onnx, job.target))
            with watch("verify"):
                self._verify(engine, job.subnet, probes, onnx)
            with watch("measure"):
                engines = {"reference": reference} if job.subnet is None else {"reference": reference, "x": engine}
                reports = measure(
                    engines,
                    {name: feeds_for(e, probes, longest) for name, e in engines.items()},
                    reference="reference",
                    plan=REFERENCE_PLAN if job.subnet is None else self.inputs.plan,
                )
        report = reports["reference" if job.subnet is None else "x"]
        calm_ms = job.reference_ms if job.reference_ms is not None else reports["reference"].p50_ms
        ms, interval = report.p50_ms, report.ci_ms
        if job.subnet is not None:
            low, high = report.ratio_ci
            ms, interval = report.ratio_to_reference * calm_ms, (low * calm_ms, high * calm_ms)
        _, cut = self._net(job.subnet)
        return Measured(
            key=EngineKey(
                graph=engine_graph(
                    cut, self.inputs.supernet.facts, token_types=self.pairs, precision=job.target.precision
                ),
                target=job.target.label,
                effective_precision=engine.effective_precision,
                batch=job.target.shape.batch,
                length=job.target.shape.length,
                threads=job.target.threads,
                runtime=runtime_version(job.target.backend),
                hardware=self.hardware,
            ),
            ms=ms,
            ci_ms=interval,
            model_bytes=model_bytes,
            report=report.to_json(),
            seconds=watch.seconds,
        )

    def _reference(self, target: EngineTarget) -> Engine:
        """The reference net compiled for a target, once."""
        if target not in self._references:
            with self._graph(None, target) as (onnx, _):
                self._references[target] = backend(target.backend).open(onnx, target)
        return self._references[target]

    def _verify(self, engine: Engine, subnet: SubnetConfig | None, probes: TokenizedTexts, onnx: Path) -> None:
        """Raises `VerificationError` where the engine departs from what the weights (or the int8 graph) answer."""
        net, cut = self._net(subnet)
        wanted: NDArray[np.float64]
        if engine.target.precision == "int8":
            wanted = exact_quantised_logits(onnx, engine.target, probes)
        else:
            with torch.no_grad():
                # All probes in one padded batch, in float32: exact enough and quick.
                wanted = net(**probes.batch(range(len(probes))), subnet=cut).logits.double().numpy()
        got = engine_logits(engine, probes)
        refuse([compare(cut.key, engine.target.label, got, wanted, precision=engine.effective_precision)])

    # --- accuracy ------------------------------------------------------------------------------------------------

    def _score(self, job: ScoreJob) -> Scored:
        watch = _Stopwatch()
        with watch("accuracy"):
            if job.quantised is not None:
                with self._quantised(job.subnet, job.quantised) as engine:
                    answer = self._engine_answer(engine)
                    raced = race(answer, self.inputs.labels, rival=job.rival, metrics=self.inputs.metrics)
            else:
                net, cut = self.inputs.supernet, job.subnet
                if self.inputs.tuning is not None:
                    net = self.inputs.tuning(net, cut)
                    cut = net.shape
                answer = self._answer(net, cut)
                raced = race(answer, self.inputs.labels, rival=job.rival, metrics=self.inputs.metrics)
        return Scored(
            accuracy=raced.accuracy,
            rows=raced.rows,
            complete=raced.complete,
            correct=raced.correct,
            seconds=watch.seconds,
        )

    def _answer(self, net: Supernet, cut: SubnetConfig) -> Callable[[range], Tensor]:
        from supernet.distillation import predict

        return lambda rows: predict(net, self.inputs.texts.take(rows), subnet=cut)

    @contextmanager
    def _quantised(self, subnet: SubnetConfig, target: EngineTarget) -> Iterator[Engine]:
        """The target's int8 engine for many rows at once, on all cores: it answers what that for one row answers."""
        many = replace(target, shape=replace(target.shape, batch=_BATCH), threads=usable_cpus())
        with self._graph(subnet, target) as (onnx, _), backend(target.backend).open(onnx, many) as engine:
            yield engine

    def _engine_answer(self, engine: Engine) -> Callable[[range], Tensor]:
        return lambda rows: torch.from_numpy(engine_logits(engine, self.inputs.texts.take(rows)))
