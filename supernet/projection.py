"""A learned map from a student's hidden states to its teacher's, for students that are no cut of it."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


class Projector(nn.Module):
    """One linear map for all layers (`shared`; TinyBERT eq. 8) or one for the embedding and each layer.

    It is trained with its student, kept in the training's checkpoints, and dropped at the end. Subnets of a supernet
    use the first columns. It starts as the identity with BERT's noise upon it: a cut of the teacher starts where it
    would be compared without one, and no dim of a wider teacher starts without a gradient.
    """

    def __init__(self, *, student_size: int, teacher_size: int, depth: int, shared: bool, seed: int) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(student_size, teacher_size) for _ in range(1 if shared else depth + 1))
        draw = torch.Generator().manual_seed(seed)
        for each in self.maps:
            linear = cast(nn.Linear, each)
            with torch.no_grad():
                nn.init.eye_(linear.weight)
                linear.weight += 0.02 * torch.randn(linear.weight.shape, generator=draw)
                linear.bias.zero_()

    def forward(self, state: Tensor, layer: int) -> Tensor:
        """[B, S, N] of a layer, 0 for the embedding's, to the teacher's [B, S, N]."""
        linear = cast(nn.Linear, self.maps[layer if len(self.maps) > 1 else 0])
        return functional.linear(state, linear.weight[:, : state.shape[-1]], linear.bias)
