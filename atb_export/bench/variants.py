"""Subjects as things that open for every cell of a sweep; nothing here imports torch unless a subject is of torch."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

from atb_export.bench.errors import BenchError
from atb_export.bench.feeding import TextEngine, padded
from atb_export.bench.subjects import Subject
from runtime.backends import BACKENDS
from runtime.classifier import Classifier, Text
from runtime.engine import Engine, backend
from runtime.errors import AtbRuntimeError, BackendUnavailable, BundleError, UnsupportedTarget
from runtime.manifest import Bundle, EngineEntry, read_bundle
from runtime.target import PRECISIONS, EngineTarget, Precision, Shape

ALL = "all"
"""The name of all engines of a bundle."""


class Variant(Protocol):
    """One line of the tables."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def source(self) -> str:
        """Where it came from."""
        ...

    @property
    def target(self) -> EngineTarget:
        """What it is built for where a cell asks for nothing."""
        ...

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths of its buckets, shortest first; nothing where it takes texts as long as they are."""
        ...

    @property
    def starts_from_text(self) -> bool:
        """Whether it takes text even where the others are fed with tokens."""
        ...

    def open(self, target: EngineTarget) -> Engine:
        """An engine of that target."""
        ...

    def open_texts(self, target: EngineTarget, texts: Sequence[Text]) -> TextEngine:
        """The same from text to logits."""
        ...


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One point of a sweep; None leaves it to what each variant is built for."""

    batch: int | None = None
    length: int | None = None
    threads: int | None = None

    def of(self, target: EngineTarget) -> EngineTarget:
        """The target with what the cell asks for."""
        shape = Shape(batch=self.batch or target.shape.batch, length=self.length or target.shape.length)
        return replace(target, shape=shape, threads=self.threads or target.threads)


def variants(subjects: Sequence[Subject], *, engine: str | None = None) -> dict[str, Variant]:
    """By names that are all different, in the order of the subjects.

    `engine` is for bundles and ONNX files that name none. What is no bundle takes shape and threads of the first
    bundle, else batch 1, length 64, 1 thread. Raises `BenchError`, or what reading a bundle raises.
    """
    bundles = {i: _of_bundle(x, x.engine or engine) for i, x in enumerate(subjects) if x.kind == "bundle"}
    first = next(iter(bundles.values()), [])
    like = first[0].target if first else EngineTarget(backend="none", shape=Shape(batch=1, length=64))
    found: list[Variant] = []
    for i, subject in enumerate(subjects):
        if i in bundles:
            found += bundles[i]
        elif subject.kind == "onnx":
            found.append(_of_onnx(subject, subject.engine or (engine if engine != ALL else None), like))
        else:
            found.append(_of_torch(subject, like))
    return dict(zip(_names(found), found, strict=True))


def _names(found: Sequence[Variant]) -> list[str]:
    """Names that say as much as is needed to tell them apart."""
    longer = [
        [x.name for x in found],
        [f"{x.name} {x.target.backend}-{x.target.precision}" for x in found],
        [f"{x.name} {x.target.group}" for x in found],
        [f"{x.name} of length {'/'.join(map(str, x.lengths))}" for x in found],
        [f"{x.name} {x.source}" for x in found],
    ]
    names = longer[0]
    for more in longer[1:]:
        names = [name if names.count(name) == 1 else long for name, long in zip(names, more, strict=True)]
    if again := next((n for n in names if names.count(n) > 1), None):
        raise BenchError(f"{again!r} is there twice; give one of them a name of its own: NAME=SUBJECT")
    return names


# --- bundles --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _BundleVariant:
    """Engines of a bundle that differ in their length only."""

    name: str
    bundle: Bundle
    entries: tuple[EngineEntry, ...]
    starts_from_text: bool = False

    @property
    def source(self) -> str:
        return str(self.bundle.folder)

    @property
    def target(self) -> EngineTarget:
        """That of the longest texts, as the bundle's own classifier cuts them."""
        return max((x.target for x in self.entries), key=lambda x: x.shape.length)

    @property
    def lengths(self) -> tuple[int, ...]:
        return () if self.target.dynamic else tuple(sorted(x.target.shape.length for x in self.entries))

    def open(self, target: EngineTarget) -> Engine:
        """From the artifact of that length where there is one."""
        fitting = [x for x in self.entries if x.target.shape.length == target.shape.length]
        return backend(target.backend).load(self.bundle.artifact((fitting or self.entries)[0]), target)

    def open_texts(self, target: EngineTarget, texts: Sequence[Text]) -> TextEngine:
        """As the bundle serves texts: all its lengths, each text in the shortest that holds it."""
        tokenizer = _tokenizer(self.bundle.tokenizer)
        shapes = [target.shape]
        if len(self.lengths) > 1:
            if target.shape.length != self.target.shape.length:
                raise UnsupportedTarget(
                    f"{self.source} answers each text at the shortest of its lengths that holds it, of "
                    f"{', '.join(map(str, self.lengths))}; leave out --length"
                )
            shapes = [Shape(batch=target.shape.batch, length=x) for x in self.lengths]
        with ExitStack() as stack:
            engines = [stack.enter_context(self.open(replace(target, shape=x))) for x in shapes]
            classifier = Classifier(engines=engines, tokenizer=tokenizer, model=self.bundle.manifest.model)
            stack.pop_all()
        return TextEngine(
            classifier.logits,
            texts=texts,
            target=replace(target, shape=shapes[-1]),
            effective_precision=engines[-1].effective_precision,
            close=classifier.close,
        )


def _of_bundle(subject: Subject, wanted: str | None) -> list[_BundleVariant]:
    """The engine asked for by backend, group or label, all of them, or without a wish the first that runs here."""
    bundle = read_bundle(subject.path)
    entries = bundle.manifest.engines
    alone = [x for x in entries if x.target.label == wanted]
    groups = [tuple(alone)] if alone else list(bundle.manifest.groups().values())
    fitting = [of for of in groups if alone or wanted in (None, ALL, of[0].target.backend, of[0].target.group)]
    if not fitting:
        have = ", ".join(x.target.label for x in entries) or "none"
        raise BundleError(f"{bundle.folder} has no engine {wanted!r}; it has {have}")
    reasons = {of[0].target.group: backend(of[0].target.backend).can_run() for of in fitting}
    running = [of for of in fitting if reasons[of[0].target.group] is None]
    if not running:
        why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise AtbRuntimeError(f"no engine of {bundle.folder} can run here: {why}")
    name = subject.name or bundle.manifest.name
    return [_BundleVariant(name=name, bundle=bundle, entries=of) for of in (running if wanted == ALL else running[:1])]


# --- ONNX files -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _OnnxVariant:
    """One file under one backend."""

    name: str
    path: Path
    target: EngineTarget
    starts_from_text: bool = False

    @property
    def source(self) -> str:
        return str(self.path)

    @property
    def lengths(self) -> tuple[int, ...]:
        return (self.target.shape.length,)

    def open(self, target: EngineTarget) -> Engine:
        return backend(target.backend).open(self.path, target)

    def open_texts(self, target: EngineTarget, texts: Sequence[Text]) -> TextEngine:
        """With the tokenizer beside the file; every text is padded to the one length."""
        file = self.path.parent / "tokenizer.json"
        if not file.is_file():
            raise BenchError(f"{self.path} cannot take texts: there is no tokenizer.json beside it")
        tokenizer = _tokenizer(file)
        tokenizer.no_padding()
        tokenizer.enable_truncation(target.shape.length, strategy="longest_first")
        engine = self.open(target)
        names = {x.name for x in engine.inputs}

        def answer(chosen: list[Text]) -> None:
            for start in range(0, len(chosen), target.shape.batch):
                rows = tokenizer.encode_batch(chosen[start : start + target.shape.batch])
                feeds = padded(rows, target.shape)
                engine.infer({name: array for name, array in feeds.items() if name in names})

        return TextEngine(
            answer,
            texts=texts,
            target=target,
            effective_precision=engine.effective_precision,
            close=engine.close,
        )


def _of_onnx(subject: Subject, wanted: str | None, like: EngineTarget) -> _OnnxVariant:
    """`wanted` is BACKEND or BACKEND:PRECISION; without it the first backend that can build and run here."""
    name, _, precision = (wanted or "").partition(":")
    name = name or next((x for x in BACKENDS if _missing(x) is None), "openvino")
    if name not in BACKENDS or (precision and precision not in PRECISIONS):
        raise BenchError(
            f"{subject.path} has no engine {wanted!r}; an ONNX file takes BACKEND or BACKEND:PRECISION with "
            f"{', '.join(BACKENDS)} and {', '.join(PRECISIONS)}"
        )
    if (reason := _missing(name)) is not None:
        raise BackendUnavailable(f"{subject.path}: {reason}")
    target = EngineTarget(
        backend=name,
        device="current" if name == "tensorrt" else "CPU",
        precision=cast(Precision, precision or "auto"),
        shape=like.shape,
        threads=like.threads,
    )
    return _OnnxVariant(name=subject.name or subject.path.stem, path=subject.path, target=target)


def _missing(name: str) -> str | None:
    """Why the backend can build or run nothing here."""
    found = backend(name)
    return found.unavailable() or found.can_run()


def _tokenizer(path: Path) -> Any:
    try:
        return importlib.import_module("tokenizers").Tokenizer.from_file(str(path))
    except Exception as error:
        raise BundleError(f"{path} is not a tokenizer: {error}") from error


# --- frameworks -----------------------------------------------------------------------------------------------------


def _of_torch(subject: Subject, like: EngineTarget) -> Variant:
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise BenchError(
                f"{subject.kind}:{subject.path} needs the package {package}, which is not installed: "
                "pip install 'atb-export[train]', or leave it out"
            )
    from atb_export.bench.frameworks import FrameworkVariant

    return FrameworkVariant.of(subject, like)
