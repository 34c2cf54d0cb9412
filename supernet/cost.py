"""Parameters and floating-point operations of a subnet, by arithmetic. Standard library only."""

from __future__ import annotations

from supernet.facts import ModelFacts
from supernet.space import SubnetConfig


def parameters(subnet: SubnetConfig, facts: ModelFacts) -> int:
    """Weights and biases of the sliced dense classifier, embeddings, pooler and head included."""
    n = subnet.hidden_size
    rows = facts.vocab_size + facts.max_position_embeddings + facts.type_vocab_size
    total = rows * n + 2 * n
    for layer in subnet.layers:
        q, f = layer.qkv_size, layer.ffn_size
        total += 3 * (n * q + q) + (q * n + n) + 2 * n
        total += layer.ffn_stack * ((n * f + f) + (f * n + n) + 2 * n)
    return total + (n * n + n) + (n * facts.num_labels + facts.num_labels)


def flops(subnet: SubnetConfig, *, length: int, batch: int = 1, num_labels: int = 2) -> int:
    """Operations (two a multiply-add) of the matrix products the exported graph executes.

    The last layer works for the first token only, since the classifier reads no other, and forms no keys and values:
    its scores and their weighted sum are products with the layer's input (see `atb_export.onnx.graph`).
    """
    n = subnet.hidden_size
    total = 0
    for i, layer in enumerate(subnet.layers):
        q, f = layer.qkv_size, layer.ffn_size
        last = i == subnet.depth - 1
        rows, width = (1, layer.heads * n) if last else (length, q)
        total += 2 * rows * n * q * 4  # queries, keys, values (or what stands for them), the product back
        total += 2 * rows * length * width * 2  # scores and their weighted sum
        total += 2 * rows * n * f * 2 * layer.ffn_stack  # feed-forward cells
    total += 2 * n * n + 2 * n * num_labels
    return batch * total
