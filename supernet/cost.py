"""Parameters and floating-point operations of a subnet, by arithmetic. Standard library only."""

from __future__ import annotations

from supernet.facts import ModelFacts
from supernet.space import SubnetConfig


def parameters(subnet: SubnetConfig, facts: ModelFacts) -> int:
    """Weights and biases of the sliced dense model, embeddings and head included."""
    return encoder_parameters(subnet, facts) + head_parameters(subnet.hidden_size, facts)


def encoder_parameters(subnet: SubnetConfig, facts: ModelFacts) -> int:
    """Embeddings and layers. What published counts add to it: BERT's pooler, see `linear_parameters`."""
    n = subnet.hidden_size
    total = (facts.max_position_embeddings + facts.type_vocab_size) * n + 2 * n
    total += facts.vocab_size * (facts.embedding_size or n)
    if (width := facts.projected_size) is not None:
        total += linear_parameters(width, n)
    for layer in subnet.layers:
        q, f = layer.qkv_size, layer.ffn_size
        total += 3 * linear_parameters(n, q) + linear_parameters(q, n) + 2 * n
        total += layer.ffn_stack * (linear_parameters(n, f) + linear_parameters(f, n) + 2 * n)
    return total


def head_parameters(n: int, facts: ModelFacts) -> int:
    """Of the head on hidden size `n`; a masked language model's decoder is the word table and counted there."""
    if facts.head == "mlm":
        width = facts.embedding_size or n
        return linear_parameters(n, width) + 2 * width + facts.vocab_size
    pooler = linear_parameters(n, n) if facts.head == "sequence" else 0
    return pooler + linear_parameters(n, facts.num_labels)


def linear_parameters(inputs: int, outputs: int) -> int:
    """A matrix and its bias; such as a pooler, or what projects a student's hidden states to its teacher's width."""
    return inputs * outputs + outputs


def flops(
    subnet: SubnetConfig, *, length: int, batch: int = 1, num_labels: int = 2, facts: ModelFacts | None = None
) -> int:
    """Operations (two a multiply-add) of the matrix products the exported graph executes.

    Under a head of texts the last layer works for the first token only, since the classifier reads no other, and forms
    no keys and values: its scores and their weighted sum are products with the layer's input (see
    `atb_export.onnx.graph`). With `facts` their embedding, head and labels count; without, those of a BERT classifier.
    What a cell computes beside its two products is no matrix product.
    """
    n = subnet.hidden_size
    head = "sequence" if facts is None else facts.head
    total = 0
    if facts is not None and (width := facts.projected_size) is not None:
        total += 2 * length * width * n
    for i, layer in enumerate(subnet.layers):
        q, f = layer.qkv_size, layer.ffn_size
        last = head == "sequence" and i == subnet.depth - 1
        rows, width = (1, layer.heads * n) if last else (length, q)
        total += 2 * rows * n * q * 4  # queries, keys, values (or what stands for them), the product back
        total += 2 * rows * length * width * 2  # scores and their weighted sum
        total += 2 * rows * n * f * 2 * layer.ffn_stack  # feed-forward cells
    labels = num_labels if facts is None else facts.num_labels
    if facts is not None and head == "mlm":
        width = facts.embedding_size or n
        total += 2 * length * (n * width + width * facts.vocab_size)
    else:
        total += 2 * n * n + 2 * n * labels if head == "sequence" else 2 * length * n * labels
    return batch * total
