"""The laws of the supernet: 1 (largest = teacher), 2 (argument = slice), 4 (a batch = its rows)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification

from supernet.cells import Cell
from supernet.cost import parameters
from supernet.facts import Embedding, Head, ModelFacts
from supernet.importance import measure_importance, reorder
from supernet.model import Supernet
from supernet.names import BERT
from supernet.space import SubnetConfig
from supernet.teacher import supernet_from_bert

Make = Callable[..., Any]


@pytest.fixture
def stock(shape: SubnetConfig, facts: ModelFacts, randomise: Make) -> BertForSequenceClassification:
    config = BertConfig(
        vocab_size=facts.vocab_size,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.layers[0].heads,
        intermediate_size=shape.layers[0].ffn_size,
        max_position_embeddings=facts.max_position_embeddings,
        type_vocab_size=facts.type_vocab_size,
        layer_norm_eps=facts.layer_norm_eps,
        pad_token_id=facts.pad_token_id,
        num_labels=facts.num_labels,
    )
    model = BertForSequenceClassification(config)
    randomise(model, 5)
    return model.eval()


@pytest.fixture
def loaded(stock: BertForSequenceClassification, shape: SubnetConfig, facts: ModelFacts) -> Supernet:
    model = Supernet(shape=shape, facts=facts)
    theirs = stock.state_dict()
    model.load_state_dict({name: theirs[BERT.of(name)] for name in model.state_dict()})
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("reordered", [False, True])
@pytest.mark.parametrize("types", [False, True])
def test_law_1_the_largest_subnet_computes_what_its_teacher_computes(
    stock: Any, loaded: Supernet, make_batch: Make, types: bool, reordered: bool
) -> None:
    if reordered:
        with torch.enable_grad():
            importance = measure_importance(loaded, [(make_batch(), torch.tensor([0, 1, 2, 0]))])
        before = loaded.layers[0].query.weight.clone()
        reorder(loaded, importance)
        assert not torch.equal(before, loaded.layers[0].query.weight)
    for rows, length in ((1, 1), (5, 11), (3, loaded.facts.max_position_embeddings)):
        batch = make_batch(rows, length, seed=length, types=types)
        theirs = stock(**batch).logits
        torch.testing.assert_close(loaded(**batch).logits, theirs, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(loaded(**batch, subnet=loaded.shape).logits, theirs, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_law_1_holds_for_hidden_states_too(stock: Any, loaded: Supernet, make_batch: Make) -> None:
    batch = make_batch(3, 8)
    kept = batch["attention_mask"].bool()
    theirs = stock(**batch, output_hidden_states=True).hidden_states
    ours = loaded(**batch, hidden_states=True).hidden_states
    assert len(ours) == len(theirs) == loaded.shape.depth + 1
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine[kept], other[kept], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["tanh", "relu", "gelu"])
def test_every_pooler_in_the_whole_and_in_its_slices(
    make_supernet: Make, make_batch: Make, draw_subnet: Make, facts: ModelFacts, kind: Any
) -> None:
    model = make_supernet(facts=replace(facts, pooler_activation=kind)).double()
    batch, subnet = make_batch(), draw_subnet(3)
    first = model(**batch, hidden_states=True).hidden_states[-1][:, 0]
    activation = {"tanh": torch.tanh, "relu": torch.relu, "gelu": torch.nn.GELU()}[kind]
    torch.testing.assert_close(model(**batch).logits, model.classifier(activation(model.pooler(first))))
    torch.testing.assert_close(model.slice(subnet)(**batch).logits, model(**batch, subnet=subnet).logits)


@torch.no_grad()
@pytest.mark.parametrize("seed", range(80))
def test_law_2_the_subnet_argument_equals_the_slice(
    make_supernet: Make, make_batch: Make, draw_subnet: Make, shape: SubnetConfig, stacked: SubnetConfig, seed: int
) -> None:
    """In float64, where the order of a matrix product's sums cannot hide a wrong cut behind its rounding."""
    whole = stacked if seed % 2 else shape
    model = make_supernet(seed, shape=whole).double()
    subnet = draw_subnet(seed, whole)
    dense = model.slice(subnet)
    assert dense.shape == subnet.renumbered()
    wanted = {"hidden_states": True, "attention_scores": seed % 2 == 0}
    for types in (False, True):
        batch = make_batch(3, 1 + seed % 13, seed=seed, types=types)
        cut, alone = model(**batch, subnet=subnet, **wanted), dense(**batch, **wanted)
        assert cut.logits.dtype == torch.float64
        pairs = [(cut.logits, alone.logits)]
        pairs += zip(cut.hidden_states, alone.hidden_states, strict=True)
        pairs += zip(cut.attention_scores, alone.attention_scores, strict=True)
        for a, b in pairs:
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


HEADS: tuple[Head, ...] = ("sequence", "token", "span", "mlm")
EMBEDDINGS: tuple[Embedding, ...] = ("table", "factorised", "trigram")


def sliced(subnet: SubnetConfig, shape: SubnetConfig, slicing: str, rng: Random) -> SubnetConfig:
    """The subnet with attention cut one published way, and a cell drawn for each layer."""
    whole = shape.layers[0]
    kept = {"heads": {"head_size": whole.head_size}, "dims": {"heads": whole.heads}}.get(slicing, {})
    layers = (replace(x, cell=Cell.sample(rng), **kept) for x in subnet.layers)
    return replace(subnet, layers=tuple(layers))


@torch.no_grad()
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("slicing", ["heads", "dims", "both"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_law_2_for_every_cell_embedding_head_and_slicing(
    make_supernet: Make,
    make_batch: Make,
    draw_subnet: Make,
    facts: ModelFacts,
    stacked: SubnetConfig,
    embedding: Embedding,
    head: Head,
    slicing: str,
    seed: int,
) -> None:
    rng = Random(f"{embedding}{head}{slicing}{seed}")
    size = None if embedding == "table" else rng.randint(1, 60)
    labels = 2 if head == "span" else 3
    own = replace(facts, head=head, num_labels=labels, embedding=embedding, embedding_size=size)
    model = make_supernet(seed, shape=stacked, facts=own).double()
    subnet = sliced(draw_subnet(rng.randrange(10**6), stacked), stacked, slicing, rng)
    dense = model.slice(subnet)
    assert (dense.facts, dense.shape) == (own, subnet.renumbered())
    assert parameters(subnet, own) == sum(p.numel() for p in dense.parameters())
    batch = make_batch(3, 1 + seed * 2, seed=seed, types=seed % 2 == 0)
    wanted = {"hidden_states": True, "attention_scores": seed % 2 == 0, "projections": True}
    cut, alone = model(**batch, subnet=subnet, **wanted), dense(**batch, **wanted)
    assert cut.logits.shape == ((3, labels) if head == "sequence" else (3, 1 + seed * 2, own.num_logits))
    pairs = [(cut.logits, alone.logits), *zip(cut.hidden_states, alone.hidden_states, strict=True)]
    pairs += zip(cut.attention_scores, alone.attention_scores, strict=True)
    pairs += [pair for x in zip(cut.projections, alone.projections, strict=True) for pair in zip(*x, strict=True)]
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


@torch.no_grad()
def test_both_published_slicings_by_rows(make_supernet: Make) -> None:
    """AutoTinyBERT's two: the same numbers of heads x dims are other rows of the supernet."""
    model = make_supernet()
    by_heads = SubnetConfig.uniform(hidden_size=48, depth=1, heads=2, head_size=12, ffn_size=40)
    by_dims = SubnetConfig.uniform(hidden_size=48, depth=1, heads=4, head_size=6, ffn_size=40)
    query = model.encoder[0].query.weight
    assert torch.equal(model.slice(by_heads).encoder[0].query.weight, query[:24])
    rows = [12 * head + dim for head in range(4) for dim in range(6)]
    assert torch.equal(model.slice(by_dims).encoder[0].query.weight, query[rows])


@torch.no_grad()
def test_law_2_slices_hold_exactly_the_tensors_that_forward_uses(
    make_supernet: Make, draw_subnet: Make, stacked: SubnetConfig
) -> None:
    model = make_supernet(shape=stacked)
    for seed in range(20):
        subnet = draw_subnet(seed, stacked)
        n, dense = subnet.hidden_size, model.slice(subnet)
        assert torch.equal(dense.word_embeddings.weight, model.word_embeddings.weight[:, :n])
        for layer, cut, own in zip(dense.encoder, subnet.layers, dense.shape.layers, strict=True):
            used, held = model.encoder[cut.source].weights(n, cut), layer.weights(n, own)
            assert len(used.cells) == len(layer.cells) == cut.ffn_stack
            pairs = [*zip(used[:-1], held[:-1], strict=True)]
            pairs += [pair for cells in zip(used.cells, held.cells, strict=True) for pair in zip(*cells, strict=True)]
            assert len(pairs) == 5 + 3 * cut.ffn_stack
            assert all(torch.equal(a, b) for x, y in pairs for a, b in zip(x, y, strict=True))
            # the cut of whole heads, written out: the first dims of each of the first heads
            whole = model.shape.layers[cut.source]
            rows = [h * whole.head_size + d for h in range(cut.heads) for d in range(cut.head_size)]
            source = model.encoder[cut.source]
            for name in ("query", "key", "value"):
                assert torch.equal(getattr(layer, name).weight, getattr(source, name).weight[rows][:, :n])
                assert torch.equal(getattr(layer, name).bias, getattr(source, name).bias[rows])
            assert torch.equal(layer.attention_output.weight, source.attention_output.weight[:n][:, rows])
            for cell, other in zip(layer.cells, source.cells, strict=False):  # the first cells, and of each the first
                assert torch.equal(cell.intermediate.weight, other.intermediate.weight[: cut.ffn_size, :n])
                assert torch.equal(cell.output.weight, other.output.weight[:n, : cut.ffn_size])
                assert torch.equal(cell.output_norm.weight, other.output_norm.weight[:n])


@torch.no_grad()
def test_a_slice_of_a_slice_is_a_slice(make_supernet: Make, make_batch: Make) -> None:
    model = make_supernet()
    middle = SubnetConfig.uniform(hidden_size=32, depth=3, heads=3, head_size=8, ffn_size=30, sources=[0, 2, 3])
    final = SubnetConfig.uniform(hidden_size=20, depth=1, heads=2, head_size=5, ffn_size=7, sources=[2])
    direct = SubnetConfig.uniform(hidden_size=20, depth=1, heads=2, head_size=5, ffn_size=7, sources=[3])
    twice, once = model.slice(middle).slice(final).state_dict(), model.slice(direct).state_dict()
    assert all(torch.equal(twice[name], once[name]) for name in once)


class PlainCell(nn.Module):
    """A feed-forward cell as anyone would write it, of fixed sizes."""

    def __init__(self, n: int, neurons: int, eps: float) -> None:
        super().__init__()
        self.grow, self.act, self.shrink = nn.Linear(n, neurons), nn.GELU(), nn.Linear(neurons, n)
        self.norm = nn.LayerNorm(n, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.norm(x + self.shrink(self.act(self.grow(x))))
        return answer


@torch.no_grad()
@pytest.mark.parametrize("kept", [1, 2, 4])
def test_stacked_cells_are_plain_cells_one_after_the_other(
    make_supernet: Make, make_batch: Make, stacked: SubnetConfig, kept: int
) -> None:
    """A layer of k cells is the layer of one cell, then k - 1 plain modules holding the first rows of the others."""
    model, batch = make_supernet(shape=stacked), make_batch(3, 7)
    sizes = {"hidden_size": 30, "depth": 1, "heads": 3, "head_size": 7, "ffn_size": 21, "sources": [3]}
    one, many = (
        model(**batch, subnet=SubnetConfig.uniform(**sizes, ffn_stack=k), hidden_states=True).hidden_states[-1]
        for k in (1, kept)
    )
    for cell in list(model.layers[3].cells)[1:kept]:
        plain = PlainCell(30, 21, model.facts.layer_norm_eps)
        pairs = ((plain.grow, cell.intermediate), (plain.shrink, cell.output), (plain.norm, cell.output_norm))
        for mine, its in pairs:
            rows = mine.weight.shape
            mine.weight.copy_(its.weight[tuple(slice(size) for size in rows)])
            mine.bias.copy_(its.bias[: rows[0]])
        one = plain(one)
    torch.testing.assert_close(many, one, rtol=1e-5, atol=1e-6)


def test_a_teachers_supernet_has_one_cell_a_layer(stock: Any) -> None:
    model = supernet_from_bert(stock)
    assert [len(layer.cells) for layer in model.encoder] == [1] * 4
    two = SubnetConfig.uniform(hidden_size=48, depth=4, heads=4, ffn_size=40, ffn_stack=2)
    with pytest.raises(ValueError, match="does not fit"):
        model.slice(two)


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
def test_a_slice_is_a_copy_in_the_mode_of_its_supernet(make_supernet: Make, training: bool) -> None:
    model = make_supernet().train(training)
    before = copy.deepcopy(model.state_dict())
    dense = model.slice(model.shape)
    assert dense.training is training
    assert all(p.requires_grad for p in dense.parameters())
    for parameter in dense.parameters():
        parameter.zero_()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


@torch.no_grad()
@pytest.mark.parametrize("seed", range(5))
def test_law_4_a_batch_answers_what_its_rows_answer_alone(
    make_supernet: Make, make_batch: Make, draw_subnet: Make, seed: int
) -> None:
    model, subnet = make_supernet(seed), draw_subnet(seed)
    batch = make_batch(6, 12, seed=seed)
    together = model(**batch, subnet=subnet).logits
    for row in range(6):
        length = int(batch["attention_mask"][row].sum())
        for width in (length, 12, 20):  # without any padding, as in the batch, and with more of it
            alone = {
                name: functional.pad(ids[row : row + 1, : min(width, 12)], (0, max(0, width - 12)))
                for name, ids in batch.items()
            }
            torch.testing.assert_close(model(**alone, subnet=subnet).logits[0], together[row], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_what_stands_in_the_padding_does_not_matter(make_supernet: Make, make_batch: Make) -> None:
    model, batch = make_supernet(), make_batch(4, 10)
    hidden = batch["attention_mask"] == 0
    assert hidden.any()
    other = dict(batch, input_ids=torch.where(hidden, 77, batch["input_ids"]))
    other["token_type_ids"] = torch.where(hidden, 1, batch["token_type_ids"])
    torch.testing.assert_close(model(**batch).logits, model(**other).logits, rtol=1e-5, atol=1e-6)
    seen = dict(other, attention_mask=torch.ones_like(hidden).long())
    assert not torch.allclose(model(**batch).logits, model(**seen).logits, atol=1e-3)


@torch.no_grad()
def test_no_token_types_means_the_first_segment(make_supernet: Make, make_batch: Make) -> None:
    model, batch = make_supernet(), make_batch(types=False)
    first = torch.zeros_like(batch["input_ids"])
    torch.testing.assert_close(model(**batch).logits, model(**batch, token_type_ids=first).logits)
    second = model(**batch, token_type_ids=first + 1).logits
    assert not torch.allclose(model(**batch).logits, second, atol=1e-3)


@torch.no_grad()
def test_asking_for_scores_changes_no_answer_and_gives_what_softmax_is_taken_of(
    make_supernet: Make, make_batch: Make, draw_subnet: Make
) -> None:
    model, batch = make_supernet(), make_batch(4, 10)
    for seed in range(6):
        subnet = draw_subnet(seed)
        plain, asked = model(**batch, subnet=subnet), model(**batch, subnet=subnet, attention_scores=True)
        torch.testing.assert_close(plain.logits, asked.logits, rtol=1e-4, atol=1e-5)
        assert plain.attention_scores == plain.hidden_states == asked.hidden_states == ()
        shapes = [tuple(x.shape) for x in asked.attention_scores]
        assert shapes == [(4, layer.heads, 10, 10) for layer in subnet.layers]
    # by hand, for the first layer of one subnet
    subnet = SubnetConfig.uniform(hidden_size=20, depth=1, heads=2, head_size=5, ffn_size=7, sources=[2])
    output = model(**batch, subnet=subnet, attention_scores=True, hidden_states=True)
    weights = model.encoder[2].weights(20, subnet.layers[0])
    query, key = (functional.linear(output.hidden_states[0], *w) for w in (weights.query, weights.key))
    by_hand = query[1, 3, 5:10] @ key[1, 4, 5:10] / 5**0.5
    torch.testing.assert_close(output.attention_scores[0][1, 1, 3, 4], by_hand)


def test_gradients_reach_exactly_what_a_subnet_uses(
    make_supernet: Make, make_batch: Make, stacked: SubnetConfig
) -> None:
    model = make_supernet(shape=stacked)
    subnet = SubnetConfig.uniform(hidden_size=30, depth=2, heads=3, head_size=7, ffn_size=21, sources=[1, 3])
    model(**make_batch(), subnet=subnet).logits.square().sum().backward()
    for i in (0, 2):
        assert all(p.grad is None for p in model.layers[i].parameters())
    for i in (1, 3):
        used, *unused = model.layers[i].cells
        assert all(p.grad is None for cell in unused for p in cell.parameters())
        neurons = used.intermediate.weight.grad
        assert neurons[:21, :30].abs().min() > 0
        assert neurons[21:].abs().max() == neurons[:, 30:].abs().max() == 0
        value = model.layers[i].value.weight.grad.view(4, 12, 48)
        assert value[:3, :7, :30].abs().min() > 0
        assert value[3:].abs().max() == value[:, 7:].abs().max() == value[:, :, 30:].abs().max() == 0
    assert model.word_embeddings.weight.grad[:, 30:].abs().max() == 0


@torch.no_grad()
def test_bfloat16_autocast_survives_padding(make_supernet: Make, make_batch: Make) -> None:
    """float32's least number rounds to -inf in bfloat16; a row must not become NaN by it."""
    model, batch = make_supernet(), make_batch(4, 10)
    exact = model(**batch).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for scores in (False, True):
            rounded = model(**batch, attention_scores=scores).logits
            torch.testing.assert_close(rounded.float(), exact, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden_size": 49},
        {"heads": 5},
        {"head_size": 13},
        {"ffn_size": 41},
        {"ffn_stack": 2},
        {"depth": 2, "sources": [1, 4]},
    ],
)
def test_a_subnet_that_does_not_fit_is_refused(make_supernet: Make, make_batch: Make, wrong: dict[str, Any]) -> None:
    model = make_supernet()
    subnet = SubnetConfig.uniform(
        **({"hidden_size": 48, "depth": 2, "heads": 4, "head_size": 12, "ffn_size": 40} | wrong)
    )
    with pytest.raises(ValueError, match="does not fit"):
        model(**make_batch(), subnet=subnet)
    with pytest.raises(ValueError, match="does not fit"):
        model.slice(subnet)


def test_a_text_longer_than_the_position_table_is_refused(make_supernet: Make, make_batch: Make) -> None:
    with pytest.raises(ValueError, match=r"25 tokens.*24"):
        make_supernet()(**make_batch(2, 25))


def test_a_supernet_numbers_its_own_layers(facts: ModelFacts) -> None:
    shape = SubnetConfig.uniform(hidden_size=8, depth=2, heads=2, ffn_size=8, sources=[0, 2])
    with pytest.raises(ValueError, match=r"\[0, 2\]"):
        Supernet(shape=shape, facts=facts)
