"""What teaching a whole supernet costs beside training its largest subnet alone, and where the time goes.

    .venv/bin/python benchmarks/training/throughput.py            two sizes of BERT, about ten minutes on 2 quiet cores
    .venv/bin/python benchmarks/training/throughput.py --quick    the smaller one, about two

A step of `teach` with a sandwich of 4 subnets (largest, smallest, 2 random) takes turns with steps of plain loops that
train `transformers`' model of the largest subnet's shape, on the very same batches, in the same precision, without
dropout: fine-tuning and distillation, each as such a loop is usually written (all weights, AdamW as it comes) and at
its best (word table left alone as in ours, fused AdamW). The distilling ones have the same teacher and losses as ours,
but for attention, where that model gives probabilities instead of scores. The target holds ours against the best
distilling one. "By operations alone" counts the matrix products of the subnets and the teacher, and nothing else.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification

from runtime.environment import environment
from supernet.batches import BatchOrder, TokenizedTexts
from supernet.cost import flops
from supernet.distillation import Lessons, teach
from supernet.engine import Engine
from supernet.losses import hidden_mse
from supernet.model import Supernet
from supernet.objective import LossWeights
from supernet.sampler import subnets_of
from supernet.space import SearchSpace, SubnetConfig
from supernet.stage import Sampler, Stage
from supernet.teacher import supernet_from_bert

sys.path.append(str(Path(__file__).resolve().parents[1] / "search"))
from outcome import finish, table, target

ROWS, LONGEST, SEED, WARM = 32, 48, 1, 3
LOSSES = LossWeights(soft_label=1.0, hidden=1.0, attention=0.1)
SAMPLER = Sampler("sandwich", random_subnets=2)
SIZES: dict[str, dict[str, int]] = {
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
}


def space_of(size: Mapping[str, int]) -> SearchSpace:
    """From half to all layers, a third to all heads, a sixth to all neurons: the shape of recipes/long.toml's space."""
    depth, heads, ffn = size["num_hidden_layers"], size["num_attention_heads"], size["intermediate_size"]
    return SearchSpace.of_depths(
        source_layers=depth,
        depths=range(depth // 2, depth + 1),
        hidden_sizes=(size["hidden_size"],),
        heads=tuple(range(heads // 3, heads + 1, 2)),
        head_sizes=(size["hidden_size"] // heads,),
        ffn_sizes=tuple(ffn * part // 12 for part in (2, 3, 4, 6, 8, 12)),
    )


def make_texts(rows: int) -> TokenizedTexts:
    """Random tokens; lengths as those of sentences, 5 to `LONGEST`, 20 at the middle."""
    rng = Random(SEED)
    lengths = [min(LONGEST, max(5, round(rng.lognormvariate(3.0, 0.5)))) for _ in range(rows)]
    return TokenizedTexts(input_ids=tuple([rng.randrange(1000, 30000) for _ in range(n)] for n in lengths))


class Plain:
    """A loop as `transformers` users write it, one step at a time."""

    def __init__(
        self, model: nn.Module, teacher: nn.Module | None, engine: Engine, *, best: bool, total_labels: Tensor
    ) -> None:
        self.model, self.teacher, self.engine, self.labels = model.train(), teacher, engine, total_labels
        if best:
            model.get_input_embeddings().weight.requires_grad_(False)  # type: ignore[operator, union-attr]
        self.parameters = [x for x in model.parameters() if x.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, fused=True if best else None)

    def loss(self, batch: dict[str, Tensor], rows: list[int]) -> Tensor:
        """Cross-entropy with labels, or what the teacher says: answers, hidden states, attention."""
        if self.teacher is None:
            return functional.cross_entropy(self.model(**batch).logits.float(), self.labels[rows])
        inner = {"output_hidden_states": True, "output_attentions": True}
        with torch.no_grad():
            wanted = self.teacher(**batch, **inner)
        got, mask = self.model(**batch, **inner), batch["attention_mask"]
        pairs = (mask[:, :, None] * mask[:, None, :]).float()
        states = [hidden_mse(a, b, mask) for a, b in zip(got.hidden_states[1:], wanted.hidden_states[1:], strict=True)]
        scores = [
            ((a.float() - b.float()).square().mean(1) * pairs).sum() / pairs.sum()
            for a, b in zip(got.attentions, wanted.attentions, strict=True)
        ]
        soft = functional.cross_entropy(got.logits.float(), wanted.logits.float().softmax(-1))
        return soft + torch.stack(states).mean() + 0.1 * torch.stack(scores).mean()

    def step(self, texts: TokenizedTexts, rows: list[int]) -> None:
        """Batch, forward, backward, clip, update."""
        batch = self.engine.place(texts.batch(rows))
        with self.engine.autocast():
            loss = self.loss(batch, rows)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()


def seconds(call: Callable[[], Any], engine: Engine) -> float:
    """Of one call, the device's work included."""
    begun = time.perf_counter()
    call()
    if engine.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def parts_of_a_step(
    student: Supernet, teacher: Supernet, space: SearchSpace, texts: TokenizedTexts, rows: list[int], engine: Engine
) -> dict[str, float]:
    """Seconds of each part, done one after the other as a step does them."""
    from supernet.objective import distillation_loss

    found: dict[str, float] = {}
    box: dict[str, Any] = {}

    def timed(name: str, call: Callable[[], Any]) -> None:
        found[name] = found.get(name, 0.0) + seconds(lambda: box.update({name: call()}), engine)

    student.train()
    student.word_embeddings.weight.requires_grad_(False)
    trained = [x for x in student.parameters() if x.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    for x in trained:
        x.grad = torch.zeros_like(x)
    optimizer.step()
    optimizer.zero_grad()
    timed("data", lambda: engine.place(texts.batch(rows)))
    batch = box["data"]

    def answer() -> Any:
        with torch.no_grad(), engine.autocast():
            return teacher(**batch, **LOSSES.asks)

    timed("teacher", answer)
    subnets = subnets_of(SAMPLER, space, step=0, steps=1, seed=SEED)
    for name, subnet in zip(("largest", "smallest", "random 1", "random 2"), subnets, strict=True):

        def forward(subnet: SubnetConfig = subnet) -> Tensor:
            with engine.autocast():
                output = student(**batch, subnet=subnet, **LOSSES.asks)
                return distillation_loss(
                    output,
                    box["teacher"],
                    subnet=subnet,
                    teacher_depth=teacher.shape.depth,
                    mask=batch["attention_mask"],
                    weights=LOSSES,
                )

        timed(f"{name}, forward", forward)
        timed(f"{name}, backward", box[f"{name}, forward"].backward)
        box.pop(f"{name}, forward")
    timed("clip and update", lambda: (nn.utils.clip_grad_norm_(trained, 1.0), optimizer.step()))
    student.word_embeddings.weight.requires_grad_(True)
    return found


def compared(name: str, steps: int, engine: Engine) -> dict[str, Any]:
    """One size: ratios of a sandwich step to plain steps on the same batch, tokens per second, parts."""
    size, torch_seed = SIZES[name], 0
    torch.manual_seed(torch_seed)
    config = BertConfig(**size, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)

    def stock(attention: str) -> Any:
        config._attn_implementation = attention
        return engine.place(BertForSequenceClassification(config))

    space, texts = space_of(size), make_texts((steps + 2 * WARM) * ROWS)
    teacher = supernet_from_bert(stock("eager").cpu())
    student = copy.deepcopy(teacher)  # so that it has its teacher's words, as a supernet has
    labels = engine.place(torch.randint(0, 2, (len(texts),)))
    tutor = stock("eager").eval()
    loops = {
        "fine-tuning": Plain(stock("sdpa"), None, engine, best=False, total_labels=labels),
        "fine-tuning, best": Plain(stock("sdpa"), None, engine, best=True, total_labels=labels),
        "distillation": Plain(stock("eager"), tutor, engine, best=False, total_labels=labels),
        "distillation, best": Plain(stock("eager"), tutor, engine, best=True, total_labels=labels),
    }
    stage = Stage(
        name="throughput",
        losses=LOSSES,
        sampler=SAMPLER,
        steps=steps + 2 * WARM,
        learning_rate=1e-4,
        batch_size=ROWS,
        checkpoint_every=10**9,
    )
    order = BatchOrder(texts.lengths, batch_size=ROWS, seed=SEED)
    found: dict[str, dict[int, float]] = {x: {} for x in ("sandwich", *loops)}
    begun = [time.perf_counter()]

    def after(done: int, *_: object) -> None:
        """The plain loops' turn, on the batch that ours just had: those at their best in the first half of the steps,
        the others in the second, so that what the latter do to the memory slows only their own company."""
        step = done - 1
        found["sandwich"][step] = time.perf_counter() - begun[0]
        names = [x for x in loops if x.endswith("best") == (step < WARM + steps // 2)]
        for loop in names[:: 1 if step % 2 else -1]:
            found[loop][step] = seconds(lambda loop=loop: loops[loop].step(texts, order[step]), engine)  # type: ignore[misc]
        begun[0] = time.perf_counter()

    teach(
        student,
        Lessons(texts=texts, labels=torch.full((len(texts),), -100)),
        stage,
        teacher=teacher,
        space=space,
        seed=SEED,
        engine=engine,
        progress=after,
    )
    # The first steps of each half find their memory.
    skipped = {*range(WARM), *range(WARM + steps // 2, 2 * WARM + steps // 2)}
    kept = {x: {i: t for i, t in times.items() if i not in skipped} for x, times in found.items()}
    whole_run = kept.pop("sandwich")
    half = WARM + steps // 2
    kept = {
        "sandwich beside the best": {i: t for i, t in whole_run.items() if i < half},
        "sandwich beside the others": {i: t for i, t in whole_run.items() if i >= half},
        **kept,
    }
    tokens = [sum(texts.lengths[row] for row in order[i]) for i in range(steps + 2 * WARM)]
    ratios = {x: median(whole_run[i] / t for i, t in kept[x].items()) for x in loops}
    drawn = [subnets_of(SAMPLER, space, step=i, steps=steps, seed=SEED) for i in whole_run]
    whole = flops(space.largest(), length=24)
    subnets = sum(flops(x, length=24) for step in drawn for x in step) / whole / len(drawn)
    engine.place(student)
    engine.place(teacher)
    rounds = [parts_of_a_step(student, teacher, space, texts, order[i], engine) for i in range(WARM, WARM + 6)][1:]
    return {
        "ratio": ratios,
        "of_sizes": (3 * subnets + 1) / 4,  # a backward is two forwards; the teacher's forward is in both
        "tokens_per_s": {x: sum(tokens[i] for i in times) / sum(times.values()) for x, times in kept.items()},
        "ms_a_step": {x: 1e3 * median(times.values()) for x, times in kept.items()},
        "part_ms": {x: 1e3 * median(r[x] for r in rounds) for x in rounds[0]},
    }


def show(name: str, found: Mapping[str, Any]) -> None:
    """The tables for people."""
    print(f"\n{name}: {SIZES[name]}, batches of {ROWS} texts\n")
    rows: list[list[object]] = [
        [
            x,
            f"{found['ms_a_step'][x]:.0f}",
            f"{found['tokens_per_s'][x]:,.0f}",
            f"{found['ratio'][x]:.2f}" if x in found["ratio"] else "",
        ]
        for x in found["ms_a_step"]
    ]
    table(["loop", "ms a step", "tokens/s", "sandwich step / its step"], rows)
    print(f"\nby operations alone a sandwich step would be {found['of_sizes']:.2f} steps of distillation\n")
    whole = sum(found["part_ms"].values())
    table(["part", "ms", "share"], [[x, f"{ms:.1f}", f"{ms / whole:.1%}"] for x, ms in found["part_ms"].items()])


def main() -> int:
    """Exit code 0 where the target is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smaller model, fewer steps")
    parser.add_argument("--size", choices=list(SIZES), help="this size of BERT alone")
    parser.add_argument("--steps", type=int, help="steps of ours; each plain loop has half of them")
    parser.add_argument("--precision", default="auto", choices=["auto", "no", "bf16"])
    parser.add_argument("--cpu", action="store_true", help="keep off a GPU that is there")
    options = parser.parse_args()
    engine = Engine(mixed_precision=options.precision, cpu=options.cpu)
    results = {}
    for name in [options.size] if options.size else ["minilm"] if options.quick else list(SIZES):
        results[name] = compared(name, options.steps or (24 if options.quick else 60), engine)
        show(name, results[name])
    wanted = [target(f"{x}_sandwich_steps", r["ratio"]["distillation, best"], "<=", 2.2) for x, r in results.items()]
    return finish(
        "training/throughput",
        wanted,
        quick=options.quick,
        precision=str(engine.dtype),
        device=str(engine.device),
        threads=torch.get_num_threads(),
        results=results,
        environment=environment(),
    )


if __name__ == "__main__":
    sys.exit(main())
