"""Dense models on disk, read as any user of `transformers` would read them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    DistilBertTokenizer,
    GPT2Config,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
)

from atb_export.dense import DenseModel, as_loaded, load_dense, save_dense
from atb_export.errors import ExportError
from atb_export.modeling import AtbBertConfig, AtbBertForSequenceClassification
from atb_export.onnx.graph import graph_bytes
from atb_export.parity import Verifier
from runtime.engine import backend
from runtime.target import EngineTarget, Shape
from supernet.batches import TokenizedTexts, tokenize
from supernet.families import FAMILIES
from supernet.space import LayerConfig, SubnetConfig

Dense = Callable[..., DenseModel]
STOCK = SubnetConfig.uniform(hidden_size=32, depth=2, heads=4, head_size=8, ffn_size=48)
OTHER = SubnetConfig(
    hidden_size=30,
    layers=(
        LayerConfig(source=0, heads=3, head_size=5, ffn_size=17),
        LayerConfig(source=1, heads=1, head_size=8, ffn_size=64, ffn_stack=3),
    ),
)
LOAD = """
def load(folder):
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        texts = AutoTokenizer.from_pretrained(folder)(["a good film", "dull"], padding=True, return_tensors="pt")
        found.append([type(model).__name__, model.config.id2label[0], model(**texts).logits.tolist()])
"""
IMPORTS = (
    "import json, sys, torch\nfrom transformers import AutoModelForSequenceClassification, AutoTokenizer\nfound = []"
)


@pytest.fixture(scope="module")
def saved(make_dense: Dense, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, DenseModel]]:
    found = {}
    for name, shape in (("stock", STOCK), ("other", OTHER)):
        model, folder = make_dense(shape, labels=("no", "maybe", "yes"), seed=5), tmp_path_factory.mktemp(name)
        save_dense(model, folder)
        found[name] = folder, model
    return found


STACKED = SubnetConfig.uniform(hidden_size=32, depth=2, heads=4, head_size=8, ffn_size=48, ffn_stack=2)


def test_a_stack_alone_makes_it_our_class(make_dense: Dense, probes: TokenizedTexts, tmp_path: Path) -> None:
    """Stock BERT would quietly leave the second cells out."""
    model = make_dense(STACKED)
    save_dense(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "atb_bert"
    read = load_dense(tmp_path)
    assert read.net.shape == STACKED
    assert torch.equal(logits_of(read, probes), logits_of(model, probes))


def logits_of(model: DenseModel, texts: TokenizedTexts) -> torch.Tensor:
    with torch.no_grad():
        return model.net(**texts.batch(range(len(texts)))).logits


@pytest.mark.parametrize("name", ["stock", "other"])
def test_what_is_saved_is_read_back_equal(
    saved: dict[str, tuple[Path, DenseModel]], probes: TokenizedTexts, name: str
) -> None:
    folder, model = saved[name]
    read = load_dense(folder)
    assert read.labels == ("no", "maybe", "yes")
    assert read.net.shape == model.net.shape
    assert read.net.facts == model.net.facts
    assert torch.equal(logits_of(read, probes), logits_of(model, probes))
    assert read.tokenizer("a good film")["input_ids"] == model.tokenizer("a good film")["input_ids"]


@pytest.mark.parametrize("order", ["us first", "transformers first"])
def test_any_user_loads_it(saved: dict[str, tuple[Path, DenseModel]], order: str) -> None:
    """A stock shape where only `transformers` is imported; others once `atb_export` is, in whichever order."""
    stock, other = (f"load({str(folder)!r})" for folder, _ in saved.values())
    if order == "us first":
        lines, names = ["import atb_export", IMPORTS, LOAD, other, stock], ["other", "stock"]
    else:
        bare = "assert 'atb_export' not in sys.modules"
        lines, names = [IMPORTS, LOAD, stock, bare, "import atb_export", other], ["stock", "other"]
    script = "\n".join([*lines, "print(json.dumps(found))"])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, (kind, label, logits) in zip(names, json.loads(done.stdout.splitlines()[-1]), strict=True):
        model = saved[name][1]
        assert kind == {"stock": "BertForSequenceClassification", "other": "AtbBertForSequenceClassification"}[name]
        assert label == "no"
        batch = model.tokenizer(["a good film", "dull"], padding=True, return_tensors="pt")
        with torch.no_grad():
            wanted = model.net(batch["input_ids"], batch["attention_mask"]).logits
        assert np.abs(np.array(logits) - wanted.numpy()).max() < 1e-5


def test_importing_us_does_not_import_transformers() -> None:
    script = "import sys, atb_export; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_our_class_trains_and_takes_what_bert_takes(make_dense: Dense) -> None:
    model = make_dense(OTHER)
    config = AtbBertConfig(subnet=OTHER.to_json(), facts=model.net.facts.to_json())
    net = AtbBertForSequenceClassification(config)
    net.net.load_state_dict(model.net.state_dict())
    ids = torch.tensor([[2, 30, 31, 3]])
    out = net(input_ids=ids, labels=torch.tensor([1]))
    assert out.loss.item() == pytest.approx(torch.nn.functional.cross_entropy(out.logits, torch.tensor([1])).item())
    out.loss.backward()
    assert net.net.pooler.weight.grad is not None
    assert torch.equal(out.logits, net(ids, attention_mask=torch.ones_like(ids)).logits)
    with pytest.raises(ValueError, match="needs subnet and facts"):
        AtbBertForSequenceClassification(AtbBertConfig())


def test_a_regression_keeps_its_kind(make_dense: Dense, tmp_path: Path) -> None:
    for i, shape in enumerate((STOCK, OTHER)):
        folder = tmp_path / str(i)
        save_dense(make_dense(shape, labels=("score",)), folder)
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        assert (model.config.num_labels, model.config.problem_type) == (1, "regression")
        assert load_dense(folder).labels == ("score",)


# --- families -------------------------------------------------------------------------------------------------------

LETTERS = "abcdefghijklmnopqrstuvwxyz"
EACH = tuple(FAMILIES)
CUT = SubnetConfig.uniform(hidden_size=20, depth=1, heads=3, head_size=4, ffn_size=20)
TEXTS = [("a good film",), ("dull",), ("x" * 30,), ("",)]
PAIRS = [("a good film", "dull"), ("no", "the story is clever"), ("x" * 20, "x" * 20)]


def tokenizer_of(family: str) -> Any:
    """Of its usual kind: WordPiece for BERT, DistilBERT and ELECTRA, byte-level BPE with <pad> = 1 for RoBERTas."""
    if FAMILIES[family].offset:
        words = ["<s>", "<pad>", "</s>", "<unk>", *LETTERS, "\u0120", "<mask>"]
        return RobertaTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{x}" for x in LETTERS)]
    vocab = {word: i for i, word in enumerate(words)}
    return DistilBertTokenizer(vocab=vocab) if family == "distilbert" else BertTokenizer(vocab=vocab)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A classifier of each family as `transformers` saves it, every parameter random."""
    found = {}
    for family in EACH:
        sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
        if family == "distilbert":
            sizes = {"dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 20}
        if family == "electra":
            sizes["embedding_size"] = 24
        if family == "roberta":
            sizes["type_vocab_size"] = 1
        labels = {"id2label": {0: "no", 1: "maybe", 2: "yes"}, "label2id": {"no": 0, "maybe": 1, "yes": 2}}
        config = AutoConfig.for_model(family, vocab_size=60, max_position_embeddings=42, **sizes, **labels)
        model = AutoModelForSequenceClassification.from_config(config)
        rng = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=rng)
                parameter.copy_(1 + 0.3 * noise if parameter.dim() == 1 else noise * parameter.shape[1] ** -0.5)
        found[family] = tmp_path_factory.mktemp(family)
        model.save_pretrained(found[family])
        tokenizer_of(family).save_pretrained(found[family])
    return found


def theirs(folder: Path, texts: list[tuple[str, ...]], *, double: bool = False) -> torch.Tensor:
    """What `transformers` answers, texts padded by its tokenizer."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    batch = AutoTokenizer.from_pretrained(folder)(
        *([text[i] for text in texts] for i in range(len(texts[0]))),
        padding=True,
        truncation=True,
        max_length=36,
        return_tensors="pt",
    )
    with torch.no_grad():
        return (model.double() if double else model)(**batch).logits


@pytest.mark.parametrize("texts", [TEXTS, PAIRS], ids=["one text", "pairs"])
@pytest.mark.parametrize("family", EACH)
class TestFamilies:
    def test_the_network_and_its_onnx_answer_as_transformers_does(
        self, folders: dict[str, Path], family: str, texts: list[tuple[str, ...]]
    ) -> None:
        dense = load_dense(folders[family])
        assert (dense.family, dense.labels) == (family, ("no", "maybe", "yes"))
        rows = tokenize(dense.tokenizer, texts, max_length=36)
        wanted = theirs(folders[family], texts, double=True)
        batch = rows.batch(range(len(rows)))
        data = graph_bytes(dense.net, token_types=rows.token_type_ids is not None)
        shape = Shape(batch=len(rows), length=batch["input_ids"].shape[1])
        target = EngineTarget(backend="onnxruntime", precision="f32", shape=shape)
        with backend("onnxruntime").open(data, target) as engine:
            logits = engine.infer({name: tensor.numpy() for name, tensor in batch.items()})["logits"]
        assert np.abs(logits - wanted.numpy()).max() < 1e-4
        with torch.no_grad():
            assert (dense.net.double()(**batch).logits - wanted).abs().max() < 1e-9

    def test_it_is_written_as_its_own_class(
        self, folders: dict[str, Path], family: str, texts: list[tuple[str, ...]], tmp_path: Path
    ) -> None:
        dense = load_dense(folders[family])
        save_dense(dense, tmp_path)
        assert json.loads((tmp_path / "config.json").read_text())["model_type"] == family
        assert torch.equal(theirs(tmp_path, texts), theirs(folders[family], texts))
        again = load_dense(tmp_path)
        assert (again.family, again.labels, again.net.facts) == (family, dense.labels, dense.net.facts)
        assert all(torch.equal(x, y) for x, y in zip(again.net.parameters(), dense.net.parameters(), strict=True))

    def test_a_cut_of_it_is_ours(
        self, folders: dict[str, Path], family: str, texts: list[tuple[str, ...]], tmp_path: Path
    ) -> None:
        """With the family's pooler, positions and padding, and a tokenizer that gives what it takes."""
        dense = load_dense(folders[family])
        cut = DenseModel(net=dense.net.slice(CUT), tokenizer=dense.tokenizer, labels=dense.labels, family=family)
        save_dense(cut, tmp_path)
        assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "atb_bert"
        read = load_dense(tmp_path)
        assert read.net.facts == dense.net.facts
        batch = tokenize(read.tokenizer, texts, max_length=36).batch(range(len(texts)))
        with torch.no_grad():
            wanted = cut.net(**batch).logits
            assert torch.equal(read.net(**batch).logits, wanted)
        assert (theirs(tmp_path, texts) - wanted).abs().max() < 1e-5

    def test_tokenizer_json_alone_says_how_to_pad(
        self, folders: dict[str, Path], family: str, texts: list[tuple[str, ...]], tmp_path: Path
    ) -> None:
        dense = load_dense(folders[family])
        rows = tokenize(dense.tokenizer, texts, max_length=8)  # leaves its truncation behind in the tokenizer
        save_dense(dense, tmp_path)
        plain = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        assert plain.truncation is None
        assert plain.padding["pad_id"] == rows.pad_token_id == (1 if FAMILIES[family].offset else 0)
        plain.enable_truncation(8, strategy="longest_first")
        encoded = plain.encode_batch([text[0] if len(text) == 1 else text for text in texts])
        assert [x.ids for x in encoded] == rows.batch(range(len(rows)))["input_ids"].tolist()


@pytest.mark.parametrize("family", EACH)
def test_token_types_only_where_there_are_several(folders: dict[str, Path], family: str) -> None:
    """Even where the tokenizer is one of BERT's, which gives two to a pair, and the model's table has one row."""
    dense = load_dense(folders[family])
    assert tokenize(dense.tokenizer, TEXTS, max_length=36).token_type_ids is None
    given = tokenize(dense.tokenizer, PAIRS, max_length=36).token_type_ids is not None
    assert given == (family in ("bert", "electra"))


def test_a_table_of_one_token_type(folders: dict[str, Path], tmp_path: Path) -> None:
    """The tokenizer is BERT's and would number the second text 1, a row that the table does not have."""
    shutil.copytree(folders["bert"], tmp_path, dirs_exist_ok=True)
    state = load_file(tmp_path / "model.safetensors")
    name = "bert.embeddings.token_type_embeddings.weight"
    save_file(state | {name: state[name][:1].clone()}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"type_vocab_size": 1}))
    dense = load_dense(tmp_path)
    rows = tokenize(dense.tokenizer, PAIRS, max_length=36)
    assert rows.token_type_ids is None
    save_dense(dense, tmp_path / "again")
    assert "token_type_ids" not in AutoTokenizer.from_pretrained(tmp_path / "again")("a", "b")


def test_a_family_that_is_none(make_dense: Dense) -> None:
    with pytest.raises(ValueError, match=r"family is one of bert, distilbert, .*, got 'gpt2'"):
        DenseModel(net=make_dense().net, tokenizer=None, labels=("a", "b"), family="gpt2")


# --- what is refused ------------------------------------------------------------------------------------------------


def change(folder: Path, **tensors: torch.Tensor | None) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    for name, value in tensors.items():
        key = name.replace("__", ".")
        assert key in state
        state.pop(key)
        if value is not None:
            state[key] = value
    save_file(state, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("shape", "classifier"), [(STOCK, "classifier__weight"), (OTHER, "net__classifier__weight")], ids=["stock", "other"]
)
class TestRefusals:
    def test_weights_that_are_not_finite(
        self, make_dense: Dense, tmp_path: Path, shape: SubnetConfig, classifier: str
    ) -> None:
        save_dense(make_dense(shape), tmp_path)
        change(tmp_path, **{classifier: torch.full((2, shape.hidden_size), float("nan"))})
        with pytest.raises(ExportError, match=r"classifier.weight holds values that are not finite"):
            load_dense(tmp_path)

    def test_a_missing_head(self, make_dense: Dense, tmp_path: Path, shape: SubnetConfig, classifier: str) -> None:
        """A head drawn at random would be exported and verified without a complaint."""
        save_dense(make_dense(shape), tmp_path)
        change(tmp_path, **{classifier: None})
        with pytest.raises(ExportError, match=r"lacks 1 of its .* weights: .*classifier\.weight"):
            load_dense(tmp_path)

    def test_a_truncated_file(self, make_dense: Dense, tmp_path: Path, shape: SubnetConfig, classifier: str) -> None:
        save_dense(make_dense(shape), tmp_path)
        path = tmp_path / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(ExportError, match="cannot be loaded"):
            load_dense(tmp_path)

    def test_weights_of_another_shape(
        self, make_dense: Dense, tmp_path: Path, shape: SubnetConfig, classifier: str
    ) -> None:
        save_dense(make_dense(shape), tmp_path)
        change(tmp_path, **{classifier: torch.zeros(2, shape.hidden_size + 1)})
        with pytest.raises(ExportError):
            load_dense(tmp_path)


def test_other_folders_are_refused(tmp_path: Path, make_dense: Dense) -> None:
    with pytest.raises(ExportError, match=r"no config\.json"):
        load_dense(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ExportError, match="no model configuration is at"):
        load_dense(tmp_path)
    make_dense().tokenizer.save_pretrained(tmp_path)
    GPT2Config().save_pretrained(tmp_path)
    with pytest.raises(ExportError, match="model_type = 'gpt2', which is not supported; supported are bert, distilb"):
        load_dense(tmp_path)


def test_a_model_with_another_head_is_refused(tmp_path: Path, make_dense: Dense) -> None:
    config = BertConfig(
        vocab_size=200, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertForMaskedLM(config).save_pretrained(tmp_path)
    make_dense().tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ExportError, match="only a trained classifier is exported"):
        load_dense(tmp_path)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_pickle_is_refused_with_the_way_out(folders: dict[str, Path], family: str, tmp_path: Path) -> None:
    shutil.copytree(folders[family], tmp_path, dirs_exist_ok=True)
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ExportError, match=r"cannot be loaded: it has no model\.safetensors"):
        load_dense(tmp_path)
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(ExportError, match=r"in pytorch_model\.bin, a pickle, .* convert it: python -c"):
        load_dense(tmp_path)


def test_weights_in_several_files(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["distilbert"], tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").unlink()
    model = AutoModelForSequenceClassification.from_pretrained(folders["distilbert"])
    model.save_pretrained(tmp_path, max_shard_size="5KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    wanted, read = load_dense(folders["distilbert"]).net, load_dense(tmp_path).net
    assert all(torch.equal(x, y) for x, y in zip(read.parameters(), wanted.parameters(), strict=True))
    index = tmp_path / "model.safetensors.index.json"
    places = json.loads(index.read_text())
    name = next(iter(places["weight_map"]))
    for file, told in (("../else.safetensors", "which is not beside it"), ("gone.safetensors", "cannot be loaded")):
        index.write_text(json.dumps({**places, "weight_map": {**places["weight_map"], name: file}}))
        with pytest.raises(ExportError, match=told):
            load_dense(tmp_path)


def test_a_layer_that_the_configuration_forgets(folders: dict[str, Path], tmp_path: Path) -> None:
    """`transformers` would leave it out with a warning, and the bundle would answer as the rest does."""
    shutil.copytree(folders["roberta"], tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with pytest.raises(ExportError, match=r"16 weights that its configuration does not speak of, such as roberta\.enc"):
        load_dense(tmp_path)


def test_a_tokenizer_of_another_model(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["bert"], tmp_path, dirs_exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.add_tokens(["film", "plot", "dull", "warm"]) == 4
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ExportError, match=r"gives 'warm' the number 60, but the embedding table has 60 rows"):
        load_dense(tmp_path)


def test_a_tokenizer_that_cannot_pad(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["bert"], tmp_path, dirs_exist_ok=True)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer_of("bert").backend_tokenizer, unk_token="[UNK]", cls_token="[CLS]"
    ).save_pretrained(tmp_path)
    with pytest.raises(ExportError, match="names no padding token"):
        load_dense(tmp_path)


def test_labels_without_logits(make_dense: Dense, tmp_path: Path) -> None:
    save_dense(make_dense(OTHER), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"id2label": {"0": "a", "1": "b", "2": "c"}}))
    with pytest.raises(ExportError, match="names 3 labels, the network has 2"):
        load_dense(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"facts": None}))
    with pytest.raises(ExportError, match="was not written by atb: model facts are"):
        load_dense(tmp_path)


@pytest.mark.parametrize("shape", [STOCK, OTHER], ids=["stock", "other"])
def test_a_span_head_is_saved_but_not_exported(make_dense: Dense, tmp_path: Path, shape: SubnetConfig) -> None:
    model = make_dense(shape)
    spans = replace(model, net=model.net.with_head("span", seed=3).eval(), labels=("start", "end"))
    assert model.stays is None
    assert "cannot be exported yet" in str(spans.stays)
    save_dense(spans, tmp_path)
    texts = tokenize(model.tokenizer, [("good", "a dull plot ."), ("the", "film and the story")], max_length=24)
    (parity,) = Verifier(spans, texts, name="m").dense(tmp_path)
    assert parity.passed
    assert parity.rows == 4
    loaded = as_loaded(tmp_path, "span")
    with torch.no_grad():
        words = loaded.get_input_embeddings().weight
        words.copy_(words.roll(1, 0))
    loaded.save_pretrained(tmp_path)
    (broken,) = Verifier(spans, texts, name="m").dense(tmp_path)
    assert not broken.passed
    with pytest.raises(ExportError, match=r"QuestionAnswering: it answers questions with spans .* cannot be exported"):
        load_dense(tmp_path)
