from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from supernet.cells import Cell
from supernet.facts import ModelFacts
from supernet.importance import Importance, Measure, kept_layers, measure_importance, reorder
from supernet.model import Supernet
from supernet.space import SubnetConfig

Make = Callable[..., Any]
Calibration = list[tuple[dict[str, Tensor], Tensor]]
EACH = pytest.mark.parametrize("by", ["taylor", "activation"])


@pytest.fixture
def model(make_supernet: Make) -> Supernet:
    found: Supernet = make_supernet()
    return found


@pytest.fixture
def stacked_model(make_supernet: Make, stacked: SubnetConfig) -> Supernet:
    found: Supernet = make_supernet(shape=stacked)
    return found


@pytest.fixture(scope="module")
def calibration(make_batch: Make) -> Calibration:
    return [(make_batch(8, 9, seed=i), torch.arange(8) % 3) for i in range(3)]


def random_importance(model: Supernet, seed: int = 0) -> Importance:
    rng = torch.Generator().manual_seed(seed)
    heads, size = model.encoder[0].whole.heads, model.encoder[0].whole.head_size

    def each(*shape: int) -> tuple[Tensor, ...]:
        return tuple(torch.rand(shape, generator=rng) for _ in model.encoder)

    return Importance(
        hidden=torch.rand(model.shape.hidden_size, generator=rng),
        heads=each(heads),
        neurons=tuple(torch.rand((len(layer.cells), 40), generator=rng) for layer in model.encoder),
        score_dims=each(heads, size),
        value_dims=each(heads, size),
        layers=torch.rand(len(model.encoder), generator=rng),
    )


def norms(model: Supernet) -> list[nn.LayerNorm]:
    return [m for m in model.modules() if isinstance(m, nn.LayerNorm)]


@torch.no_grad()
@pytest.mark.parametrize("seed", range(5))
def test_any_reordering_keeps_the_function(stacked_model: Supernet, make_batch: Make, seed: int) -> None:
    model, batch = stacked_model, make_batch(5, 11)
    before, weights = model(**batch).logits, copy.deepcopy(model.state_dict())
    reorder(model, random_importance(model, seed))
    torch.testing.assert_close(model(**batch).logits, before, rtol=1e-4, atol=1e-5)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight.flatten().sort().values, weights[name].flatten().sort().values)
        assert name == "classifier.bias" or not torch.equal(weight, weights[name])


@torch.no_grad()
def test_a_cut_after_reordering_is_the_cut_of_the_chosen_groups(stacked_model: Supernet) -> None:
    """The first neurons, heads and dims of the reordered model are the best ones of the old, by index."""
    model = stacked_model
    importance, old = random_importance(model), copy.deepcopy(model)
    reorder(model, importance)
    n = importance.hidden.argsort(descending=True)
    for i, (layer, was) in enumerate(zip(model.encoder, old.encoder, strict=True)):
        for scores, cell, before in zip(importance.neurons[i], layer.cells, was.cells, strict=True):
            best = scores.argmax()
            assert torch.equal(cell.intermediate.weight[0], before.intermediate.weight[best][n])
            assert torch.equal(cell.intermediate.bias[0], before.intermediate.bias[best])
            assert torch.equal(cell.output.weight[:, 0], before.output.weight[n, best])
        head = importance.heads[i].argmax()
        score_row = head * 12 + importance.score_dims[i][head].argmax()
        value_row = head * 12 + importance.value_dims[i][head].argmax()
        assert torch.equal(layer.query.weight[0], was.query.weight[score_row][n])
        assert torch.equal(layer.key.weight[0], was.key.weight[score_row][n])
        assert torch.equal(layer.value.weight[0], was.value.weight[value_row][n])
        assert torch.equal(layer.attention_output.weight[:, 0], was.attention_output.weight[n, value_row])


@EACH
def test_measured_again_the_scores_descend(stacked_model: Supernet, calibration: Calibration, by: Measure) -> None:
    """Heads, dims within each head and neurons are told apart from one another and all put in their order."""
    model = stacked_model
    before = measure_importance(model, calibration, by=by)
    reorder(model, before)
    after = measure_importance(model, calibration, by=by)
    torch.testing.assert_close(after.layers, before.layers, rtol=1e-3, atol=1e-5)  # layers stay where they are
    for field in fields(Importance):
        if field.name == "layers":
            continue
        old, new = getattr(before, field.name), getattr(after, field.name)
        for x, y in zip(*((v,) if isinstance(v, Tensor) else v for v in (old, new)), strict=True):
            assert (x.diff() > 0).any()
            assert y.diff(dim=-1).max() <= 1e-4 * y.max()
            assert torch.allclose(x.flatten().sort().values, y.flatten().sort().values, rtol=1e-3, atol=1e-5)


@EACH
def test_scores_are_summed_over_batches(model: Supernet, calibration: Calibration, by: Measure) -> None:
    whole = measure_importance(model, calibration, by=by)
    parts = [measure_importance(model, [one], by=by) for one in calibration]
    torch.testing.assert_close(whole.hidden, sum(p.hidden for p in parts))
    torch.testing.assert_close(whole.layers, sum(p.layers for p in parts))
    for i in range(4):
        for name in ("heads", "neurons", "score_dims", "value_dims"):
            torch.testing.assert_close(getattr(whole, name)[i], sum(getattr(p, name)[i] for p in parts))


@EACH
def test_the_model_is_left_as_it_was(model: Supernet, calibration: Calibration, by: Measure) -> None:
    model.train()
    model.word_embeddings.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    measure_importance(model, calibration, by=by)
    assert model.training
    assert not model.word_embeddings.weight.requires_grad
    assert model.pooler.weight.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="at least one calibration batch"):
        measure_importance(model, [], by=by)
    assert model.training
    assert not model.word_embeddings.weight.requires_grad


def test_padding_does_not_count(model: Supernet, calibration: Calibration) -> None:
    inputs, labels = calibration[0]
    wider = {name: torch.nn.functional.pad(ids, (0, 6)) for name, ids in inputs.items()}
    for by in get_args(Measure):
        plain, padded = (measure_importance(model, [(x, labels)], by=by) for x in (inputs, wider))
        for field in fields(Importance):
            pair = (getattr(plain, field.name), getattr(padded, field.name))
            for x, y in zip(*((v,) if isinstance(v, Tensor) else v for v in pair), strict=True):
                torch.testing.assert_close(x, y, rtol=2e-3, atol=1e-5)


def test_an_unknown_measure_is_refused(model: Supernet, calibration: Calibration) -> None:
    with pytest.raises(ValueError, match="measured by taylor, activation; got 'magnitude'"):
        measure_importance(model, calibration, by="magnitude")  # type: ignore[arg-type]


@torch.no_grad()
@EACH
def test_a_layer_that_does_nothing_is_the_first_to_go(model: Supernet, calibration: Calibration, by: Measure) -> None:
    """Its residual branches add nothing, and what comes in is normalised already."""
    for module in (model.layers[1].attention_output, model.layers[1].cells[0].output):
        module.weight.zero_()
        module.bias.zero_()
    for norm in (
        model.layers[0].cells[0].output_norm,
        model.layers[1].attention_norm,
        model.layers[1].cells[0].output_norm,
    ):
        norm.weight.fill_(1.0)
        norm.bias.zero_()
    with torch.enable_grad():
        importance = measure_importance(model, calibration, by=by)
    assert importance.layers[1] < 1e-3 * importance.layers.max()
    assert kept_layers(importance.layers, 3) == (0, 2, 3)


def test_the_most_important_layers_stay_in_their_order() -> None:
    scores = torch.tensor([0.5, 0.1, 3.0, 0.5])
    assert [kept_layers(scores, depth) for depth in (1, 2, 3, 4)] == [(2,), (0, 2), (0, 2, 3), (0, 1, 2, 3)]


CELLS = (
    "linear2(relu(linear1(x)))",
    "add(linear2(relu(linear1(x))), tanh(x))",
    "max(x, linear2(swish(linear1(sigmoid(x)))))",
)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("head", ["sequence", "token", "span", "mlm"])
@pytest.mark.parametrize("embedding", ["table", "trigram"])
@EACH
def test_any_cell_head_and_embedding_keeps_its_function(
    make_supernet: Make, make_batch: Make, stacked: SubnetConfig, cell: str, head: Any, embedding: Any, by: Measure
) -> None:
    shape = replace(stacked, layers=tuple(replace(x, cell=Cell.parse(cell)) for x in stacked.layers))
    facts = ModelFacts(
        vocab_size=100, max_position_embeddings=24, num_labels=2, head=head, embedding=embedding,
        embedding_size=None if embedding == "table" else 20,
    )  # fmt: skip
    model, batch = make_supernet(shape=shape, facts=facts), make_batch(5, 11)
    labels = {"sequence": torch.arange(5) % 2, "span": torch.zeros(5, 2, dtype=torch.long)}
    known = labels.get(head, torch.arange(55).view(5, 11) % 2)
    with torch.no_grad():
        before = model(**batch).logits
    importance = measure_importance(model, [(batch, known)], by=by)
    assert all(x.min() >= 0 and x.max() > 0 for x in importance.neurons)
    reorder(model, importance)
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, before, rtol=1e-3, atol=1e-4)


def test_a_cell_that_ties_neurons_to_hidden_dims_is_refused(make_supernet: Make, shape: SubnetConfig) -> None:
    tied = Cell.parse("linear2(relu(mul(cut(x), linear1(x))))")
    model = make_supernet(shape=replace(shape, layers=tuple(replace(x, cell=tied) for x in shape.layers)))
    with pytest.raises(ValueError, match="ties neurons to hidden dims"):
        reorder(model, random_importance(model))


def test_a_regression_head_can_be_ordered_too(make_supernet: Make, make_batch: Make) -> None:
    facts = ModelFacts(vocab_size=100, max_position_embeddings=24, num_labels=1)
    importance = measure_importance(make_supernet(facts=facts), [(make_batch(4), torch.rand(4))])
    assert importance.hidden.min() > 0


@torch.no_grad()
@EACH
def test_what_is_useless_goes_last(model: Supernet, calibration: Calibration, by: Measure) -> None:
    marked = 7.0  # found again after the move by a value of its own where it changes nothing
    for i, layer in enumerate(model.encoder):
        layer.attention_output.weight.view(48, 4, 12)[:, i] = 0
        layer.value.bias.view(4, 12)[i] = marked
        layer.cells[0].output.weight[:, 5 + i] = 0
        layer.cells[0].intermediate.bias[5 + i] = marked
        layer.attention_output.weight.view(48, 4, 12)[:, (i + 1) % 4, 2 * i] = 0
        layer.value.bias.view(4, 12)[(i + 1) % 4, 2 * i] = 2 * marked
        layer.query.weight.view(4, 12, 48)[:, 3 + i] = 0
        layer.query.bias.view(4, 12)[:, 3 + i] = 0
        layer.key.bias.view(4, 12)[:, 3 + i] = marked
    for norm in norms(model):
        norm.weight[11] = norm.bias[11] = 0
    model.position_embeddings.weight[:, 11] = marked
    with torch.enable_grad():
        importance = measure_importance(model, calibration, by=by)
    assert importance.hidden[11] == 0
    reorder(model, importance)
    assert torch.equal(model.position_embeddings.weight[:, -1], torch.full((24,), marked))
    for layer in model.encoder:
        assert torch.equal(layer.value.bias.view(4, 12)[-1], torch.full((12,), marked))
        assert layer.cells[0].intermediate.bias[-1] == marked
        assert torch.equal(layer.key.bias.view(4, 12)[:-1, -1], torch.full((3,), marked))
        # the useless dim of a useful head is the last of its head, not of the layer
        assert (layer.value.bias.view(4, 12)[:-1, -1] == 2 * marked).sum() == 1


@torch.no_grad()
@EACH
def test_what_is_essential_goes_first(model: Supernet, calibration: Calibration, by: Measure) -> None:
    """Everything else is made a hundredth of what it was, in weights that no LayerNorm scales back up."""
    for i, layer in enumerate(model.encoder):
        essential = layer.attention_output.weight.view(48, 4, 12)[:, i].clone()
        layer.attention_output.weight *= 0.01
        layer.attention_output.weight.view(48, 4, 12)[:, i] = essential
        layer.value.bias.view(4, 12)[i] = 3.0
        neuron = layer.cells[0].output.weight[:, 5 + i].clone()
        layer.cells[0].output.weight *= 0.01
        layer.cells[0].output.weight[:, 5 + i] = 3 * neuron
        layer.cells[0].intermediate.bias[5 + i] = 5.0
    for norm in norms(model):
        norm.weight *= 0.01
        norm.bias *= 0.01
        norm.weight[11] = 2.0
    marked = model.position_embeddings.weight[:, 11].clone()
    with torch.enable_grad():
        importance = measure_importance(model, calibration, by=by)
    reorder(model, importance)
    assert torch.equal(model.position_embeddings.weight[:, 0], marked)
    for layer in model.encoder:
        assert (layer.value.bias.view(4, 12)[0] == 3.0).all()
        assert layer.cells[0].intermediate.bias[0] == 5.0


@torch.no_grad()
@EACH
def test_an_ordered_cut_keeps_more_of_the_answer_than_an_unordered_one(
    model: Supernet, make_batch: Make, by: Measure
) -> None:
    """Heads, neurons and hidden dims are given strengths from 1 down to 0.01, in an order that hides them."""
    rng = torch.Generator().manual_seed(4)

    def strengths(count: int) -> Tensor:
        return torch.logspace(0, -2, count)[torch.randperm(count, generator=rng)]

    hidden = strengths(48)
    for layer in model.encoder:
        layer.attention_output.weight *= strengths(4).repeat_interleave(12) * hidden[:, None]
        layer.cells[0].output.weight *= strengths(40) * hidden[:, None]
    for norm in norms(model):
        norm.weight *= hidden
        norm.bias *= hidden
    for table in (model.word_embeddings, model.position_embeddings, model.token_type_embeddings):
        table.weight *= hidden
    inputs = [make_batch(16, 9, seed=100 + i) for i in range(4)]
    with torch.enable_grad():
        batches = [(x, torch.arange(16) % 3) for x in inputs]
        importance = measure_importance(model, batches, by=by)
    ordered = copy.deepcopy(model)
    reorder(ordered, importance)
    unseen = make_batch(64, 9, seed=999)
    whole = model(**unseen).logits

    def lost(net: Supernet, **sizes: int) -> float:
        uniform = {"hidden_size": 48, "heads": 4, "head_size": 12, "ffn_size": 40} | sizes
        cut = net(**unseen, subnet=SubnetConfig.uniform(depth=4, **uniform)).logits
        return (cut - whole).square().mean().item()

    every = {"heads": 2, "ffn_size": 20, "hidden_size": 36}
    for sizes in ({"heads": 2}, {"ffn_size": 10}, {"hidden_size": 36}, {"head_size": 6}, every):
        assert lost(ordered, **sizes) < 0.5 * lost(model, **sizes), sizes


def test_importance_of_spans_is_of_their_loss(model: Supernet, make_batch: Make) -> None:
    """The same scores however wide a batch is padded; other spans give others."""
    net = model.with_head("span", seed=1)
    batch = make_batch(6, 9, seed=2)
    spans = torch.tensor([[1, 2], [0, 0], [3, 3], [1, 1], [0, 1], [0, 0]]).clamp(max=2)
    wider = {name: torch.nn.functional.pad(x, (0, 4)) for name, x in batch.items()}
    one, padded, other = (
        measure_importance(net, [(inputs, labels)])
        for inputs, labels in ((batch, spans), (wider, spans), (batch, spans.flip(0)))
    )
    torch.testing.assert_close(one.hidden, padded.hidden, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(one.layers, padded.layers, rtol=1e-3, atol=1e-6)
    assert not torch.allclose(one.hidden, other.hidden, rtol=1e-3)
