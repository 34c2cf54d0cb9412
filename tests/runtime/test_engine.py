from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runtime import engine as engine_module
from runtime.backends import BACKENDS
from runtime.engine import (
    EngineBase,
    FeedCheck,
    ParallelEngine,
    backend,
    engine_dims,
    infer_many,
    refuse_missing_threads,
    static_dims,
)
from runtime.errors import AtbRuntimeError, FeedError, UnsupportedTarget
from runtime.target import Shape
from runtime.tensors import TensorSpec

SPECS = tuple(TensorSpec(name=name, dtype="int64", shape=(2, 4)) for name in ("input_ids", "attention_mask"))


def _feeds(**changes: Any) -> dict[str, Any]:
    feeds = {name: np.zeros((2, 4), np.int64) for name in ("input_ids", "attention_mask")} | changes
    return {name: value for name, value in feeds.items() if value is not None}


@pytest.mark.parametrize("name", sorted(BACKENDS))
def test_every_listed_backend_is_found_and_knows_its_name(name: str) -> None:
    assert backend(name).name == name


def test_unknown_backend_says_which_exist() -> None:
    with pytest.raises(UnsupportedTarget, match=r"no backend is called 'tvm'.*openvino"):
        backend("tvm")


def test_right_feeds_pass() -> None:
    FeedCheck(SPECS)(_feeds())
    FeedCheck(SPECS)(_feeds(input_ids=np.zeros((4, 2), np.int64).T))


@pytest.mark.parametrize(
    ("feeds", "says"),
    [
        (_feeds(attention_mask=None), "attention_mask is missing"),
        ({}, "nothing"),
        (_feeds(token_type_ids=np.zeros((2, 4), np.int64)), "unknown input token_type_ids"),
        (_feeds(input_ids=None, ids=np.zeros((2, 4), np.int64)), "input_ids is missing"),
        (_feeds(input_ids=np.zeros((2, 5), np.int64)), r"int64\[2, 5\].*int64\[2, 4\]"),
        (_feeds(input_ids=np.zeros((1, 4), np.int64)), r"int64\[1, 4\]"),
        (_feeds(attention_mask=np.zeros((2, 4), np.int32)), r"attention_mask is int32\[2, 4\]"),
        (_feeds(input_ids=[[0] * 4] * 2), "numpy array, got list"),
    ],
)
def test_wrong_feeds_are_refused_with_what_is_taken(feeds: dict[str, Any], says: str) -> None:
    with pytest.raises(FeedError, match=says) as caught:
        FeedCheck(SPECS)(feeds)
    assert "the engine takes input_ids int64[2, 4], attention_mask int64[2, 4]" in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, AtbRuntimeError)


def test_free_dimensions_become_the_targets() -> None:
    shape = Shape(batch=2, length=8)
    for dims in ((None, None), ("batch", "sequence"), (-1, -1), (2, "sequence"), (2, 8)):
        assert static_dims("input_ids", dims, shape) == (2, 8)


def test_fixed_dimensions_that_differ_are_refused() -> None:
    with pytest.raises(UnsupportedTarget, match="batch 2, but the model fixes input_ids at 1"):
        static_dims("input_ids", (1, None), Shape(batch=2, length=8))
    with pytest.raises(UnsupportedTarget, match="sequence 8"):
        static_dims("input_ids", ("batch", 16), Shape(batch=2, length=8))
    with pytest.raises(UnsupportedTarget, match="3 dimensions"):
        static_dims("input_ids", ("batch", 1, 16), Shape(batch=2, length=8))


def test_more_threads_than_cpus_are_refused(monkeypatch: pytest.MonkeyPatch, target_for: Any) -> None:
    monkeypatch.setattr(engine_module, "usable_cpus", lambda: 2)
    refuse_missing_threads(target_for("openvino", threads=2))
    with pytest.raises(UnsupportedTarget, match=r"3 threads.*2 CPUs"):
        refuse_missing_threads(target_for("openvino", threads=3))


def test_free_dimensions_take_any_size_up_to_the_most() -> None:
    specs = tuple(TensorSpec(name=x.name, dtype="int64", shape=("batch", "sequence")) for x in SPECS)
    check = FeedCheck(specs, Shape(batch=2, length=4))
    for dims in ((1, 1), (2, 4), (1, 4), (2, 3)):
        check({x.name: np.zeros(dims, np.int64) for x in SPECS})
    for wrong in (
        {x.name: np.zeros((2, 5), np.int64) for x in SPECS},
        {x.name: np.zeros((0, 4), np.int64) for x in SPECS},
        {x.name: np.zeros(4, np.int64) for x in SPECS},
        {x.name: np.zeros((1, 2, 4), np.int64) for x in SPECS},
        _feeds(attention_mask=np.zeros((2, 3), np.int64)),
        _feeds(attention_mask=np.zeros((2, 4), np.int32)),
        _feeds(attention_mask=None),
        _feeds(other=np.zeros((2, 4), np.int64)),
        {},
    ):
        with pytest.raises(
            FeedError, match=r"input_ids int64\[batch, sequence\].* with batch up to 2 and sequence up to 4"
        ):
            check(wrong)


def test_a_dynamic_target_leaves_free_what_the_model_does(target_for: Any) -> None:
    target = target_for("openvino", batch=2, length=8, dynamic=True)
    assert engine_dims("x", ("n", None), target) == ("batch", "sequence")
    assert engine_dims("x", (2, -1), target) == (2, "sequence")
    assert engine_dims("x", ("n", "m"), target_for("openvino", batch=1, length=8, dynamic=True)) == (1, "sequence")
    assert engine_dims("x", ("n", "m"), target_for("openvino", batch=2, length=8)) == (2, 8)
    with pytest.raises(UnsupportedTarget, match="batch 2, but the model fixes x at 1"):
        engine_dims("x", (1, None), target)


def test_every_engine_answers_many() -> None:
    class Plain(EngineBase):
        def infer(self, feeds: Any) -> Any:
            return feeds

        def close(self) -> None:
            pass

    class Parallel(Plain):
        def infer_many(self, feeds: Any) -> Any:
            return (("many", x) for x in feeds)

        def clone(self) -> Any:
            return self

        target = effective_precision = inputs = None

    assert list(infer_many(Plain(), iter([1, 2]))) == [1, 2]  # type: ignore[arg-type, list-item]
    assert isinstance(Parallel(), ParallelEngine)
    assert list(infer_many(Parallel(), [1])) == [("many", 1)]  # type: ignore[arg-type, list-item, comparison-overlap]


def test_an_engine_that_cannot_be_closed_is_no_engine() -> None:
    with pytest.raises(TypeError, match="abstract"):
        EngineBase()  # type: ignore[abstract]


def test_leaving_the_context_closes_even_after_an_error() -> None:
    closed = []

    class Probe(EngineBase):
        def close(self) -> None:
            closed.append(True)

    with pytest.raises(KeyError), Probe():
        raise KeyError
    assert closed == [True]
