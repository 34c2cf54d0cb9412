"""What a whole run needs, tiny and real: a BERT teacher on disk, labelled rows, and a recipe."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

GOOD = ("good", "great", "superb", "lovely", "brilliant", "charming", "fresh", "funny", "warm", "clever")
BAD = ("bad", "awful", "dull", "boring", "stale", "weak", "silly", "clumsy", "cold", "broken")
PLAIN = (
    *("the", "a", "this", "that", "film", "plot", "actor", "scene", "story", "ending"),
    *("is", "was", "and", "with", "of", "very", "quite", "so", "in", "all"),
)


def make_rows(count: int, seed: int) -> list[tuple[str, str]]:
    """(text, label): which word of feeling a text holds decides its label; no two texts are the same."""
    rng = Random(seed)
    rows: dict[str, str] = {}
    while len(rows) < count:
        label = ("neg", "pos")[len(rows) % 2]
        words = rng.choices(PLAIN, k=rng.randint(2, 9)) + rng.choices(GOOD if label == "pos" else BAD, k=2)
        rng.shuffle(words)
        rows[" ".join(words)] = label
    return list(rows.items())


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789.,!?")
    words = (*special, *letters, *(f"##{c}" for c in letters), *PLAIN, *GOOD, *BAD)
    vocab = {word: i for i, word in enumerate(dict.fromkeys(words))}
    plain = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    plain.normalizer = normalizers.BertNormalizer(lowercase=True)
    plain.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])]
    plain.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, model_input_names=inputs, **{f"{k}_token": v for k, v in names.items()}
    )


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `transformers` folder: a BERT encoder of 4 layers without a head, and its tokenizer."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("teacher") / "tiny-bert"
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=200,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=48,
        hidden_dropout_prob=0.05,
        attention_probs_dropout_prob=0.05,
        initializer_range=0.1,
    )
    BertModel(config).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """420 rows with the columns text and label."""
    path = tmp_path_factory.mktemp("data") / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *make_rows(420, seed=1)])
    return path


@pytest.fixture(scope="session")
def tiny_recipe(tiny_teacher: Path, tiny_csv: Path) -> Callable[..., str]:
    """The text of a recipe whose output is `out`; `changes` are by `key` or `section__key`, and None drops one."""

    def build(**changes: Any) -> str:
        train = {"steps": 12, "batch_size": 16, "learning_rate": 1e-3, "checkpoint_every": 4}
        sections: dict[str, dict[str, Any]] = {
            "teacher": {
                "model": str(tiny_teacher),
                "epochs": 8,
                "batch_size": 16,
                "learning_rate": 1.5e-3,
                "max_length": 24,
            },
            "task": {"path": str(tiny_csv), "search_dev_rows": 60, "test_rows": 80},
            "space": {
                "depths": [1, 2],
                "hidden_sizes": [24, 32],
                "heads": [2, 4],
                "head_sizes": [4, 8],
                "ffn_sizes": [32, 64],
            },
            "supernet": {**train, "importance_batches": 2},
            "search": {"engines": 5, "population": 4},
            "constraint": {"of_teacher": 0.95},
            "distill": train,
            "compare": {"baselines": ["cut3", "cut2"]},
        }
        top: dict[str, Any] = {"name": "tiny", "seed": 3, "output": "out"}
        targets = [{"backend": "openvino", "precision": "f32", "length": 24}]
        targets.append({"backend": "onnxruntime", "precision": "f32", "length": 24})
        for key, value in changes.items():
            section, _, name = key.rpartition("__")
            if key == "target":
                targets = value
            elif not section:
                top[name] = value
            elif value is None:
                sections[section].pop(name)
            else:
                sections.setdefault(section, {})[name] = value
        lines = [f"{key} = {json.dumps(value)}" for key, value in top.items()]
        for title, values in [
            *((f"[{name}]", values) for name, values in sections.items()),
            *(("[[target]]", values) for values in targets),
        ]:
            lines += ["", title, *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        return "\n".join(lines) + "\n"

    return build
