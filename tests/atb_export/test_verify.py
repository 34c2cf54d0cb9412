"""The tolerance table and its refusals; engines here are arithmetic, so that every error is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from atb_export.dense import DenseModel
from atb_export.errors import VerificationError
from atb_export.verify import (
    TOLERANCES,
    WORST_ROW,
    Parity,
    by_place,
    compare,
    engine_logits,
    feeds_for,
    probe_texts,
    reference_logits,
    refuse,
)
from runtime.target import EngineTarget, Shape
from runtime.tensors import TensorSpec
from supernet.batches import TokenizedTexts

WANTED = np.array([[1.0, -1.0], [0.5, 4.0], [-2.0, 0.0]])
BY_ROWS = {"int8": slice(1, 3), "rounding": slice(1, 3)}  # held to the table by the middle of the three rows
Dense = Callable[..., DenseModel]


class CountingEngine:
    """Answers with each row's first id and number of real tokens."""

    def __init__(self, batch: int, length: int, names: tuple[str, ...] = ("input_ids", "attention_mask")) -> None:
        self.target = EngineTarget(backend="openvino", shape=Shape(batch=batch, length=length))
        self.inputs = tuple(TensorSpec(name=x, dtype="int64", shape=(batch, length)) for x in names)
        self.batches: list[Any] = []

    def infer(self, feeds: Any) -> dict[str, Any]:
        assert all(feeds[x.name].shape == x.shape and feeds[x.name].dtype == np.int64 for x in self.inputs)
        self.batches.append(feeds)
        return {"logits": np.stack([feeds["input_ids"][:, 0], feeds["attention_mask"].sum(1)], 1).astype(np.float32)}


def texts_of(*lengths: int, types: bool = False) -> TokenizedTexts:
    ids = tuple([i + 1] * n for i, n in enumerate(lengths))
    return TokenizedTexts(input_ids=ids, token_type_ids=ids if types else None)


@pytest.mark.parametrize("precision", TOLERANCES)
def test_an_error_is_relative_to_the_largest_logit_and_held_to_the_table(precision: str) -> None:
    allowed = TOLERANCES[precision]
    for factor, passed in ((0.99, True), (1.01, False)):
        got = WANTED.copy()
        got[BY_ROWS.get(precision, 2), 1] += 4.0 * allowed * factor
        row = compare("m", "s", got, WANTED, precision=precision)
        assert row.passed is passed
        assert row.max_abs_error == pytest.approx(allowed * factor, rel=1e-6)
        assert row.tolerance == allowed
    assert compare(
        "m", "s", WANTED / 100 + allowed * 0.99, WANTED / 100, precision=precision
    ).passed  # absolute below 1


@pytest.mark.parametrize("precision", BY_ROWS)
def test_a_row_at_a_rounding_edge_may_move_but_not_far(precision: str) -> None:
    got = WANTED.copy()
    got[1, 1] += 4.0 * 0.99 * WORST_ROW
    row = compare("m", "s", got, WANTED, precision=precision)
    assert (row.passed, row.max_abs_error) == (True, 0.0)
    got[1, 1] += 4.0 * 0.02 * WORST_ROW
    row = compare("m", "s", got, WANTED, precision=precision)
    assert row.passed is False
    assert row.max_abs_error == pytest.approx(1.01 * WORST_ROW)
    assert compare("m", "s", got, WANTED, precision="bf16").max_abs_error == pytest.approx(1.01 * WORST_ROW)


def test_a_precision_without_a_tolerance_is_refused() -> None:
    with pytest.raises(VerificationError, match="computes in i8; tolerances exist for f64, f32"):
        compare("m", "engine", WANTED, WANTED, precision="i8")


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_fails(bad: float, precision: str) -> None:
    got = WANTED.copy()
    got[0, 0] = bad
    row = compare("m", "s", got, WANTED, precision=precision)
    assert row.passed is False
    with pytest.raises(VerificationError, match="error inf"):
        refuse([row])


def test_the_refusal_shows_the_worst_case() -> None:
    """Worst against its own tolerance, not in absolute numbers."""
    rows = [
        compare("winner", "onnx", WANTED, WANTED, precision="f32"),
        compare("winner", "engine-a", WANTED + 4 * 0.009, WANTED, precision="f32"),
        compare("winner", "engine-b", WANTED[:, ::-1] * 0.1, WANTED, precision="bf16"),
        Parity(model="winner", stage="gpu", skipped="no GPU"),
    ]
    assert (rows[2].max_abs_error or 0) > 0.5
    with pytest.raises(VerificationError) as caught:
        refuse(rows)
    text = str(caught.value)
    assert text.startswith(
        f"2 of 4 comparisons failed; the worst is winner / engine-a: error 0.009, allowed {TOLERANCES['f32']:.3g}, "
        "labels agree on 100.0% of 3 rows"
    )
    assert "neither measured nor packed" in text
    refuse([rows[0], rows[3]])


@pytest.mark.parametrize("shape", [(1, 2), (3, 1), (2,), (3, 2, 1), (4, 3, 2)])
def test_answers_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    """Numpy would stretch one row over three and find no difference."""
    with pytest.raises(VerificationError, match=r"3, 2"):
        compare("m", "s", np.ones(shape), np.ones((3, 2)), precision="f32")


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_engines_answer_every_text_once_in_their_own_batches(batch: int) -> None:
    texts = texts_of(3, 1, 5, 2, 4)
    engine = CountingEngine(batch, 6)
    assert engine_logits(engine, texts).tolist() == [[1, 3], [2, 1], [3, 5], [4, 2], [5, 4]]
    assert len(engine.batches) == -(-5 // batch)


def test_feeds_are_padded_and_missing_inputs_are_zeros() -> None:
    texts = texts_of(3, 1, types=True)
    feeds = feeds_for(CountingEngine(3, 4, ("input_ids", "attention_mask", "token_type_ids")), texts, [0, 1])
    assert feeds["input_ids"].tolist() == [[1, 1, 1, 0], [2, 0, 0, 0], [2, 0, 0, 0]]
    assert feeds["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    assert feeds["token_type_ids"].tolist() == [[1, 1, 1, 0], [2, 0, 0, 0], [2, 0, 0, 0]]
    single = feeds_for(CountingEngine(1, 4, ("input_ids", "attention_mask", "token_type_ids")), texts_of(2), [0])
    assert single["token_type_ids"].tolist() == [[0, 0, 0, 0]]
    assert set(feeds_for(CountingEngine(1, 4), texts, [0])) == {"input_ids", "attention_mask"}


def test_padding_changes_nothing(make_dense: Dense, probes: TokenizedTexts) -> None:
    net = make_dense().net
    wanted = reference_logits(net, probes)
    with torch.no_grad():
        batch = probes.batch(range(len(probes)), length=40)
        got = net(**batch).logits.numpy()
        batch["input_ids"] = torch.where(batch["attention_mask"] == 1, batch["input_ids"], 77)
        other = net(**batch).logits.numpy()
    assert compare("m", "padded", got, wanted, precision="f32").max_abs_error < 1e-5
    assert np.array_equal(got, other)


def test_the_reference_is_exact_and_leaves_the_net_alone(make_dense: Dense, probes: TokenizedTexts) -> None:
    net = make_dense().net
    wanted = reference_logits(net, probes)
    assert wanted.dtype == np.float64
    assert net.pooler.weight.dtype == torch.float32
    assert np.array_equal(wanted, reference_logits(net, probes, net.shape))


def test_probes_spread_over_the_lengths_and_are_cut() -> None:
    texts = texts_of(*range(1, 31), types=True)
    picked = probe_texts(texts, length=20, count=5)
    assert [len(x) for x in picked.input_ids] == [1, 8, 15, 20, 20]
    assert [len(x) for x in picked.token_type_ids or ()] == [len(x) for x in picked.input_ids]
    assert (picked.input_ids[0][0], picked.input_ids[-1][0]) == (1, 30)
    assert len(probe_texts(texts_of(4, 2), length=9, count=8)) == 2
    assert len(probe_texts(texts_of(4, 2), length=9, count=1)) == 1


def test_spans_are_compared_by_the_place_they_choose() -> None:
    """Starts and ends of each text, one row each; behind a text's end nothing new stands, so nothing is chosen."""
    short, long = np.array([[1.0, 5.0], [2.0, 4.0]]), np.array([[0.0, 1.0], [3.0, 0.0], [7.0, 9.0]])
    rows = by_place([short, long])
    assert rows.tolist() == [[1.0, 2.0, 1.0], [5.0, 4.0, 5.0], [0.0, 3.0, 7.0], [1.0, 0.0, 9.0]]
    assert rows.argmax(-1).tolist() == [1, 0, 2, 2]
    assert compare("m", "s", rows, rows, precision="f32").label_agreement == 1.0
