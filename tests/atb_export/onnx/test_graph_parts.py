"""Law 3 for what stock BERT has not: cells of any expression, projected embeddings, heads that answer for tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from atb_export.errors import ExportError
from atb_export.onnx.as_written import AsWritten
from atb_export.onnx.builder import GraphBuilder
from atb_export.onnx.calibration import inputs_seen
from atb_export.onnx.embeddings import int8_words
from atb_export.onnx.graph import graph_bytes, graph_from_supernet, graph_hash
from atb_export.onnx.quantise import quantised_bytes
from atb_export.onnx.typed import typed_graph_bytes
from atb_export.verify import TOLERANCES
from runtime.backends.onnxruntime import FreeSession
from supernet.batches import TokenizedTexts
from supernet.cells import PLAIN, Cell
from supernet.cost import flops
from supernet.facts import Embedding, Head, ModelFacts
from supernet.model import Supernet
from supernet.published import EFFICIENTBERT_CELLS, PUBLISHED
from supernet.space import LayerConfig, SubnetConfig

pytest.importorskip("onnxruntime")
FACTS = ModelFacts(vocab_size=100, max_position_embeddings=24, num_labels=3)
SHAPE = SubnetConfig.uniform(hidden_size=48, depth=4, heads=4, head_size=12, ffn_size=60, ffn_stack=3)
SIZES = ((1, 1), (1, 2), (4, 7), (3, 24))
EMBEDDINGS: tuple[Embedding, ...] = ("table", "factorised", "trigram")
HEADS: tuple[Head, ...] = ("sequence", "token", "span")
EVERYTHING = Cell(
    "max(add(linear2(swish(mul(cut(elu(x)), linear1(leaky_relu(x))))), sigmoid(x)), tanh(mul(gelu(x), relu(x))))"
)
Make = Callable[..., Any]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def facts(head: Head = "sequence", embedding: Embedding = "table") -> ModelFacts:
    size = None if embedding == "table" else 10
    return replace(FACTS, head=head, num_labels=2 if head == "span" else 3, embedding=embedding, embedding_size=size)


@torch.no_grad()
def net_of(kind: ModelFacts = FACTS, *, seed: int = 0, shape: SubnetConfig = SHAPE) -> Supernet:
    """Every parameter random, the padding's row, LayerNorms and biases included."""
    model = Supernet(shape=shape, facts=kind).eval()
    rng = torch.Generator().manual_seed(seed)
    norms = {id(m.weight) for m in model.modules() if isinstance(m, nn.LayerNorm)}
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=rng)
        if id(parameter) in norms:
            parameter.copy_(1 + 0.4 * noise)
        else:
            parameter.copy_(0.3 * noise if parameter.dim() == 1 else noise * parameter.shape[1] ** -0.5)
    return model


def drawn(seed: int, *, depth: int | None = None, cells: Callable[[Random], Cell] = Cell.sample) -> SubnetConfig:
    """Every dimension and each layer's cell at random; neurons more and fewer than hidden dims."""
    rng = Random(seed)
    layers = (
        LayerConfig(
            source=i,
            heads=rng.randint(1, 4),
            head_size=rng.randint(1, 12),
            ffn_size=rng.randint(1, 60),
            ffn_stack=rng.choice((1, 1, 2, 3)),
            cell=cells(rng),
        )
        for i in sorted(rng.sample(range(4), depth or rng.randint(1, 4)))
    )
    return SubnetConfig(hidden_size=rng.randint(2, 48), layers=tuple(layers))


def texts(rows: int, length: int, *, types: bool = False, seed: int = 0) -> dict[str, torch.Tensor]:
    """The first text fills its row."""
    rng = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, length + 1, (rows,), generator=rng)
    lengths[0] = length
    mask = (torch.arange(length)[None] < lengths[:, None]).long()
    batch = {"input_ids": torch.randint(1, 100, (rows, length), generator=rng) * mask, "attention_mask": mask}
    if types:
        batch["token_type_ids"] = torch.randint(0, 2, (rows, length), generator=rng) * mask
    return batch


def run(graph: bytes, batch: dict[str, torch.Tensor], *, optimised: bool = True) -> Any:
    session = FreeSession(graph, optimised=optimised)
    return session.run({name: batch[name].numpy() for name in session.inputs})["logits"]


@torch.no_grad()
def exact(net: Supernet, batch: dict[str, torch.Tensor]) -> Any:
    return net.slice(net.shape).double()(**batch).logits.numpy()


def assert_same(found: Any, wanted: Any, batch: dict[str, torch.Tensor], *, within: float = 1e-5) -> None:
    """Of the largest logit's size; what is answered for padding means nothing."""
    assert found.shape == wanted.shape
    if wanted.ndim == 3:
        kept = batch["attention_mask"].numpy() == 1
        found, wanted = found[kept], wanted[kept]
    assert np.isfinite(found).all()
    assert np.abs(found - wanted).max() <= within * max(1.0, np.abs(wanted).max())


@pytest.mark.parametrize("seed", range(16))
def test_law_3_for_drawn_cells(seed: int) -> None:
    net, subnet = net_of(seed=seed), drawn(seed, depth=1 if seed < 2 else None)
    dense, graph = net.slice(subnet), graph_bytes(net, subnet, token_types=seed % 2 == 0)
    for rows, length in SIZES:
        batch = texts(rows, length, types=seed % 2 == 0, seed=seed)
        assert_same(run(graph, batch), exact(dense, batch), batch)
    assert graph == graph_bytes(dense, token_types=seed % 2 == 0)


@pytest.mark.parametrize("width", [17, 48, 60])
@pytest.mark.parametrize("cell", [*EFFICIENTBERT_CELLS, EVERYTHING, Cell("linear2(linear1(x))")], ids=str)
def test_law_3_for_every_operation(cell: Cell, width: int) -> None:
    subnet = SubnetConfig.uniform(hidden_size=48, depth=2, heads=4, ffn_size=width, ffn_stack=2, cell=cell)
    net, batch = net_of(), texts(4, 9)
    assert_same(run(graph_bytes(net, subnet), batch), exact(net.slice(subnet), batch), batch)


@pytest.mark.parametrize("types", [False, True])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_law_3_for_every_embedding_and_head(embedding: Embedding, head: Head, types: bool) -> None:
    for seed in range(3):
        net, subnet = net_of(facts(head, embedding), seed=seed), drawn(seed, depth=1 + seed)
        model = graph_from_supernet(net, subnet, token_types=types)
        onnx.checker.check_model(model, full_check=True)
        assert sorted(x.name for x in model.graph.input)[:2] == ["attention_mask", "input_ids"]
        graph = model.SerializeToString()
        for rows, length in SIZES:
            batch = texts(rows, length, types=types, seed=seed)
            wanted = exact(net.slice(subnet), batch)
            assert wanted.shape == ((rows, 3) if head == "sequence" else (rows, length, net.facts.num_labels))
            assert_same(run(graph, batch), wanted, batch)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_law_4_on_the_graph(embedding: Embedding, head: Head) -> None:
    session = FreeSession(graph_bytes(net_of(facts(head, embedding)), drawn(5)), optimised=True)
    batch = {name: x.numpy() for name, x in texts(4, 12).items()}
    together = session.run(batch)["logits"]
    for row in range(4):
        length = int(batch["attention_mask"][row].sum())
        alone = session.run({name: x[row : row + 1, :length] for name, x in batch.items()})["logits"]
        wanted = together[row] if head == "sequence" else together[row, :length]
        np.testing.assert_allclose(alone[0], wanted, rtol=1e-4, atol=1e-4)


def test_flops_of_a_masked_language_model_count_its_words() -> None:
    kind = replace(FACTS, head="mlm")
    more = flops(SHAPE, length=8, facts=replace(kind, vocab_size=101)) - flops(SHAPE, length=8, facts=kind)
    assert more == 2 * 8 * 48


def test_what_occurs_twice_is_computed_once_and_plain_cells_are_written_as_ever() -> None:
    cell = Cell("add(mul(tanh(x), linear2(gelu(linear1(tanh(x))))), tanh(x))")
    graph = graph_from_supernet(
        net_of(), SubnetConfig.uniform(hidden_size=48, depth=1, heads=4, ffn_size=20, cell=cell)
    )
    kinds = [node.op_type for node in graph.graph.node]
    assert kinds.count("Tanh") == 1 + 1  # and the pooler's
    plain = graph_from_supernet(net_of(), SubnetConfig.uniform(hidden_size=48, depth=1, heads=4, ffn_size=20))
    names = [node.name for node in plain.graph.node if node.name.startswith("layer0.")]
    wanted = [
        "layer0.intermediate.product",
        "layer0.intermediate",
        "layer0.gelu",
        "layer0.output.product",
        "layer0.output",
    ]
    assert names[names.index(wanted[0]) :][:6] == [*wanted, "layer0.output_sum"]


def test_a_hash_tells_cells_embeddings_and_heads_apart() -> None:
    sizes = {"hidden_size": 24, "depth": 2, "heads": 2, "ffn_size": 20}
    cells = [PLAIN, Cell("relu"), Cell("linear2(gelu(linear1(tanh(x))))"), EVERYTHING]
    found = [(SubnetConfig.uniform(**sizes, cell=cell), FACTS) for cell in cells]
    found += [(found[0][0], facts(head, kind)) for head in HEADS for kind in EMBEDDINGS][1:]
    hashes = [graph_hash(subnet, kind, token_types=False) for subnet, kind in found]
    assert len(set(hashes)) == len(hashes)
    builder = GraphBuilder("kept")
    graph_from_supernet(net_of(found[-1][1]), found[-1][0], builder=lambda _: builder)
    assert builder.structure() == hashes[-1]


def test_a_masked_language_model_is_not_served_yet() -> None:
    net = net_of(replace(FACTS, head="mlm"))
    with pytest.raises(ExportError, match=r"a masked language model is not served yet.*with_head"):
        graph_bytes(net)
    assert graph_bytes(net.with_head("sequence"))


# --- of other precisions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["f16", "bf16"])
@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_typed_graphs_hold_every_operation(embedding: Embedding, precision: Any) -> None:
    net = net_of(facts("sequence", embedding), seed=2)
    subnet = SubnetConfig.uniform(hidden_size=48, depth=2, heads=4, ffn_size=30, cell=EVERYTHING)
    graph = onnx.load_from_string(typed_graph_bytes(net, subnet, token_types=True, precision=precision))
    onnx.checker.check_model(graph, full_check=True)
    batch = texts(4, 9, types=True)
    session = AsWritten(graph)
    found = session.run({name: batch[name].numpy() for name in session.inputs})["logits"]
    assert_same(found, exact(net.slice(subnet), batch), batch, within=TOLERANCES[precision])


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_int8_takes_the_projection_and_both_linears_of_a_cell(embedding: Embedding) -> None:
    net = net_of(facts("sequence", embedding), seed=3)
    subnet = SubnetConfig.uniform(hidden_size=48, depth=2, heads=4, ffn_size=30, cell=EVERYTHING)
    rng = Random(0)
    rows = TokenizedTexts(input_ids=tuple([rng.randint(1, 99) for _ in range(rng.randint(3, 24))] for _ in range(12)))
    seen = inputs_seen(net, subnet, rows, token_types=False)
    projection = {"embedding_projection"} if embedding != "table" else set()
    assert set(seen) >= projection | {"layer0.intermediate", "layer0.output", "layer1.intermediate", "layer1.output"}
    graph = quantised_bytes(net, subnet, rows, token_types=False)
    quantised = [x.name for x in onnx.load_from_string(graph).graph.node if x.op_type == "QuantizeLinear"]
    assert len(quantised) == len(seen)
    batch = rows.batch(range(len(rows)))
    wanted = exact(net.slice(subnet), batch)
    assert_same(run(graph, batch), wanted, batch, within=TOLERANCES["int8"])
    assert not np.allclose(run(graph, batch), wanted, atol=1e-5)


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_int8_words_of_a_narrow_table(embedding: Embedding) -> None:
    net, batch = net_of(facts("sequence", embedding)), texts(4, 9)
    graph = int8_words(graph_bytes(net))
    assert_same(run(graph, batch), exact(net, batch), batch, within=0.1)
    assert any(
        x.name == "words" and x.data_type == onnx.TensorProto.INT8
        for x in onnx.load_from_string(graph).graph.initializer
    )


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_openvino_computes_efficientbert(precision: str) -> None:
    """Its published shape over a fifth of the hidden size, compiled."""
    pytest.importorskip("openvino")
    from runtime.engine import backend
    from runtime.target import EngineTarget, Shape

    found = PUBLISHED["efficientbert"]
    layers = tuple(replace(x, head_size=9, ffn_size=x.ffn_size // 5) for x in found.shape.layers)
    shape = replace(found.shape, hidden_size=108, layers=layers)
    net, batch = net_of(replace(found.facts(FACTS), embedding_size=25), shape=shape), texts(4, 24)
    target = EngineTarget(backend="openvino", precision=precision, shape=Shape(batch=4, length=24))  # type: ignore[arg-type]
    with backend("openvino").open(graph_bytes(net), target) as engine:
        answer = engine.infer({name: x.numpy() for name, x in batch.items()})["logits"]
        kept = engine.effective_precision
    assert_same(answer, exact(net, batch), batch, within=TOLERANCES[kept])
