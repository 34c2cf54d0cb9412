"""One tiny run through the command line, made once; tests read what it left and copy what they change."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import nn

from atb_export.dense import DenseModel
from atb_export.jobs import Failed, Measured, MeasureJob, Scored, ScoreJob
from atb_export.work import Work, WorkInputs, engine_graph
from runtime.environment import runtime_version
from runtime.measure import MeasurePlan
from search.store import EngineKey
from supernet.batches import TokenizedTexts, tokenize
from supernet.facts import ModelFacts
from supernet.model import Supernet
from supernet.space import LayerConfig, SubnetConfig

SHORT_PLAN = MeasurePlan(windows=3, window_ms=2.0, max_repeats=1, max_warmups=3)
SENTENCES = (
    "",
    "good",
    "a dull plot.",
    "this film is superb and the story is warm , clever and all",
    "x" * 90,
    "🎬 映画",
)


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The last line of stdout."""
        return json.loads(self.out.splitlines()[-1])

    @property
    def refusal(self) -> str:
        """The one message of a command that failed as it should."""
        assert self.code in (1, 2), (self.code, self.out, self.err)
        assert "Traceback" not in self.err
        return self.err


@dataclass(frozen=True)
class TinyRun:
    """A finished `atb run`: the directory it was run in, its recipe, and what it said."""

    cwd: Path
    recipe: Path
    answer: Answer

    @property
    def folder(self) -> Path:
        """The recipe's output."""
        return self.cwd / "out"

    @property
    def result(self) -> dict[str, Any]:
        """`result.json`."""
        found: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        return found

    @property
    def bundle(self) -> Path:
        """The winner's."""
        return self.folder / "bundle"

    def stage(self, name: str) -> Path:
        """A stage's folder."""
        return self.folder / "stages" / name

    def copy(self, to: Path) -> TinyRun:
        """The same run elsewhere, to be changed."""
        shutil.copytree(self.cwd, to, dirs_exist_ok=True)
        return TinyRun(cwd=to, recipe=to / self.recipe.name, answer=self.answer)


@pytest.fixture(scope="session", autouse=True)
def single_thread() -> Iterator[None]:
    """Nets this small only wait for a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def short_plans() -> Iterator[None]:
    """Real measurements, but few: what is tested is what becomes of them."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in (("searching", "FINAL_PLAN"), ("work", "REFERENCE_PLAN"), ("result", "FINAL_PLAN")):
            patch.setattr(f"atb_export.{module}.{name}", SHORT_PLAN)
        patch.setitem(WorkInputs.__init__.__kwdefaults__, "plan", SHORT_PLAN)
        patch.setattr("atb_export.measuring.sweep.__kwdefaults__", {"plan": SHORT_PLAN})
        yield


@pytest.fixture(scope="session")
def atb(short_plans: None) -> Callable[..., Answer]:
    """Runs `atb` in this process, in a directory; what it raises beyond its own errors passes through."""
    from atb_export.cli.main import run

    def call(*arguments: object, cwd: Path) -> Answer:
        out, err = StringIO(), StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.chdir(cwd)
            code = run([str(x) for x in arguments])
        return Answer(code, out.getvalue(), err.getvalue())

    return call


@pytest.fixture(scope="session")
def tiny_run(
    atb: Callable[..., Answer], tiny_recipe: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> TinyRun:
    """The one run that many tests look at."""
    cwd = tmp_path_factory.mktemp("run")
    recipe = cwd / "tiny.toml"
    recipe.write_text(tiny_recipe())
    answer = atb("run", recipe, "--threads", 1, "--json", cwd=cwd)
    assert answer.code == 0, answer.err
    return TinyRun(cwd=cwd, recipe=recipe, answer=answer)


@pytest.fixture(scope="session")
def draw_subnet() -> Callable[..., SubnetConfig]:
    """Any subnet of `net`, every dimension drawn on its own and from all integers."""

    def draw(net: SubnetConfig, seed: int) -> SubnetConfig:
        rng = Random(seed)
        kept = sorted(rng.sample(range(net.depth), rng.randint(1, net.depth)))
        layers = (
            LayerConfig(
                source=i,
                heads=rng.randint(1, net.layers[i].heads),
                head_size=rng.randint(1, net.layers[i].head_size),
                ffn_size=rng.randint(1, net.layers[i].ffn_size),
                ffn_stack=rng.randint(1, net.layers[i].ffn_stack),
            )
            for i in kept
        )
        return SubnetConfig(hidden_size=rng.randint(2, net.hidden_size), layers=tuple(layers))

    return draw


@pytest.fixture(scope="session")
def tokenizer(tiny_teacher: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_teacher)


@pytest.fixture(scope="session")
def make_dense(tokenizer: Any) -> Callable[..., DenseModel]:
    """A dense model of any shape with every parameter random, LayerNorms and biases included."""

    @torch.no_grad()
    def build(
        shape: SubnetConfig | None = None, *, labels: tuple[str, ...] = ("neg", "pos"), seed: int = 0
    ) -> DenseModel:
        shape = shape or SubnetConfig.uniform(hidden_size=32, depth=4, heads=4, head_size=8, ffn_size=64)
        facts = ModelFacts(vocab_size=200, max_position_embeddings=48, num_labels=len(labels))
        net = Supernet(shape=shape, facts=facts).eval()
        rng = torch.Generator().manual_seed(seed)
        norms = {id(m.weight) for m in net.modules() if isinstance(m, nn.LayerNorm)}
        for parameter in net.parameters():
            noise = torch.randn(parameter.shape, generator=rng)
            if id(parameter) in norms:
                parameter.copy_(1 + 0.4 * noise)
            else:
                parameter.copy_(0.3 * noise if parameter.dim() == 1 else noise * parameter.shape[1] ** -0.5)
        return DenseModel(net=net, tokenizer=tokenizer, labels=labels)

    return build


@pytest.fixture(scope="session")
def probes(tokenizer: Any) -> TokenizedTexts:
    """Sentences of several lengths, scripts and oddities, at most 24 tokens."""
    return tokenize(tokenizer, [(x,) for x in SENTENCES], max_length=24)


# --- work of a search -----------------------------------------------------------------------------------------------

WORDS = ("good", "bad", "film", "plot", "dull", "warm", "the", "is", "very", "this", "of", "story")


@pytest.fixture(scope="session")
def work_inputs(make_dense: Callable[..., DenseModel], tokenizer: Any) -> WorkInputs:
    """A net of 4 layers as reference and supernet, and 48 rows whose labels are mostly what it answers."""
    net = make_dense(seed=4).net
    rng = Random(0)
    rows = tokenize(
        tokenizer, [(" ".join(rng.choices(WORDS, k=rng.randint(1, 14))),) for _ in range(48)], max_length=16
    )
    with torch.no_grad():
        answers = net(**rows.batch(range(len(rows)))).logits.argmax(-1)
    labels = torch.tensor([x if i % 6 else 1 - x for i, x in enumerate(answers.tolist())])
    return WorkInputs(
        reference=net,
        supernet=net,
        texts=rows,
        labels=labels,
        calibration=rows.take(range(16)),
        plan=MeasurePlan(windows=2, window_ms=1.0, max_repeats=1, max_warmups=2, warmup_runs=2),
    )


class MadeUp:
    """An executor whose latencies are arithmetic, on a machine of its own; accuracies are real.

    `spoilt(job)` may give a reason for an engine to fail, `lasting` or not; `dies_at` counts jobs until a Ctrl-C.
    """

    hardware = "made-up"
    spread = 0.01

    def __init__(self, inputs: WorkInputs) -> None:
        self.work = Work(inputs)
        self.measured: list[MeasureJob] = []
        self.scored: list[ScoreJob] = []
        self.spoilt: Callable[[MeasureJob], Failed | None] = lambda job: None
        self.dies_at: int | None = None

    def ms(self, subnet: SubnetConfig, precision: str) -> float:
        """Grows with every size, and a little by chance of the shape; int8 and bf16 are quicker."""
        chance = int(hashlib.sha256(str(subnet.renumbered()).encode()).hexdigest()[:4], 16) / 0xFFFF
        cost = sum(x.heads * x.head_size / 16 + x.ffn_size / 32 + 0.3 for x in subnet.layers)
        speed = {"int8": 0.5, "bf16": 0.7}.get(precision, 1.0)
        return speed * cost * (1 + subnet.hidden_size / 32) * (1 + 0.05 * chance)

    def measure(self, jobs: Sequence[MeasureJob]) -> Iterator[Measured | Failed]:
        return map(self._measure, jobs)

    def _measure(self, job: MeasureJob) -> Measured | Failed:
        self._step()
        self.measured.append(job)
        if (failed := self.spoilt(job)) is not None:
            return failed
        inputs, target = self.work.inputs, job.target
        subnet = job.subnet or inputs.reference.shape
        ms = self.ms(subnet, target.precision)
        return Measured(
            key=EngineKey(
                graph=engine_graph(subnet, inputs.supernet.facts, token_types=False, precision=target.precision),
                target=target.label,
                effective_precision=target.precision,
                batch=target.shape.batch,
                length=target.shape.length,
                threads=target.threads,
                runtime=runtime_version(target.backend),
                hardware=self.hardware,
            ),
            ms=ms,
            ci_ms=(ms * (1 - self.spread), ms * (1 + self.spread)),
            model_bytes=1000 * subnet.hidden_size,
            report={"made": "up"},
            seconds={"measure": 0.25},
        )

    def score(self, jobs: Sequence[ScoreJob]) -> Iterator[Scored | Failed]:
        return map(self._score, jobs)

    def _score(self, job: ScoreJob) -> Scored | Failed:
        self._step()
        self.scored.append(job)
        return self.work.score(job)

    def close(self) -> None:
        self.work.close()

    def _step(self) -> None:
        if self.dies_at is not None:
            self.dies_at -= 1
            if self.dies_at < 0:
                raise KeyboardInterrupt


@pytest.fixture
def made_up(work_inputs: WorkInputs) -> Iterator[MadeUp]:
    executor = MadeUp(work_inputs)
    yield executor
    executor.close()
