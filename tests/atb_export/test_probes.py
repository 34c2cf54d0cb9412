"""The texts engines are verified on."""

from __future__ import annotations

import pytest

from atb_export.probes import adversarial, engine_probes, probe_sentences
from supernet.batches import TokenizedTexts


def texts_of(*lengths: int, types: bool = False) -> TokenizedTexts:
    ids = tuple(list(range(100 * i, 100 * i + n)) for i, n in enumerate(lengths))
    return TokenizedTexts(input_ids=ids, token_type_ids=ids if types else None)


@pytest.mark.parametrize(("length", "wanted"), [(9, [1, 2, 8, 9]), (2, [1, 2]), (1, [1]), (3, [1, 2, 3])])
def test_adversarial_lengths(length: int, wanted: list[int]) -> None:
    found = adversarial(texts_of(3, 5, types=True), length=length)
    assert [len(x) for x in found.input_ids] == wanted
    assert found.input_ids[-1] == [100 + i % 5 for i in range(length)]  # the longest, over and over
    assert found.token_type_ids == found.input_ids


def test_batches_mix_short_and_long_and_leave_nothing_out() -> None:
    texts = texts_of(3, 12, 5, 7, 30, types=True)
    found = engine_probes(texts, length=10)
    lengths = [len(x) for x in found.input_ids]
    assert sorted(lengths) == sorted([3, 10, 5, 7, 10, 1, 2, 9, 10])
    assert lengths[:4] == [10, 1, 10, 2]
    assert found.token_type_ids == found.input_ids
    assert {x[0] // 100 for x in found.input_ids} == {0, 1, 2, 3, 4}


def test_the_users_sentences_come_first() -> None:
    assert probe_sentences(["mine"])[:2] == ("mine", "")
