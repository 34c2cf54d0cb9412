"""The model of latencies: what it finds in times made up by a formula, and in times that were really measured."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from search.latency_model import LEAST_ENGINES, LatencyModel, effects, terms, weights
from search.statistics import spearman
from supernet.cells import PLAIN, Cell
from supernet.cost import flops
from supernet.presets import preset
from supernet.space import LayerConfig, SearchSpace, SubnetConfig

KD = preset("autotinybert-kd")
SPACES = {name: preset(name) for name in ("autotinybert-kd", "per-layer")}


def machine_ms(subnet: SubnetConfig) -> float:
    """A machine made up: work, a fixed share per layer, weights beyond the cache, rows that do not fill a vector."""
    n, work = subnet.hidden_size, 0.0
    for i, x in enumerate(subnet.layers):
        rows = 1 if i == subnet.depth - 1 else 64
        work += rows * n * (4 * x.qkv_size + 2 * x.ffn_size * x.ffn_stack)
        work += 64 * rows * 2 * (x.heads * n if rows == 1 else x.qkv_size)
    beyond = max(0.0, weights(subnet) - 4e6)
    odd = (subnet.depth - 1) * n * (n % 16 > 0)
    return 0.05 + 0.02 * subnet.depth + work * 1.2e-9 + beyond * 1.5e-7 + odd * 4e-5


def drawn(space: SearchSpace, count: int, seed: int = 0) -> list[SubnetConfig]:
    rng = Random(seed)
    return [space.sample(rng) for _ in range(count)]


def noisy(subnets: list[SubnetConfig], noise: float, seed: int = 1) -> list[float]:
    rng = Random(seed)
    return [machine_ms(x) * math.exp(rng.gauss(0, noise)) for x in subnets]


def mape(guess: Any, truth: Any) -> float:
    return float(np.abs(np.asarray(guess) / np.asarray(truth) - 1).mean())


def test_cells_that_compute_more_take_longer() -> None:
    """Where nothing but what cells compute tells engines apart."""
    cells = (PLAIN, Cell("linear2(linear1(x))"), Cell("max(tanh(linear2(elu(gelu(linear1(sigmoid(x)))))), x)"))
    space = replace(
        KD, cells=cells, hidden_sizes=(128, 256, 384), heads=(12,), head_sizes=(16, 32), ffn_sizes=(256, 512)
    )

    def ms(subnet: SubnetConfig) -> float:
        passes = [x.cell.passes for x in subnet.layers[:-1]]
        beside = [a * subnet.hidden_size + b * x.ffn_size for (a, b), x in zip(passes, subnet.layers, strict=False)]
        return machine_ms(subnet) + 1.5e-4 * sum(beside)

    seen, new = drawn(space, 96), drawn(space, 100, seed=5)
    model = LatencyModel(seen, [ms(x) for x in seen])
    assert "what cells compute beside their products" in model.effects
    assert mape(model(new)[0], [ms(x) for x in new]) < 0.04
    assert effects(KD.largest())["what cells compute beside their products"] == 0


# --- times made up ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(SPACES))
def test_it_recovers_a_machine_from_64_engines(name: str) -> None:
    seen, new = drawn(SPACES[name], 64), drawn(SPACES[name], 150, seed=9)
    model = LatencyModel(seen, noisy(seen, 0.015))
    truth = [machine_ms(x) for x in new]
    guess, _ = model(new)
    assert mape(guess, truth) < 0.04
    assert (spearman(guess.tolist(), truth) or 0) > 0.99
    counted = [flops(x, length=64) for x in new]
    scale = np.median([machine_ms(x) / flops(x, length=64) for x in seen])
    assert mape(guess, truth) < 0.4 * mape([x * scale for x in counted], truth)


def test_it_finds_the_cache_and_the_vectors() -> None:
    """Which effects it names is its own affair among alike ones, but it takes one of each kind, and they help."""
    seen, new = drawn(KD, 120), drawn(KD, 150, seed=9)
    model = LatencyModel(seen, noisy(seen, 0.01))
    assert any("weights" in x for x in model.effects)
    assert any("no multiple of" in x for x in model.effects)
    large = [x for x in new if weights(x) > 8e6]
    assert mape(model(large)[0], [machine_ms(x) for x in large]) < 0.03


def test_no_effect_is_found_where_there_is_none() -> None:
    def plain_ms(x: SubnetConfig) -> float:
        return 0.1 + float(np.dot(terms(x), [0, 0, 0.02, 0, 1e-7, 0, 0, 1e-7, 0, 1e-8, 1e-8, 1e-8]))

    seen = drawn(KD, 100)
    model = LatencyModel(seen, [plain_ms(x) for x in seen])
    new = drawn(KD, 100, seed=5)
    assert mape(model(new)[0], [plain_ms(x) for x in new]) < 0.01
    assert len(model.effects) <= 1


@pytest.mark.parametrize("name", sorted(SPACES))
def test_its_quality_is_honest(name: str) -> None:
    """The error it states of itself is about the one it makes on engines nobody showed it."""
    stated, real = [], []
    for seed in range(4):
        seen, new = drawn(SPACES[name], 64, seed=seed), drawn(SPACES[name], 100, seed=100 + seed)
        model = LatencyModel(seen, noisy(seen, 0.02, seed))
        quality = model.quality
        assert quality is not None
        assert quality.engines == 64
        assert quality.spearman > 0.97
        stated.append(quality.mape)
        real.append(mape(model(new)[0], noisy(new, 0.02, 50 + seed)))
    assert 0.7 < np.mean(stated) / np.mean(real) < 1.6


def test_quality_tells_a_good_model_from_a_hopeless_one() -> None:
    seen = drawn(KD, 64)
    good = LatencyModel(seen, noisy(seen, 0.01)).quality
    shuffled = noisy(seen, 0.01)
    Random(3).shuffle(shuffled)
    bad = LatencyModel(seen, shuffled).quality
    assert good is not None
    assert bad is not None
    assert good.mape < 0.05 < 0.5 < bad.mape
    assert bad.spearman < 0.5
    assert str(good).startswith("64 engines, held-out error ")
    few = drawn(KD, LEAST_ENGINES)
    assert LatencyModel(few, noisy(few, 0.01)).quality is None


def test_it_doubts_more_what_is_far_from_all_it_saw() -> None:
    narrow = SearchSpace.first_layers(
        source_layers=8,
        depths=[2, 3],
        hidden_sizes=tuple(range(256, 385, 8)),
        heads=(12,),
        head_sizes=(20, 24, 28, 32),
        ffn_sizes=tuple(range(512, 1025, 64)),
        per_layer=False,
    )
    seen = drawn(narrow, 64)
    model = LatencyModel(seen, noisy(seen, 0.02))
    far = [x for x in drawn(KD, 100, seed=3) if x.depth > 6 and x.hidden_size > 640]
    near = drawn(narrow, 100, seed=4)
    doubt = [float(np.mean(model(x)[1] / model(x)[0])) for x in (near, far)]
    assert doubt[1] > 1.5 * doubt[0]
    assert 0.005 < doubt[0] < 0.06  # of the size of the noise


def test_errors_are_of_the_size_of_the_doubt() -> None:
    seen, new = drawn(KD, 64), drawn(KD, 200, seed=2)
    guess, doubt = LatencyModel(seen, noisy(seen, 0.03))(new)
    errors = np.abs(guess - np.array([machine_ms(x) for x in new])) / doubt
    assert (errors < 2).mean() > 0.85
    assert (errors < 0.02).mean() < 0.5  # nor is it doubt without bounds


@pytest.mark.parametrize("factor", [4.0, 0.25])
def test_one_disturbed_engine_does_not_ruin_it(factor: float) -> None:
    seen, new = drawn(KD, 64), drawn(KD, 150, seed=9)
    ms, truth = noisy(seen, 0.015), [machine_ms(x) for x in new]
    clean = mape(LatencyModel(seen, ms)(new)[0], truth)
    ms[20] *= factor
    assert mape(LatencyModel(seen, ms)(new)[0], truth) < clean + 0.03


def test_it_never_guesses_that_an_engine_takes_no_time() -> None:
    large = [x for x in drawn(KD, 300) if weights(x) > 10e6]
    ms = noisy(large, 0.02)
    guess, doubt = LatencyModel(large, ms)([KD.smallest(), *drawn(KD, 200, seed=8)])
    assert (guess > 0).all()
    assert np.isfinite(guess).all()
    assert (doubt > 0).all()


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_slow_machines_and_fast_ones_are_learnt_alike(unit: float) -> None:
    """A batch of 32 takes a hundred times as long as one row: the model errs by the same share."""
    seen, new = drawn(KD, 64), drawn(KD, 50, seed=2)
    ms = noisy(seen, 0.02)
    guess, doubt = LatencyModel(seen, ms)(new)
    other, spread = LatencyModel(seen, [unit * x for x in ms])(new)
    assert other == pytest.approx(unit * guess, rel=1e-4)
    assert spread == pytest.approx(unit * doubt, rel=1e-3)


def test_where_layers_come_from_does_not_count() -> None:
    seen = drawn(SPACES["per-layer"], 40)
    model = LatencyModel(seen, noisy(seen, 0.01))
    some = drawn(SPACES["per-layer"], 20, seed=7)
    assert model(some)[0].tolist() == model([x.renumbered() for x in some])[0].tolist()


def test_the_same_measurements_make_the_same_model() -> None:
    seen, new = drawn(KD, 40), drawn(KD, 10, seed=2)
    first, again = (LatencyModel(seen, noisy(seen, 0.02))(new) for _ in range(2))
    assert first[0].tolist() == again[0].tolist()
    assert first[1].tolist() == again[1].tolist()


def test_one_and_many_are_guessed_alike() -> None:
    seen, new = drawn(KD, 40), drawn(KD, 10, seed=2)
    model = LatencyModel(seen, noisy(seen, 0.02))
    assert model(new)[0] == pytest.approx([float(model([x])[0][0]) for x in new])


def test_refuses_too_few_and_what_is_no_latency() -> None:
    seen = drawn(KD, LEAST_ENGINES)
    LatencyModel(seen, [1.0 + 0.1 * i for i in range(LEAST_ENGINES)])
    with pytest.raises(ValueError, match=f"{LEAST_ENGINES} measured engines or more.* got {LEAST_ENGINES - 1} and"):
        LatencyModel(seen[1:], [1.0] * (LEAST_ENGINES - 1))
    with pytest.raises(ValueError, match=f"one latency each; got {LEAST_ENGINES} and {LEAST_ENGINES + 1}"):
        LatencyModel(seen, [1.0] * (LEAST_ENGINES + 1))
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="positive numbers of ms"):
            LatencyModel(seen, [1.0] * (LEAST_ENGINES - 1) + [wrong])


# --- what a subnet costs by arithmetic --------------------------------------------------------------------------------


def test_every_term_grows_with_what_it_is_of() -> None:
    stack = SubnetConfig.uniform(hidden_size=96, depth=3, heads=4, head_size=16, ffn_size=128)
    larger = SubnetConfig.uniform(hidden_size=192, depth=4, heads=8, head_size=32, ffn_size=256, ffn_stack=2)
    assert len(terms(stack)) == len(terms(larger))
    assert terms(stack)[0] == terms(larger)[0] == 1.0
    assert all(a < b for a, b in zip(terms(stack)[1:], terms(larger)[1:], strict=True))
    assert weights(stack) == 3 * (4 * 96 * 64 + 2 * 96 * 128)


def test_a_single_layer_is_the_last_one() -> None:
    one = SubnetConfig.uniform(hidden_size=100, depth=1, heads=4, head_size=16, ffn_size=128)
    assert effects(one)["a single layer"] == 1
    assert effects(one)["hidden size no multiple of 8"] == 0  # it works for one token
    two = SubnetConfig.uniform(hidden_size=100, depth=2, heads=4, head_size=16, ffn_size=128)
    assert effects(two)["a single layer"] == 0
    assert effects(two)["hidden size no multiple of 8"] > 0
    assert LatencyModel([one, two] * 8, [0.1, 0.3] * 8)([one, two])[0] == pytest.approx([0.1, 0.3], rel=0.05)


# --- times that were measured -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engines() -> tuple[list[SubnetConfig], list[float]]:
    """80 engines and their times relative to a reference, and the conditions, in measured.json."""
    found = json.loads((Path(__file__).parent / "measured.json").read_text())["engines"]
    subnets = [
        SubnetConfig(
            hidden_size=x["hidden_size"],
            layers=tuple(
                LayerConfig(source=i, heads=h, head_size=d, ffn_size=f) for i, (h, d, f) in enumerate(x["layers"])
            ),
        )
        for x in found
    ]
    assert [flops(x, length=64) for x in subnets] == [x["flops"] for x in found]
    return subnets, [x["ratio"] for x in found]


def test_it_holds_on_engines_that_were_measured(engines: tuple[list[SubnetConfig], list[float]]) -> None:
    subnets, ratios = engines
    seen, new = [i for i in range(80) if i % 5], list(range(0, 80, 5))
    model = LatencyModel([subnets[i] for i in seen], [ratios[i] for i in seen])
    guess, doubt = model([subnets[i] for i in new])
    truth = np.array([ratios[i] for i in new])
    assert mape(guess, truth) < 0.06
    assert (spearman(guess.tolist(), truth.tolist()) or 0) > 0.98
    assert (np.abs(guess - truth) < 3 * doubt).mean() > 0.85
    scale = np.median([ratios[i] / flops(subnets[i], length=64) for i in seen])
    assert mape(guess, truth) < 0.6 * mape([scale * flops(subnets[i], length=64) for i in new], truth)


@pytest.mark.parametrize("part", [slice(0, 40), slice(40, 80), slice(0, 80)], ids=["alike", "per-layer", "both"])
def test_its_quality_on_engines_that_were_measured(
    engines: tuple[list[SubnetConfig], list[float]], part: slice
) -> None:
    subnets, ratios = engines
    quality = LatencyModel(subnets[part], ratios[part]).quality
    assert quality is not None
    assert quality.mape < 0.08
    assert quality.spearman > 0.98
