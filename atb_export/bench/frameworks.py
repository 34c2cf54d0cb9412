"""What people run a model with who do not compile it: PyTorch, `torch.compile`, the pipeline of `transformers`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from atb_export.bench.errors import BenchError
from atb_export.bench.feeding import TextEngine, feeds_of
from atb_export.bench.subjects import Subject
from atb_export.modeling import register
from atb_export.ui import quiet_libraries
from runtime.classifier import Text
from runtime.engine import Engine, EngineBase, Feeds, refuse_missing_threads
from runtime.errors import UnsupportedTarget
from runtime.target import EngineTarget, Precision
from runtime.tensors import TensorSpec

_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


class TorchEngine(EngineBase):
    """A model of `transformers` behind the protocol of engines; int64 ids and mask in, float32 logits out."""

    def __init__(self, model: Any, target: EngineTarget) -> None:
        self.target = target
        self.effective_precision = target.precision
        self.inputs = tuple(
            TensorSpec(name=x, dtype="int64", shape=target.shape.dims) for x in ("input_ids", "attention_mask")
        )
        self._model = model

    @torch.inference_mode()
    def infer(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """`logits`."""
        use_threads(self.target.threads)
        logits = self._model(**{name: torch.from_numpy(array) for name, array in feeds.items()}).logits
        return {"logits": logits.float().numpy()}

    def close(self) -> None:
        """Lets go of the model."""
        self._model = None


def use_threads(count: int) -> None:
    """PyTorch has one number of threads for all models of a process."""
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


@dataclass(frozen=True, kw_only=True)
class FrameworkVariant:
    """A folder of `transformers` under one of the frameworks."""

    subject: Subject
    name: str
    target: EngineTarget
    lengths: tuple[int, ...] = ()

    @classmethod
    def of(cls, subject: Subject, like: EngineTarget) -> FrameworkVariant:
        """In the precision that the subject names, else in f32. Raises `BenchError` for one that torch lacks."""
        precision = subject.engine or "f32"
        if precision not in _DTYPES:
            raise BenchError(
                f"{subject.kind}:{subject.path} takes @PRECISION of {', '.join(_DTYPES)}, got {precision!r}"
            )
        target = EngineTarget(
            backend=subject.kind.replace(".", "_"),
            precision=cast(Precision, precision),
            shape=like.shape,
            threads=like.threads,
        )
        name = subject.name or f"{subject.kind}:{subject.path.resolve().name}"
        return cls(subject=subject, name=name, target=target)

    @property
    def source(self) -> str:
        """As on the command line."""
        return f"{self.subject.kind}:{self.subject.path}"

    @property
    def starts_from_text(self) -> bool:
        """A pipeline knows nothing else."""
        return self.subject.kind == "pipeline"

    def open(self, target: EngineTarget) -> Engine:
        """Of the target's shape; a pipeline gets texts of just as many tokens."""
        if self.subject.kind == "pipeline":
            return self.open_texts(target, [_text_of(target.shape.length, self._tokenizer())])
        refuse_missing_threads(target)
        use_threads(target.threads)
        model = self._model()
        if target.shape.length > (most := _most_tokens(model.config)):
            raise UnsupportedTarget(
                f"{self.source} takes texts of up to {most} tokens, got length {target.shape.length}"
            )
        engine = TorchEngine(self._compiled(model, dynamic=False), target)
        self._first(lambda: engine.infer(feeds_of(engine)))
        return engine

    def open_texts(self, target: EngineTarget, texts: Sequence[Text]) -> TextEngine:
        """Each batch padded to its longest text, and cut to the target's length."""
        refuse_missing_threads(target)
        use_threads(target.threads)
        model, tokenizer = self._model(), self._tokenizer()
        limit = min(target.shape.length, _most_tokens(model.config))
        target = replace(target, shape=replace(target.shape, length=limit))
        if self.subject.kind == "pipeline":
            answer = _piped(model, tokenizer, target)
        else:
            answer = _tokenized(self._compiled(model, dynamic=True), tokenizer, target)
        for text in (min(texts, key=_letters), max(texts, key=_letters)):
            for count in sorted({1, target.shape.batch}):
                self._first(partial(answer, [text] * count))
        return TextEngine(answer, texts=texts, target=target, effective_precision=target.precision)

    def _first(self, run: Callable[[], Any]) -> None:
        """The first run is when `torch.compile` does its work, and when what a framework cannot do comes out."""
        try:
            run()
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0][:300]
            raise BenchError(f"{self.source} cannot run: {type(error).__name__}: {reason}") from error

    def _model(self) -> Any:
        quiet_libraries()
        register()
        try:
            model = AutoModelForSequenceClassification.from_pretrained(
                self.subject.path, local_files_only=True, trust_remote_code=False, dtype=_DTYPES[self.target.precision]
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise _unreadable(self.subject.path, error) from error
        return model.eval()

    def _tokenizer(self) -> Any:
        try:
            return AutoTokenizer.from_pretrained(self.subject.path, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise _unreadable(self.subject.path, error) from error

    def _compiled(self, model: Any, *, dynamic: bool) -> Any:
        return torch.compile(model, dynamic=dynamic) if self.subject.kind == "torch.compile" else model


def _piped(model: Any, tokenizer: Any, target: EngineTarget) -> Callable[[list[Text]], None]:
    pipe = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu", top_k=None)
    options = {"batch_size": target.shape.batch, "truncation": True, "max_length": target.shape.length}

    def answer(chosen: list[Text]) -> None:
        use_threads(target.threads)
        pipe([x if isinstance(x, str) else {"text": x[0], "text_pair": x[1]} for x in chosen], **options)

    return answer


def _tokenized(model: Any, tokenizer: Any, target: EngineTarget) -> Callable[[list[Text]], None]:
    options = {"padding": True, "truncation": True, "max_length": target.shape.length, "return_tensors": "pt"}

    @torch.inference_mode()
    def answer(chosen: list[Text]) -> None:
        use_threads(target.threads)
        for start in range(0, len(chosen), target.shape.batch):
            rows = chosen[start : start + target.shape.batch]
            pairs = not isinstance(rows[0], str)
            columns = [[x[i] for x in rows] for i in range(2)] if pairs else [rows]
            model(**tokenizer(*columns, **options)).logits.float().numpy()

    return answer


def _letters(text: Text) -> int:
    return len(text) if isinstance(text, str) else sum(map(len, text))


def _most_tokens(config: Any) -> int:
    """Those that have a position; RoBERTa's family begins to count behind its padding."""
    facts = getattr(config, "facts", None) or {}
    most = int(facts.get("max_position_embeddings") or config.max_position_embeddings)
    counts_late = "roberta" in config.model_type or config.model_type == "camembert"
    return most - config.pad_token_id - 1 if counts_late else most


def _text_of(length: int, tokenizer: Any) -> str:
    """A text of exactly that many tokens, the special ones included."""
    special = tokenizer.num_special_tokens_to_add()
    for word in ("the", "a", "i", *sorted(tokenizer.get_vocab())):
        text = " ".join([word] * max(0, length - special))
        if word.isalpha() and len(tokenizer(text)["input_ids"]) == length:
            return text
    raise BenchError(f"the tokenizer has no word that makes texts of {length} tokens; give texts with --texts")


def _unreadable(path: Path, error: Exception) -> BenchError:
    lines = str(error).splitlines() or [type(error).__name__]
    return BenchError(f"{path} holds no classifier that transformers can load: {lines[0]}")
