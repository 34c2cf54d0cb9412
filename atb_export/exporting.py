"""From a model's folder to a bundle: what `atb export` does once its options are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from atb_export.checking import refuse_lean, refuse_strange_graphs, takes_pairs
from atb_export.dense import DenseModel, load_dense
from atb_export.errors import ExportError
from atb_export.lengths import chosen_lengths
from atb_export.packing import Origin, Packed, Say, pack, rebuild
from atb_export.probes import probe_sentences
from atb_export.verify import Parity, compare, reference_logits
from runtime.buckets import Buckets
from runtime.manifest import Bundle
from runtime.target import EngineTarget, Shape
from supernet.batches import TokenizedTexts, tokenize
from supernet.cost import parameters

if TYPE_CHECKING:
    from atb_export.onnx.accuracy_aware import FallBack

_CALIBRATION_ROWS = 16  # as many as a search takes: a range needs the outliers, and every text has them
_VERIFY_ROWS = 16

Row = tuple[str, ...]
"""One text, or the two of a pair."""


@dataclass(frozen=True, kw_only=True)
class ExportOrder:
    """What to export to. The targets' own length counts only without `lengths`.

    Without `lengths` they are chosen from `texts`, at most `buckets` of them. Of the rows, `texts` and `sentences` are
    verified on, int8 is calibrated on `calibration`, and the vocabulary is trimmed to what occurs in any of the three
    where `vocabulary` is not empty. With `int8_drop` linears that hurt stay in float until at most that share of the
    rows gets another label than from the float network. A `lean` bundle leaves the float weights out.
    """

    targets: tuple[EngineTarget, ...]
    lengths: tuple[int, ...]
    buckets: int = 4
    texts: tuple[Row, ...] = ()
    sentences: tuple[str, ...] = ()
    calibration: tuple[Row, ...] = ()
    vocabulary: tuple[Row, ...] = ()
    pairs: bool = False
    int8_words: bool = False
    int8_drop: float | None = None
    lean: bool = False

    def __post_init__(self) -> None:
        if not self.targets:
            raise ValueError("an export has at least one target")
        if not self.lengths and not self.texts:
            raise ValueError("lengths are chosen from texts, and none are given")


def export(model: Path, out: Path, order: ExportOrder, *, say: Say) -> tuple[Packed, Buckets | None]:
    """Writes the bundle `out`, and tells the lengths where they were chosen. Raises as `load_dense` and `pack` do."""
    say(f"reading {model}")
    dense = load_dense(model)
    limit = dense.net.facts.max_position_embeddings
    if over := [x for x in order.lengths if x > limit]:
        raise ExportError(
            f"length {over[0]} is beyond the model's position table, which ends at {limit}: ask for at most {limit}"
        )
    numbers: dict[str, Any] = {}
    if order.vocabulary:
        say("trimming the vocabulary")
        dense, numbers["vocabulary"] = _trimmed(dense, order)
    ranged = order.calibration[:_CALIBRATION_ROWS]
    longest = max(order.lengths, default=limit)
    calibration = tokenize(dense.tokenizer, ranged, max_length=longest) if ranged else None
    lengths, chosen = order.lengths, None
    if not lengths:
        say("measuring what each length costs")
        texts = tokenize(dense.tokenizer, order.texts, max_length=limit)
        target = replace(order.targets[0], dynamic=False)
        chosen = chosen_lengths(dense, target, texts, most=order.buckets, pairs=order.pairs, calibration=calibration)
        lengths = chosen.lengths
        numbers["buckets"] = {**chosen.to_json(), "texts": len(order.texts)}
    before: list[Parity] = []
    if order.int8_words:
        say("rounding the word table")
        dense, before = _rounded(dense, order, name=out.name, max_length=lengths[-1])
        numbers["int8_words"] = True
    kept: tuple[str, ...] = ()
    if order.int8_drop is not None and calibration is not None:
        say("finding what int8 hurts")
        found = _fall_back(dense, order, calibration, max_length=lengths[-1])
        kept = found.keep_float
        numbers |= {"keep_float": list(kept), "int8_fall_back": found.to_json()}
        say(
            f"left in float: {', '.join(kept) or 'nothing'}"
            + ("" if found.met else "; int8 still drops more than asked")
        )
    packed = pack(
        dense,
        out,
        [_of_length(x, n) for x in order.targets for n in (lengths[-1:] if x.dynamic else lengths)],
        texts=_probes(dense, order, max_length=lengths[-1]),
        calibration=calibration,
        keep_float=frozenset(kept),
        int8_words=order.int8_words,
        lean=order.lean,
        before=before,
        origin=Origin(
            name=out.name,
            task=f"telling {' or '.join(dense.labels[:6])}",
            max_length=lengths[-1],
            numbers={"parameters": parameters(dense.net.shape, dense.net.facts), "shape": str(dense.net.shape)}
            | numbers,
        ),
        say=say,
    )
    return packed, chosen


def rebuild_engines(bundle: Bundle, targets: Sequence[EngineTarget], *, say: Say) -> Packed:
    """The bundle with engines for `targets`, built here from the ONNX inside. Raises as `packing.rebuild` does."""
    refuse_lean(bundle)
    refuse_strange_graphs(bundle)
    return rebuild(bundle, targets, texts=bundle_probes(bundle, load_dense(bundle.folder)), say=say)


def bundle_probes(bundle: Bundle, dense: DenseModel) -> TokenizedTexts:
    """What a bundle is verified on when the texts it was packed with are gone."""
    pairs = takes_pairs(bundle)
    texts = [(text, text) if pairs else (text,) for text in probe_sentences(())]
    return tokenize(dense.tokenizer, texts, max_length=bundle.manifest.model.max_length)


def _of_length(target: EngineTarget, length: int) -> EngineTarget:
    return replace(target, shape=Shape(batch=target.shape.batch, length=length))


def _probes(dense: DenseModel, order: ExportOrder, *, max_length: int) -> TokenizedTexts:
    """Some of the user's rows, spread over the file, and the sentences."""
    own = order.texts[:: max(1, -(-len(order.texts) // _VERIFY_ROWS))]
    texts = [(text, text) if order.pairs else (text,) for text in probe_sentences(order.sentences)]
    return tokenize(dense.tokenizer, [*own, *texts], max_length=max_length)


def _trimmed(dense: DenseModel, order: ExportOrder) -> tuple[DenseModel, dict[str, int]]:
    from atb_export.vocabulary import trim

    rows = [*order.vocabulary, *order.texts, *order.calibration]
    small, kept = trim(dense, [row if order.pairs else row[0] for row in rows])
    return small, {"kept": len(kept), "of": dense.net.facts.vocab_size}


def _rounded(dense: DenseModel, order: ExportOrder, *, name: str, max_length: int) -> tuple[DenseModel, list[Parity]]:
    """The model with its word table in 256 steps a row, and what that does to its logits."""
    from atb_export.onnx.embeddings import round_words

    rounded, texts = round_words(dense), _probes(dense, order, max_length=max_length)
    got, wanted = reference_logits(rounded.net, texts), reference_logits(dense.net, texts)
    return rounded, [compare(name, "word table in int8 (rounding)", got, wanted, precision="rounding")]


@torch.no_grad()
def _fall_back(dense: DenseModel, order: ExportOrder, calibration: TokenizedTexts, *, max_length: int) -> FallBack:
    """Which linears stay in float, judged by the float network's own labels of the user's rows."""
    from atb_export.onnx.accuracy_aware import accuracy_aware, label_score

    rows = tokenize(dense.tokenizer, order.texts or order.calibration, max_length=max_length)
    labels = np.concatenate([dense.net(**batch).logits.argmax(-1).numpy() for batch in _batches(rows)])
    plain = replace(order.targets[0], backend="onnxruntime", device="CPU")
    target = next((x for x in order.targets if x.precision == "int8" and x.device == "CPU"), plain)
    score = label_score(rows, labels, replace(_of_length(target, max_length), precision="auto", dynamic=False))
    assert order.int8_drop is not None  # the caller's question
    return accuracy_aware(
        dense.net, dense.net.shape, calibration, token_types=order.pairs, score=score, allowed_drop=order.int8_drop
    ).found


def _batches(rows: TokenizedTexts, size: int = 32) -> Iterator[dict[str, torch.Tensor]]:
    for start in range(0, len(rows), size):
        yield rows.batch(range(start, min(start + size, len(rows))))
