"""Dense models on disk, read as any user of `transformers` would read them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, BertConfig, BertForMaskedLM, DistilBertConfig

from atb_export.dense import DenseModel, load_dense, save_dense
from atb_export.errors import ExportError
from atb_export.modeling import AtbBertConfig, AtbBertForSequenceClassification
from supernet.batches import TokenizedTexts
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
        with pytest.raises(ExportError, match=r"lacks .*classifier\.weight"):
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
    with pytest.raises(ExportError, match="configuration that cannot be read"):
        load_dense(tmp_path)
    make_dense().tokenizer.save_pretrained(tmp_path)
    DistilBertConfig(dim=8, n_heads=2, n_layers=1).save_pretrained(tmp_path)
    with pytest.raises(ExportError, match="model_type = 'distilbert', but this family is BERT"):
        load_dense(tmp_path)


def test_a_model_with_another_head_is_refused(tmp_path: Path, make_dense: Dense) -> None:
    config = BertConfig(
        vocab_size=200, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertForMaskedLM(config).save_pretrained(tmp_path)
    make_dense().tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ExportError, match="only a trained classifier is exported"):
        load_dense(tmp_path)
