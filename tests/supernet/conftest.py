"""A tiny supernet whose LayerNorms and biases are random too: fresh ones and zeros would hide a wrong cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

import pytest
import torch
from torch import Tensor, nn

from supernet.facts import ModelFacts
from supernet.model import Supernet
from supernet.space import LayerConfig, SubnetConfig

Batch = dict[str, Tensor]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Nets this small only wait for a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def facts() -> ModelFacts:
    return ModelFacts(vocab_size=100, max_position_embeddings=24, num_labels=3)


@pytest.fixture(scope="session")
def shape() -> SubnetConfig:
    return SubnetConfig.uniform(hidden_size=48, depth=4, heads=4, head_size=12, ffn_size=40)


@pytest.fixture(scope="session")
def stacked() -> SubnetConfig:
    """Layers of 3, 1, 2 and 4 feed-forward cells."""
    layers = (
        LayerConfig(source=i, heads=4, head_size=12, ffn_size=40, ffn_stack=k) for i, k in enumerate((3, 1, 2, 4))
    )
    return SubnetConfig(hidden_size=48, layers=tuple(layers))


@pytest.fixture(scope="session")
def randomise() -> Callable[..., None]:
    """Draws every parameter of a module anew, LayerNorms included."""

    @torch.no_grad()
    def draw(model: nn.Module, seed: int = 0) -> None:
        rng = torch.Generator().manual_seed(seed)
        norms = {id(m.weight) for m in model.modules() if isinstance(m, nn.LayerNorm)}
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=rng)
            if id(parameter) in norms:
                parameter.copy_(1 + 0.4 * noise)
            elif parameter.dim() == 1:
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_(noise * parameter.shape[1] ** -0.5)

    return draw


@pytest.fixture(scope="session")
def make_supernet(shape: SubnetConfig, facts: ModelFacts, randomise: Callable[..., None]) -> Callable[..., Supernet]:
    def build(seed: int = 0, *, shape: SubnetConfig = shape, facts: ModelFacts = facts) -> Supernet:
        model = Supernet(shape=shape, facts=facts)
        randomise(model, seed)
        return model.eval()

    return build


@pytest.fixture(scope="session")
def make_batch(facts: ModelFacts) -> Callable[..., Batch]:
    """Texts of different lengths (the first fills its row), the rest padded; `types` adds a second segment."""

    def build(rows: int = 4, length: int = 9, *, seed: int = 0, types: bool = True) -> Batch:
        rng = torch.Generator().manual_seed(seed)
        lengths = torch.randint(1, length + 1, (rows,), generator=rng)
        lengths[0] = length
        mask = (torch.arange(length)[None] < lengths[:, None]).long()
        ids = torch.randint(1, facts.vocab_size, (rows, length), generator=rng)
        batch = {"input_ids": torch.where(mask == 1, ids, facts.pad_token_id), "attention_mask": mask}
        if types:
            batch["token_type_ids"] = torch.randint(0, 2, (rows, length), generator=rng) * mask
        return batch

    return build


@pytest.fixture(scope="session")
def draw_subnet(shape: SubnetConfig) -> Callable[..., SubnetConfig]:
    """Any subnet that fits, every dimension drawn on its own and from all integers, not from round choices."""

    def draw(seed: int, shape: SubnetConfig = shape) -> SubnetConfig:
        rng = Random(seed)
        layers = []
        for source in sorted(rng.sample(range(shape.depth), rng.randint(1, shape.depth))):
            whole = shape.layers[source]
            layers.append(
                LayerConfig(
                    source=source,
                    heads=rng.randint(1, whole.heads),
                    head_size=rng.randint(1, whole.head_size),
                    ffn_size=rng.randint(1, whole.ffn_size),
                    ffn_stack=rng.randint(1, whole.ffn_stack),
                )
            )
        return SubnetConfig(hidden_size=rng.randint(2, shape.hidden_size), layers=tuple(layers))

    return draw
