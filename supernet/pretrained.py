"""Reads what `transformers` writes: a configuration, weights without pickle, and a tokenizer that fits them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

from supernet.errors import TeacherError
from supernet.facts import ModelFacts
from supernet.families import FAMILIES

_WEIGHTS = "model.safetensors"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_OF_OTHERS = ("tf_model.h5", "flax_model.msgpack", "model.ckpt.index")


def read_config(source: str, *, where: str) -> Any:
    """The configuration in a folder or at a hub name; `TeacherError` where it cannot be read. `where` names it."""
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TeacherError(
            f"no model configuration is at {where!r}: {_first_line(error)} (supported are {', '.join(FAMILIES)})"
        ) from error


def refuse_pickle(folder: Path) -> None:
    """Raises `TeacherError` where a folder's only weights are a pickle or of another framework, with the way out."""
    if not folder.is_dir() or any((folder / name).is_file() for name in (_WEIGHTS, f"{_WEIGHTS}.index.json")):
        return
    found = [name for name in (*_PICKLES, *_OF_OTHERS) if (folder / name).is_file()]
    if not found:
        raise TeacherError(f"{folder} cannot be loaded: it has no {_WEIGHTS}")
    why = "a pickle, which can run any code when it is read" if found[0] in _PICKLES else "not PyTorch's"
    raise TeacherError(
        f"{folder} holds its weights in {found[0]}, {why}; only {_WEIGHTS} is read. Where you trust it, convert it: "
        'python -c "from transformers import AutoModelForSequenceClassification as M; '
        "M.from_pretrained('IN').save_pretrained('OUT')\" and copy the tokenizer's files"
    )


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder by name, from one file or from those its index names; `TeacherError` if unreadable."""
    refuse_pickle(folder)
    try:
        files = [_WEIGHTS]
        if not (folder / _WEIGHTS).is_file():
            places = json.loads((folder / f"{_WEIGHTS}.index.json").read_bytes())["weight_map"]
            files = sorted(set(places.values()))
        if strange := [name for name in files if Path(name).name != name]:
            raise TeacherError(f"{folder} cannot be loaded: its index names {strange[0]!r}, which is not beside it")
        found: dict[str, Tensor] = {}
        for name in files:
            found |= load_file(folder / name)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, SafetensorError) as error:
        raise TeacherError(f"the model at {str(folder)!r} cannot be loaded: {_first_line(error)}") from error
    return found


def read_tokenizer(source: str, facts: ModelFacts, *, where: str) -> Any:
    """The tokenizer in a folder or at a hub name; one that gives token types only where the model has several.

    Raises `TeacherError` where it is not a fast one, pads with nothing, or has entries without an embedding.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare Exceptions
        raise TeacherError(f"the tokenizer of {where!r} cannot be loaded: {_first_line(error)}") from error
    if not tokenizer.is_fast:
        raise TeacherError(f"the tokenizer of {where!r} has no tokenizer.json; write one with `transformers`")
    if tokenizer.pad_token_id is None:
        raise TeacherError(f"the tokenizer of {where!r} names no padding token; add pad_token to its configuration")
    entries = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True)
    token, highest = max(entries.items(), key=lambda entry: entry[1], default=("", -1))
    if highest >= facts.vocab_size:
        raise TeacherError(
            f"the tokenizer of {where!r} gives {token!r} the number {highest}, but the embedding table has "
            f"{facts.vocab_size} rows: they are not of one model"
        )
    if facts.type_vocab_size == 1:
        kept = [x for x in tokenizer.model_input_names if x != "token_type_ids"]
        tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = kept
    return tokenizer


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
