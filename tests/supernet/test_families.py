"""Every family: the same answer as `transformers`' own class, the way there and back, and what is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from supernet.errors import TeacherError
from supernet.facts import Head, ModelFacts
from supernet.families import (
    FAMILIES,
    facts_of,
    family_of,
    mlm_head_of,
    shape_of,
    stock_settings,
    stock_weights,
    supernet_of,
)
from supernet.heads import head_axes
from supernet.model import Supernet
from supernet.space import SubnetConfig

Randomise = Callable[..., None]
SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 18,
    "num_labels": 3,
}
DISTILBERT: dict[str, Any] = {
    "vocab_size": 60,
    "dim": 24,
    "n_layers": 2,
    "n_heads": 3,
    "hidden_dim": 20,
    "max_position_embeddings": 18,
    "num_labels": 3,
}
EACH = ("bert", "distilbert", "roberta", "xlm-roberta", "camembert", "electra")


def config_of(family: str, **changes: Any) -> Any:
    sizes = DISTILBERT if family == "distilbert" else SIZES
    more = {"electra": {"embedding_size": 24}, "roberta": {"type_vocab_size": 1, "layer_norm_eps": 1e-5}}
    return AutoConfig.for_model(family, **(sizes | more.get(family, {}) | changes))


@pytest.fixture
def make(randomise: Randomise) -> Callable[..., Any]:
    """A classifier of a family with every parameter random, rows that no position reads included."""

    def build(family: str, **changes: Any) -> Any:
        model = AutoModelForSequenceClassification.from_config(config_of(family, **changes)).eval()
        randomise(model, seed=3)
        return model

    return build


def texts(config: Any, *, rows: int = 5, length: int = 11, types: bool = False) -> dict[str, Tensor]:
    """Texts of several lengths, padded on the right as the family pads; the pad token is in none of them."""
    rng = torch.Generator().manual_seed(length)
    lengths = torch.randint(1, length + 1, (rows,), generator=rng)
    lengths[0] = length
    mask = (torch.arange(length)[None] < lengths[:, None]).long()
    ids = torch.randint(2, config.vocab_size, (rows, length), generator=rng)
    batch = {"input_ids": torch.where(mask == 1, ids, config.pad_token_id), "attention_mask": mask}
    if types:
        batch["token_type_ids"] = torch.randint(0, 2, (rows, length), generator=rng) * mask
    return batch


def net_of(model: Any) -> Supernet:
    return supernet_of(model.config, model.state_dict(), where="here")


def test_the_table_is_what_is_tested() -> None:
    assert tuple(FAMILIES) == EACH


@torch.no_grad()
@pytest.mark.parametrize("family", EACH)
def test_law_1_for_every_family(make: Callable[..., Any], family: str) -> None:
    model = make(family)
    net = net_of(model).double()
    model = model.double()
    for rows, length in ((1, 1), (5, 11), (3, net.facts.max_position_embeddings)):
        batch = texts(model.config, rows=rows, length=length)
        wanted = model(**batch).logits
        assert wanted.std() > 0.1
        assert (net(**batch).logits - wanted).abs().max() < 1e-9
    assert not net.training


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "electra"])
def test_law_1_with_two_segments(make: Callable[..., Any], family: str) -> None:
    model = make(family).double()
    batch = texts(model.config, types=True)
    plain = {k: v for k, v in batch.items() if k != "token_type_ids"}
    net = net_of(model).double()
    wanted = model(**batch).logits
    assert (net(**batch).logits - wanted).abs().max() < 1e-9
    assert (net(**plain).logits - wanted).abs().max() > 1e-3


@torch.no_grad()
def test_another_padding_token_moves_roberta_s_positions(make: Callable[..., Any]) -> None:
    model = make("roberta", pad_token_id=4).double()
    net = net_of(model).double()
    assert net.facts.max_position_embeddings == 18 - 5
    batch = texts(model.config)
    batch["input_ids"] = torch.where((batch["input_ids"] == 4) & (batch["attention_mask"] == 1), 7, batch["input_ids"])
    assert (net(**batch).logits - model(**batch).logits).abs().max() < 1e-9


@torch.no_grad()
@pytest.mark.parametrize("family", EACH)
def test_there_and_back(make: Callable[..., Any], family: str) -> None:
    """A network goes into its family's class, and every weight of that class comes from it."""
    model = make(family)
    net = net_of(model)
    settings = stock_settings(net, FAMILIES[family])
    assert settings is not None
    again = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(family, **settings, num_labels=3))
    again.load_state_dict(stock_weights(net, FAMILIES[family]))
    batch = texts(model.config)
    assert torch.equal(again.eval()(**batch).logits, model(**batch).logits)
    back = net_of(again)
    assert (back.facts, back.shape) == (net.facts, net.shape)
    assert all(torch.equal(tensor, back.state_dict()[name]) for name, tensor in net.state_dict().items())


@torch.no_grad()
def test_token_types_learnt_by_a_student_of_distilbert_are_kept(make: Callable[..., Any]) -> None:
    """The row that stands for no token types is a weight like any other while a supernet is trained."""
    net = net_of(make("distilbert"))
    net.token_type_embeddings.weight.copy_(torch.randn(1, 24))
    settings = stock_settings(net, FAMILIES["distilbert"])
    assert settings is not None
    stock = AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model("distilbert", **settings, num_labels=3)
    ).eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    stock.load_state_dict(stock_weights(net, FAMILIES["distilbert"]))
    batch = texts(stock.config)
    assert (stock(**batch).logits - net(**batch).logits).abs().max() < 1e-5
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_what_a_family_cannot_express(make: Callable[..., Any]) -> None:
    bert, distilbert = net_of(make("bert")), net_of(make("distilbert"))
    assert stock_settings(distilbert, FAMILIES["bert"]) is None
    assert stock_settings(bert, FAMILIES["distilbert"]) is None
    assert stock_settings(net_of(make("roberta")), FAMILIES["bert"]) is not None
    cut = SubnetConfig.uniform(hidden_size=20, depth=1, heads=3, head_size=8, ffn_size=20)
    for name, net in (("bert", bert), ("distilbert", distilbert)):
        assert stock_settings(net.slice(cut), FAMILIES[name]) is None


def test_the_supernet_owns_its_weights(make: Callable[..., Any]) -> None:
    model = make("bert")
    net = net_of(model)
    with torch.no_grad():
        model.classifier.weight.zero_()
    assert net.classifier.weight.abs().sum() > 0
    assert all(x.requires_grad for x in net.parameters())


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "albert", "deberta-v2", "mpnet", "xlm-roberta-xl", "modernbert"])
def test_another_architecture_is_named_with_those_that_are_supported(kind: str) -> None:
    with pytest.raises(TeacherError, match=rf"'x/y' has model_type = '{kind}', .* bert, distilbert, roberta, xlm-rob"):
        family_of(AutoConfig.for_model(kind), where="x/y")


@pytest.mark.parametrize(
    ("family", "change", "told"),
    [
        ("bert", {"hidden_act": "relu"}, "hidden_act = 'relu', but only 'gelu' is supported in bert"),
        ("roberta", {"hidden_act": "gelu_new"}, "hidden_act = 'gelu_new'"),
        ("distilbert", {"activation": "relu"}, "activation = 'relu', but only 'gelu' is supported in distilbert"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type = 'relative_key'"),
        ("bert", {"is_decoder": True}, "is_decoder = True"),
        ("roberta", {"add_cross_attention": True}, "add_cross_attention = True"),
        ("electra", {"embedding_size": 16}, "embedding_size = 16, but only 24"),
        ("bert", {"problem_type": "multi_label_classification"}, "answers 3 questions at once"),
        ("bert", {"problem_type": "regression"}, "answers 3 questions at once"),
        ("roberta", {"max_position_embeddings": 2}, "max_position_embeddings must be positive, got 0"),
        ("bert", {"pad_token_id": 60}, "pad_token_id must be one of the 60 words, got 60"),
    ],
)
def test_variants_that_would_compute_something_else(family: str, change: dict[str, Any], told: str) -> None:
    config = config_of(family, **change)
    with pytest.raises(TeacherError, match=told):
        facts_of(config)
    with pytest.raises(TeacherError, match=told):
        supernet_of(config, {}, where="here")


@pytest.mark.parametrize("family", EACH)
class TestWeights:
    def test_any_that_is_missing_is_named(self, make: Callable[..., Any], family: str) -> None:
        model = make(family)
        state = model.state_dict()
        for name in (next(iter(state)), list(state)[7], list(state)[-1]):
            less = {k: v for k, v in state.items() if k != name}
            with pytest.raises(TeacherError, match=f"'here' lacks 1 of its .* weights: {name}. Supported is a whole"):
                supernet_of(model.config, less, where="here")

    def test_a_layer_more_than_the_configuration_says(self, make: Callable[..., Any], family: str) -> None:
        """`transformers` drops the layer with a warning and answers something else."""
        state = make(family).state_dict()
        one = config_of(family, **{"n_layers" if family == "distilbert" else "num_hidden_layers": 1})
        with pytest.raises(TeacherError, match=r"has 16 weights that its configuration does not speak of, such as"):
            supernet_of(one, state, where="here")

    def test_heads_of_other_tasks_and_old_buffers_are_left(self, make: Callable[..., Any], family: str) -> None:
        model = make(family)
        body = FAMILIES[family].names.body
        state = model.state_dict() | {
            f"{body}embeddings.position_ids": torch.arange(18)[None],
            "cls.predictions.bias": torch.zeros(60),
            "lm_head.bias": torch.zeros(60),
            "vocab_projector.weight": torch.zeros(60, 24),
        }
        assert shape_of(model.config) == supernet_of(model.config, state, where="here").shape
        for strange in (f"{body}adapter.weight", "classifier.extra.weight", "score.weight"):
            with pytest.raises(TeacherError, match=f"1 weights .* such as {strange}: what they do"):
                supernet_of(model.config, state | {strange: torch.zeros(2)}, where="here")

    def test_values_and_shapes(self, make: Callable[..., Any], family: str) -> None:
        model = make(family)
        state = model.state_dict()
        name = FAMILIES[family].names.of("layers.1.cells.0.intermediate.weight")
        for bad in (float("nan"), float("inf")):
            with pytest.raises(TeacherError, match=f"its weight {name} holds values that are not finite"):
                supernet_of(model.config, state | {name: torch.full((20, 24), bad)}, where="here")
        with pytest.raises(TeacherError, match=rf"{name} is torch.float32 \[24, 20\], .* floating point \[20, 24\]"):
            supernet_of(model.config, state | {name: torch.zeros(24, 20)}, where="here")
        with pytest.raises(TeacherError, match=rf"{name} is torch.int8 \[20, 24\]"):
            supernet_of(model.config, state | {name: torch.zeros(20, 24, dtype=torch.int8)}, where="here")


def test_roberta_s_unused_pooler_is_left(make: Callable[..., Any]) -> None:
    """Older versions of `transformers` saved it in every classifier."""
    model = make("roberta")
    state = model.state_dict() | {"roberta.pooler.dense.weight": torch.zeros(24, 24)}
    assert supernet_of(model.config, state, where="here").shape.depth == 2


def test_layer_norms_named_as_in_tensorflow(make: Callable[..., Any]) -> None:
    model = make("bert")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in model.state_dict().items()
    }
    assert old.keys() != model.state_dict().keys()
    again, net = supernet_of(model.config, old, where="here"), net_of(model)
    assert all(torch.equal(x, y) for x, y in zip(again.parameters(), net.parameters(), strict=True))


def test_half_precision_checkpoints_become_float32(make: Callable[..., Any]) -> None:
    model = make("bert")
    state = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    net = supernet_of(model.config, state, where="here")
    assert {x.dtype for x in net.parameters()} == {torch.float32}


# --- other heads -----------------------------------------------------------------------------------------------------

KINDS: dict[Head, Any] = {
    "token": AutoModelForTokenClassification,
    "span": AutoModelForQuestionAnswering,
    "mlm": AutoModelForMaskedLM,
}
WITH_WORDS = tuple(x for x in EACH if x != "electra")


@pytest.fixture
def make_with(randomise: Randomise) -> Callable[..., Any]:
    def build(family: str, head: Head, **changes: Any) -> Any:
        labels = {"num_labels": 2} if head == "span" else {}
        model = KINDS[head].from_config(config_of(family, **labels, **changes)).eval()
        randomise(model, seed=4)
        return model

    return build


def logits_of(output: Any, head: Head) -> Tensor:
    return torch.stack([output.start_logits, output.end_logits], -1) if head == "span" else output.logits


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "head"), [(x, head) for x in EACH for head in KINDS if (x, head) != ("electra", "mlm")]
)
def test_law_1_under_every_head(make_with: Callable[..., Any], family: str, head: Head) -> None:
    model = make_with(family, head)
    net = supernet_of(model.config, model.state_dict(), where="here", head=head).double()
    model = model.double()
    for rows, length in ((1, 1), (5, 11)):
        batch = texts(model.config, rows=rows, length=length)
        wanted, kept = logits_of(model(**batch), head), batch["attention_mask"] == 1
        assert wanted[kept].abs().max() > 0.1
        assert (net(**batch).logits - wanted)[kept].abs().max() < 1e-9


@torch.no_grad()
@pytest.mark.parametrize("family", WITH_WORDS)
def test_the_head_of_a_masked_language_model(make: Any, make_with: Any, family: str) -> None:
    model = make_with(family, "mlm")
    head = mlm_head_of(model.config, model.state_dict(), where="here")
    assert head is not None
    net = supernet_of(model.config, model.state_dict(), where="here", head="mlm")
    assert set(head) == set(head_axes(net.facts))
    assert all(torch.equal(net.get_parameter(name), tensor) for name, tensor in head.items())
    classifier = make(family)
    assert mlm_head_of(classifier.config, classifier.state_dict(), where="here") is None
    with pytest.raises(TeacherError, match="has no head of a masked language model that is known"):
        net_of_mlm(classifier)


def net_of_mlm(model: Any, **changes: Any) -> Supernet:
    return supernet_of(model.config, model.state_dict() | changes, where="here", head="mlm")


def test_electra_s_words_are_another_network_s(make: Any) -> None:
    model = make("electra")
    assert mlm_head_of(model.config, model.state_dict(), where="here") is None
    with pytest.raises(TeacherError, match=r"no head of a masked language model that is known \(electra\)"):
        net_of_mlm(model)


@torch.no_grad()
def test_a_decoder_is_the_word_table_or_refused(make_with: Any) -> None:
    model = make_with("bert", "mlm")
    weights = model.state_dict()
    table = weights["bert.embeddings.word_embeddings.weight"]
    net_of_mlm(model, **{"cls.predictions.decoder.weight": table.clone()})
    with pytest.raises(TeacherError, match=r"a decoder of its own, cls\.predictions\.decoder\.weight"):
        net_of_mlm(model, **{"cls.predictions.decoder.weight": table + 1})
    # its bias stands under either name
    old = {name: x for name, x in weights.items() if name != "cls.predictions.bias"}
    assert "cls.predictions.decoder.bias" in old
    net = supernet_of(model.config, old, where="here", head="mlm")
    assert torch.equal(net.word_bias, weights["cls.predictions.bias"])


def test_what_a_head_needs_is_needed_and_a_stranger_s_weight_is_told(make_with: Any) -> None:
    model = make_with("bert", "token")
    weights = model.state_dict()
    lacking = {name: x for name, x in weights.items() if name != "classifier.weight"}
    with pytest.raises(TeacherError, match=r"lacks 1 of its \d+ weights: classifier.weight"):
        supernet_of(model.config, lacking, where="here", head="token")
    with pytest.raises(TeacherError, match=r"weights that its configuration does not speak of, such as bert\.gate"):
        supernet_of(model.config, weights | {"bert.gate": torch.zeros(3)}, where="here", head="token")


@pytest.mark.parametrize("change", [{"head": "token"}, {"embedding": "factorised", "embedding_size": 4}])
def test_a_family_expresses_no_other_head_and_no_projection(change: dict[str, Any]) -> None:
    shape = SubnetConfig.uniform(hidden_size=24, depth=1, heads=3, ffn_size=20)
    facts = ModelFacts(vocab_size=60, max_position_embeddings=18)
    assert stock_settings(Supernet(shape=shape, facts=facts), FAMILIES["bert"]) is not None
    assert stock_settings(Supernet(shape=shape, facts=replace(facts, **change)), FAMILIES["bert"]) is None


@torch.no_grad()
@pytest.mark.parametrize("family", EACH)
def test_a_span_head_there_and_back(make_with: Callable[..., Any], family: str) -> None:
    model = make_with(family, "span")
    net = supernet_of(model.config, model.state_dict(), where="here", head="span")
    settings = stock_settings(net, FAMILIES[family])
    assert settings is not None
    again = AutoModelForQuestionAnswering.from_config(AutoConfig.for_model(family, **settings, num_labels=2)).eval()
    again.load_state_dict(stock_weights(net, FAMILIES[family]))
    batch = texts(model.config)
    kept = batch["attention_mask"] == 1  # RoBERTa's padding has a position of its own
    assert torch.equal(logits_of(again(**batch), "span")[kept], logits_of(model(**batch), "span")[kept])
