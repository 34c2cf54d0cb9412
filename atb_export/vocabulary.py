"""A smaller vocabulary: the embedding table and the tokenizer cut together to what real texts use.

Embeddings are most of a tiny BERT's bytes, and a task's texts use a part of them. WordPiece takes the longest piece
that the vocabulary holds, so a text whose pieces are all kept is cut into the same pieces, now under other ids: its
rows of the table, and with them its logits, stay the same bits. Single characters are always kept, so that other words
fall into shorter pieces instead of [UNK].
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoTokenizer

from atb_export.dense import DenseModel
from atb_export.errors import ExportError, VerificationError
from supernet.batches import TokenizedTexts
from supernet.model import Supernet

Text = str | tuple[str, ...]

_PROBES = 16


class TrimmedModel(NamedTuple):
    """A model with a smaller vocabulary; `kept_ids[new]` is the id that the token `new` had before, ascending."""

    dense: DenseModel
    kept_ids: tuple[int, ...]


def trim(dense: DenseModel, texts: Sequence[Text], *, least: int = 1) -> TrimmedModel:
    """Keeps the tokens that occur `least` times in `texts` (a tuple is a pair), special tokens and single characters.

    The result is verified: texts of which every token is kept have the same pieces, and the first 16 of them the same
    logits, bit for bit. Raises `ExportError` for a tokenizer other than WordPiece.
    """
    if not texts:
        raise ExportError("a vocabulary is trimmed to real texts, and none are given")
    if least < 1:
        raise ExportError(f"a token is kept when it occurs least times, which is 1 or more, got {least}")
    before = _ids(dense.tokenizer, texts)
    counts: dict[int, int] = {}
    for row in before:
        for token in row:
            counts[token] = counts.get(token, 0) + 1
    trimmed = trim_to(dense, (token for token, count in counts.items() if count >= least))
    _verify(dense, trimmed, texts, before)
    return trimmed


def trim_to(dense: DenseModel, tokens: Iterable[int]) -> TrimmedModel:
    """Keeps these ids, special tokens and single characters; the others leave table and tokenizer."""
    backend = json.loads(dense.tokenizer.backend_tokenizer.to_str())
    vocabulary = _wordpieces(backend)
    size = dense.net.facts.vocab_size
    wanted = set(tokens)
    if wrong := sorted(token for token in wanted if not 0 <= token < size):
        raise ExportError(f"the token id {wrong[0]} is outside of the table, whose {size} rows are 0 to {size - 1}")
    prefix = backend["model"]["continuing_subword_prefix"]
    wanted |= {token for text, token in vocabulary.items() if len(text.removeprefix(prefix)) == 1}
    wanted |= {token for text, token in vocabulary.items() if text == backend["model"]["unk_token"]}
    wanted |= {token["id"] for token in backend["added_tokens"]} | set(dense.tokenizer.all_special_ids)
    wanted |= {dense.net.facts.pad_token_id}
    kept = tuple(sorted(wanted))
    places = {old: new for new, old in enumerate(kept)}
    net, tokenizer = _cut_net(dense.net, kept, places), _cut_tokenizer(dense.tokenizer, backend, places)
    return TrimmedModel(replace(dense, net=net, tokenizer=tokenizer), kept)


def _wordpieces(backend: Mapping[str, Any]) -> dict[str, int]:
    model = backend["model"]
    kind = model.get("type", "BPE")
    if kind == "WordPiece":
        return dict(model["vocab"])
    if kind == "BPE":
        kind = "byte-level BPE" if "ByteLevel" in json.dumps(backend.get("pre_tokenizer")) else "BPE"
    raise ExportError(
        f"this model's tokenizer is {kind}, whose pieces are merged from one another and cannot be dropped one by one; "
        "only WordPiece vocabularies (BERT, MiniLM, TinyBERT, DistilBERT) are trimmed: export it with its whole table"
    )


@torch.no_grad()
def _cut_net(net: Supernet, kept: Sequence[int], places: Mapping[int, int]) -> Supernet:
    pad = places[net.facts.pad_token_id]
    cut = Supernet(shape=net.shape, facts=replace(net.facts, vocab_size=len(kept), pad_token_id=pad))
    tensors = dict(net.state_dict())
    tensors["word_embeddings.weight"] = tensors["word_embeddings.weight"][list(kept)]
    cut.to(tensors["word_embeddings.weight"].dtype).load_state_dict(tensors)
    return cut.train(net.training)


def _cut_tokenizer(tokenizer: Any, backend: dict[str, Any], places: Mapping[int, int]) -> Any:
    """The tokenizer as `transformers` reads it back from files whose ids are the new ones."""
    model = backend["model"]
    model["vocab"] = {text: places[token] for text, token in model["vocab"].items() if token in places}
    for token in backend["added_tokens"]:
        token["id"] = places[token["id"]]
    if backend.get("padding"):
        backend["padding"]["pad_id"] = places[backend["padding"]["pad_id"]]
    _renumber(backend.get("post_processor"), places)
    with tempfile.TemporaryDirectory(prefix="atb-") as name:
        folder = Path(name)
        tokenizer.save_pretrained(folder)
        for old in ("vocab.txt", "added_tokens.json", "special_tokens_map.json"):  # what older versions write beside it
            (folder / old).unlink(missing_ok=True)
        (folder / "tokenizer.json").write_text(json.dumps(backend, ensure_ascii=False), encoding="utf-8")
        path = folder / "tokenizer_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        if "added_tokens_decoder" in config:
            added = config["added_tokens_decoder"].items()
            config["added_tokens_decoder"] = {str(places[int(old)]): token for old, token in added}
        path.write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
        return AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)


def _renumber(processor: dict[str, Any] | None, places: Mapping[int, int]) -> None:
    """Gives the special tokens that a post-processor adds their new ids, in place."""
    if processor is None:
        return
    kind = processor["type"]
    if kind == "Sequence":
        for part in processor["processors"]:
            _renumber(part, places)
    elif kind == "TemplateProcessing":
        for token in processor["special_tokens"].values():
            token["ids"] = [places[old] for old in token["ids"]]
    elif kind in ("BertProcessing", "RobertaProcessing"):
        for end in ("sep", "cls"):
            processor[end] = [processor[end][0], places[processor[end][1]]]
    elif kind != "ByteLevel":  # which adds no tokens
        raise ExportError(f"the tokenizer's post-processor is {kind}, which trimming does not know: export it whole")


def _ids(tokenizer: Any, texts: Sequence[Text]) -> list[list[int]]:
    """Token ids of every text, uncut."""
    rows = [(text,) if isinstance(text, str) else tuple(text) for text in texts]
    pairs = len(rows[0]) == 2
    if any(len(row) != len(rows[0]) for row in rows):
        raise ExportError("either every text is a pair or none is")
    parts = [[row[i] for row in rows] for i in range(2 if pairs else 1)]
    found = tokenizer(*parts, return_attention_mask=False, truncation=False, verbose=False)
    return list(found["input_ids"])


@torch.no_grad()
def _verify(dense: DenseModel, trimmed: TrimmedModel, texts: Sequence[Text], before: Sequence[list[int]]) -> None:
    kept = set(trimmed.kept_ids)
    whole = [i for i, row in enumerate(before) if kept.issuperset(row)]
    if not whole:
        return
    after = _ids(trimmed.dense.tokenizer, [texts[i] for i in whole])
    for i, row in zip(whole, after, strict=True):
        if [trimmed.kept_ids[new] for new in row] != before[i]:
            raise VerificationError(f"the trimmed vocabulary cuts {texts[i]!r} into other pieces than the whole one")
    limit = dense.net.facts.max_position_embeddings
    old, new = ([row[:limit] for row in rows[:_PROBES]] for rows in ([before[i] for i in whole], after))
    for there, here in zip(old, new, strict=True):
        was = dense.net(**TokenizedTexts(input_ids=(there,)).batch([0])).logits
        now = trimmed.dense.net(**TokenizedTexts(input_ids=(here,)).batch([0])).logits
        if not torch.equal(was, now):
            raise VerificationError("the trimmed model answers other logits for a text of which it keeps every token")
