"""Law 3 as far as ONNX goes (dense = ONNX), and law 4 on the exported graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from math import prod
from random import Random
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from atb_export.onnx.builder import GraphBuilder
from atb_export.onnx.graph import graph_from_supernet, graph_hash
from supernet.cost import flops
from supernet.facts import Embedding, Head, ModelFacts, PoolerActivation
from supernet.model import Supernet
from supernet.space import LayerConfig, SubnetConfig

FACTS = ModelFacts(vocab_size=100, max_position_embeddings=24, num_labels=3)
SHAPE = SubnetConfig.uniform(hidden_size=48, depth=4, heads=4, head_size=12, ffn_size=40, ffn_stack=3)
# (rows, length): alone and together, one token, an odd length, the whole position table
SIZES = ((1, 1), (1, 9), (4, 7), (3, 24))
ACTIVATIONS: tuple[PoolerActivation, ...] = ("tanh", "relu", "gelu")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Nets this small only wait for a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@torch.no_grad()
def make_supernet(seed: int = 0, facts: ModelFacts = FACTS) -> Supernet:
    """Every parameter random, LayerNorms and biases included."""
    model = Supernet(shape=SHAPE, facts=facts).eval()
    rng = torch.Generator().manual_seed(seed)
    norms = {id(m.weight) for m in model.modules() if isinstance(m, nn.LayerNorm)}
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=rng)
        if id(parameter) in norms:
            parameter.copy_(1 + 0.4 * noise)
        else:
            parameter.copy_(0.3 * noise if parameter.dim() == 1 else noise * parameter.shape[1] ** -0.5)
    return model


def draw_subnet(seed: int, *, depth: int | None = None) -> SubnetConfig:
    rng = Random(seed)
    kept = sorted(rng.sample(range(4), depth or rng.randint(1, 4)))
    layers = (
        LayerConfig(
            source=i,
            heads=rng.randint(1, 4),
            head_size=rng.randint(1, 12),
            ffn_size=rng.randint(1, 40),
            ffn_stack=rng.choice((1, 1, 2, 3)),
        )
        for i in kept
    )
    return SubnetConfig(hidden_size=rng.randint(2, 48), layers=tuple(layers))


def make_feeds(rows: int, length: int, *, types: bool, seed: int = 0) -> dict[str, Any]:
    """Every row but the first is padded to some length of its own."""
    rng = np.random.default_rng(seed)
    lengths = np.concatenate([[length], rng.integers(1, length + 1, size=rows - 1)])
    mask = (np.arange(length)[None] < lengths[:, None]).astype(np.int64)
    feeds = {"input_ids": rng.integers(1, 100, size=(rows, length)) * mask, "attention_mask": mask}
    if types:
        feeds["token_type_ids"] = rng.integers(0, 2, size=(rows, length)) * mask
    return feeds


def session_of(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def answers(session: onnxruntime.InferenceSession, feeds: dict[str, Any]) -> Any:
    return session.run(["logits"], feeds)[0]


def assert_same(found: Any, wanted: Any) -> None:
    """Within 1e-5 of the largest logit's size."""
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


@torch.no_grad()
def dense_answers(model: Supernet, feeds: dict[str, Any]) -> Any:
    return model(**{name: torch.from_numpy(x) for name, x in feeds.items()}).logits.numpy()


@pytest.mark.parametrize("types", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_law_3_onnx_answers_what_the_dense_model_answers(seed: int, types: bool) -> None:
    model = make_supernet(seed)
    subnet = draw_subnet(seed, depth=1 if seed < 3 else None)
    session, dense = session_of(graph_from_supernet(model, subnet, token_types=types)), model.slice(subnet)
    for rows, length in SIZES:
        feeds = make_feeds(rows, length, types=types, seed=seed)
        assert_same(answers(session, feeds), dense_answers(dense, feeds))


@pytest.mark.parametrize("labels", [1, 5])
def test_law_3_holds_for_the_largest_subnet_and_any_head(labels: int) -> None:
    facts = ModelFacts(
        vocab_size=100, max_position_embeddings=24, num_labels=labels, type_vocab_size=3, layer_norm_eps=1e-2
    )
    model = make_supernet(facts=facts)
    for types in (False, True):
        session = session_of(graph_from_supernet(model, token_types=types))
        for rows, length in SIZES:
            feeds = make_feeds(rows, length, types=types)
            assert_same(answers(session, feeds), dense_answers(model, feeds))


class Transposed(GraphBuilder):
    """As a builder for GPUs writes heads."""

    sliced_heads = False


@pytest.mark.parametrize("seed", range(4))
def test_heads_by_transposition_answer_what_heads_by_slices_answer(seed: int) -> None:
    model, subnet = make_supernet(seed), draw_subnet(seed, depth=3)
    graphs = [graph_from_supernet(model, subnet, token_types=True, builder=x) for x in (GraphBuilder, Transposed)]
    kinds = [{node.op_type for node in x.graph.node} for x in graphs]
    assert "Concat" in kinds[0]
    assert "Concat" not in kinds[1]
    sliced, transposed = map(session_of, graphs)
    for rows, length in SIZES:
        feeds = make_feeds(rows, length, types=True, seed=seed)
        assert_same(answers(transposed, feeds), answers(sliced, feeds))
        assert_same(answers(transposed, feeds), dense_answers(model.slice(subnet), feeds))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_law_3_holds_for_every_poolers_activation(activation: PoolerActivation) -> None:
    facts = dataclasses.replace(FACTS, pooler_activation=activation)
    model = make_supernet(facts=facts)
    graph = graph_from_supernet(model)
    assert {"tanh": "Tanh", "relu": "Relu", "gelu": "Gelu"}[activation] in {x.op_type for x in graph.graph.node}
    feeds = make_feeds(5, 11, types=False)
    assert_same(answers(session_of(graph), feeds), dense_answers(model, feeds))
    others = {
        graph_hash(SHAPE, dataclasses.replace(FACTS, pooler_activation=x), token_types=False) for x in ACTIVATIONS
    }
    assert len(others) == len(ACTIVATIONS)


@pytest.mark.parametrize("types", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_the_graph_of_a_subnet_is_the_graph_of_its_slice_to_the_byte(seed: int, types: bool) -> None:
    model, subnet = make_supernet(), draw_subnet(seed)
    cut = graph_from_supernet(model, subnet, token_types=types).SerializeToString(deterministic=True)
    assert cut == graph_from_supernet(model, subnet, token_types=types).SerializeToString(deterministic=True)
    alone = graph_from_supernet(model.slice(subnet), token_types=types).SerializeToString(deterministic=True)
    assert cut == alone


@pytest.mark.parametrize("seed", range(4))
def test_law_4_a_batch_answers_what_its_rows_answer_alone(seed: int) -> None:
    session = session_of(graph_from_supernet(make_supernet(seed), draw_subnet(seed), token_types=True))
    feeds = make_feeds(6, 12, types=True, seed=seed)
    together = answers(session, feeds)
    for row in range(6):
        length = int(feeds["attention_mask"][row].sum())
        for width in (length, 12, 20):
            padding = ((0, 0), (0, max(0, width - 12)))
            alone = {name: np.pad(x[row : row + 1, : min(width, 12)], padding) for name, x in feeds.items()}
            assert_same(answers(session, alone), together[row : row + 1])


def test_what_stands_in_the_padding_does_not_matter() -> None:
    session = session_of(graph_from_supernet(make_supernet(), token_types=True))
    feeds = make_feeds(4, 10, types=True)
    hidden = feeds["attention_mask"] == 0
    assert hidden.any()
    other = dict(feeds, input_ids=np.where(hidden, 77, feeds["input_ids"]))
    other["token_type_ids"] = np.where(hidden, 1, feeds["token_type_ids"])
    assert_same(answers(session, other), answers(session, feeds))


@pytest.mark.parametrize("types", [False, True])
def test_inputs_and_outputs(types: bool) -> None:
    graph = graph_from_supernet(make_supernet(), draw_subnet(3), token_types=types).graph
    names = ["input_ids", "attention_mask"] + ["token_type_ids"] * types
    assert sorted(x.name for x in graph.input) == sorted(names)
    for x in graph.input:
        assert x.type.tensor_type.elem_type == onnx.TensorProto.INT64
        assert [d.dim_param for d in x.type.tensor_type.shape.dim] == ["batch", "sequence"]
    (logits,) = graph.output
    dims = logits.type.tensor_type.shape.dim
    assert (logits.name, dims[0].dim_param, dims[1].dim_value) == ("logits", "batch", 3)
    assert logits.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    values = [name for node in graph.node for name in node.output]
    assert len(set(values)) == len(values)
    held = {w.name for w in graph.initializer}
    assert held == held & {name for node in graph.node for name in node.input}, "a weight that nothing reads"


def test_no_constant_overflows_in_half_precision() -> None:
    for weight in graph_from_supernet(make_supernet(), token_types=True).graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT:
            assert np.isfinite(onnx.numpy_helper.to_array(weight).astype(np.float16)).all(), weight.name


def counted_flops(model: onnx.ModelProto, batch: int, length: int) -> int:
    """Two operations a multiply-add, over every MatMul of the graph, by ONNX's own shape inference."""
    for x in (*model.graph.input, *model.graph.output):
        for dim in x.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = {"batch": batch, "sequence": length}[dim.dim_param]
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    shapes = {x.name: list(x.dims) for x in inferred.initializer}
    for x in (*inferred.value_info, *inferred.input, *inferred.output):
        shapes[x.name] = [d.dim_value for d in x.type.tensor_type.shape.dim]
    products = [node for node in inferred.node if node.op_type in ("MatMul", "Gemm", "Einsum", "Attention")]
    assert {node.op_type for node in products} == {"MatMul"}
    assert all(min(shapes[node.input[0]] + shapes[node.output[0]]) > 0 for node in products)
    return sum(2 * prod(shapes[node.output[0]]) * shapes[node.input[0]][-1] for node in products)


@pytest.mark.parametrize("seed", range(12))
def test_flops_are_those_of_the_graphs_matrix_products(seed: int) -> None:
    model, subnet = make_supernet(), draw_subnet(seed, depth=1 if seed < 3 else None)
    for batch, length in ((1, 9), (4, 24)):
        counted = counted_flops(graph_from_supernet(model, subnet), batch, length)
        assert flops(subnet, length=length, batch=batch, num_labels=3) == counted


@pytest.mark.parametrize("head", ["sequence", "token", "span"])
@pytest.mark.parametrize("embedding", ["table", "factorised", "trigram"])
def test_flops_follow_embedding_and_head(embedding: Embedding, head: Head) -> None:
    facts = dataclasses.replace(
        FACTS, head=head, num_labels=2, embedding=embedding, embedding_size=None if embedding == "table" else 10
    )
    for seed in range(3):
        subnet = draw_subnet(seed, depth=1 + seed)
        for batch, length in ((1, 9), (4, 24)):
            counted = counted_flops(graph_from_supernet(make_supernet(facts=facts), subnet), batch, length)
            assert flops(subnet, length=length, batch=batch, facts=facts) == counted


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden_size": 49},
        {"heads": 5},
        {"head_size": 13},
        {"ffn_size": 41},
        {"ffn_stack": 4},
        {"depth": 2, "sources": [1, 4]},
    ],
)
def test_a_subnet_that_does_not_fit_is_refused(wrong: dict[str, Any]) -> None:
    """Cutting past the end would quietly give a smaller graph under the wrong name."""
    sizes = {"hidden_size": 48, "depth": 2, "heads": 4, "head_size": 12, "ffn_size": 40}
    with pytest.raises(ValueError, match="does not fit"):
        graph_from_supernet(make_supernet(), SubnetConfig.uniform(**(sizes | wrong)))


# --- the graph without its weights ----------------------------------------------------------------------------------


class Kept(GraphBuilder):
    """Remembers the last one, and which products went through `linear`."""

    last: Kept

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.linears: list[str] = []
        Kept.last = self

    def linear(self, x: str, name: str, weight: Any, bias: Any) -> str:
        self.linears.append(name)
        return super().linear(x, name, weight, bias)


def bare(model: onnx.ModelProto) -> bytes:
    """A graph with everything but its name and the values of its floats."""
    model.graph.name = ""
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT:
            weight.ClearField("raw_data")
    return model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("types", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_the_hash_is_that_of_the_graph_really_built(seed: int, types: bool) -> None:
    subnet = draw_subnet(seed, depth=1 if seed < 2 else None)
    digest = graph_hash(subnet, FACTS, token_types=types)
    assert len(digest) == 64
    for weights in (1, 2):
        graph_from_supernet(make_supernet(weights), subnet, token_types=types, builder=Kept)
        assert Kept.last.structure() == digest


def test_hashes_are_equal_where_bare_graphs_are() -> None:
    """Over neighbours in every dimension, every fact, and subnets that keep other layers."""
    base = SubnetConfig.uniform(hidden_size=24, depth=2, heads=2, head_size=6, ffn_size=20, ffn_stack=2)
    first, second = base.layers
    found = [(base, FACTS, False), (base, FACTS, True)]
    for change in ({"heads": 3}, {"head_size": 7}, {"heads": 4, "head_size": 3}, {"ffn_size": 21}, {"ffn_stack": 1}):
        for layers in ((dataclasses.replace(first, **change), second), (first, dataclasses.replace(second, **change))):
            found.append((dataclasses.replace(base, layers=layers), FACTS, False))
    other = dataclasses.replace(base, layers=(first, dataclasses.replace(second, source=3)))
    found += [(dataclasses.replace(base, hidden_size=25), FACTS, False), (other, FACTS, False)]
    found.append((dataclasses.replace(base, layers=(first,)), FACTS, False))
    for fact in (
        {"vocab_size": 101},
        {"max_position_embeddings": 25},
        {"num_labels": 4},
        {"layer_norm_eps": 1e-5},
        {"type_vocab_size": 3},
    ):
        for types in (False, True):
            found.append((base, dataclasses.replace(FACTS, **fact), types))
    hashes, graphs = [], []
    for subnet, facts, types in found:
        hashes.append(graph_hash(subnet, facts, token_types=types))
        graphs.append(bare(graph_from_supernet(make_supernet(facts=facts), subnet, token_types=types)))
    for i in range(len(found)):
        for j in range(i):
            assert (hashes[i] == hashes[j]) == (graphs[i] == graphs[j]), (found[i], found[j])
    assert hashes[found.index((other, FACTS, False))] == hashes[0]
    # the table of token types is only in graphs that read it, so it may be longer unnoticed in the others
    assert len(set(hashes)) == len(hashes) - 2


def test_a_real_vocabulary_costs_the_hash_nothing() -> None:
    """No table is made: nothing near the 2 TB that this one would take."""
    facts = ModelFacts(vocab_size=500_000_000, max_position_embeddings=512)
    subnet = SubnetConfig.uniform(hidden_size=1024, depth=2, heads=16, ffn_size=4096)
    assert len(graph_hash(subnet, facts, token_types=False)) == 64


def test_all_linears_go_through_the_builder() -> None:
    subnet = SubnetConfig.uniform(hidden_size=24, depth=2, heads=2, head_size=6, ffn_size=20, ffn_stack=2)
    graph_from_supernet(make_supernet(), subnet, builder=Kept)
    cells = [f"{cell}.{part}" for cell in ("{}", "{}.cell1") for part in ("intermediate", "output")]
    wanted = ["layer0.qkv", "layer0.attention_output", *(x.format("layer0") for x in cells)]
    wanted += ["layer1.query", "layer1.attention_output", *(x.format("layer1") for x in cells), "pooler", "logits"]
    assert Kept.last.linears == wanted


def test_a_model_in_another_float_type_is_exported_in_float32() -> None:
    model, subnet = make_supernet(), draw_subnet(3)
    wide = graph_from_supernet(make_supernet().double(), subnet).SerializeToString(deterministic=True)
    assert wide == graph_from_supernet(model, subnet).SerializeToString(deterministic=True)
