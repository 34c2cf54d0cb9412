"""Scales come from what the subnet really computes on the rows, each row by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from atb_export.dense import DenseModel
from atb_export.onnx import calibration
from atb_export.onnx.calibration import inputs_seen
from supernet.batches import TokenizedTexts
from supernet.space import SubnetConfig

pytest.importorskip("onnxruntime")
Dense = Callable[..., DenseModel]


def test_what_is_seen_is_that_of_the_rows_one_by_one(
    make_dense: Dense, draw_subnet: Callable[..., SubnetConfig], probes: TokenizedTexts
) -> None:
    """No row counts what stands beside it."""
    model = make_dense(seed=2)
    subnet = draw_subnet(model.net.shape, 5)
    together = inputs_seen(model.net, subnet, probes, token_types=False)
    alone = [
        inputs_seen(model.net, subnet, TokenizedTexts(input_ids=(ids,)), token_types=False) for ids in probes.input_ids
    ]
    for name, found in together.items():
        np.testing.assert_allclose(found.low, np.min([x[name].low for x in alone], 0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.high, np.max([x[name].high for x in alone], 0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.sample, np.concatenate([x[name].sample for x in alone]), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_it_is_what_the_network_computes(make_dense: Dense, probes: TokenizedTexts) -> None:
    model = make_dense(seed=2)
    states = [model.net(**probes.batch([i]), hidden_states=True).hidden_states for i in range(len(probes))]
    seen = inputs_seen(model.net, model.net.shape, probes, token_types=False)
    assert len(seen) == 4 * 4
    np.testing.assert_allclose(seen["layer2.qkv"].sample, torch.cat([x[2][0] for x in states]), rtol=1e-3, atol=1e-4)
    firsts = torch.cat([x[3][:, 0] for x in states])  # the last layer computes the first token only
    np.testing.assert_allclose(seen["layer3.query"].high, firsts.max(0).values, rtol=1e-3, atol=1e-4)


def test_the_sample_is_bounded_and_the_range_is_not(
    make_dense: Dense, probes: TokenizedTexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_dense(seed=3)
    whole = inputs_seen(model.net, model.net.shape, probes, token_types=False)
    monkeypatch.setattr(calibration, "SAMPLE_TOKENS", 4)
    cut = inputs_seen(model.net, model.net.shape, probes, token_types=False)
    for name, found in cut.items():
        assert 1 <= len(found.sample) < len(whole[name].sample)
        assert np.array_equal(found.high, whole[name].high)


def test_token_types_count(make_dense: Dense, probes: TokenizedTexts) -> None:
    model = make_dense(seed=4)
    pairs = replace(probes, token_type_ids=tuple([i % 2 for i in range(len(x))] for x in probes.input_ids))
    with_types = inputs_seen(model.net, model.net.shape, pairs, token_types=True)
    without = inputs_seen(model.net, model.net.shape, probes, token_types=False)
    assert not np.allclose(with_types["layer0.qkv"].high, without["layer0.qkv"].high)


def test_what_cannot_be_calibrated_on_is_told(make_dense: Dense) -> None:
    net = make_dense().net
    with pytest.raises(ValueError, match="calibrated on real texts, and none are given"):
        inputs_seen(net, net.shape, TokenizedTexts(input_ids=()), token_types=False)
    with pytest.raises(ValueError, match="49 tokens, the position table 48"):
        inputs_seen(net, net.shape, TokenizedTexts(input_ids=([5] * 49,)), token_types=False)
