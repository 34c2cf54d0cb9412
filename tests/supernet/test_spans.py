"""Windows over contexts, and answers from logits."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from supernet.data.squad import Answer, Question, squad_scores
from supernet.distillation import Lessons, teach
from supernet.errors import DataError
from supernet.facts import ModelFacts
from supernet.model import Supernet
from supernet.space import SubnetConfig
from supernet.spans import SpanFeatures, decode_spans, span_features, span_logits
from supernet.stage import LossWeights, Sampler, Stage

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,?"
NAMES = ("anna", "bert", "carl", "dora", "emil", "fred")
PLACES = ("rome", "oslo", "lima", "bonn", "cork", "graz")
WORDS = (*NAMES, *PLACES, "who", "where", "is", "was", "in", "the", "a", "and", "then", "met")


@pytest.fixture(scope="module", params=["bert", "roberta"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{x}" for x in LETTERS), *WORDS]
    vocab = {word: i for i, word in enumerate(dict.fromkeys(words))}
    plain = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    plain.normalizer = normalizers.BertNormalizer(lowercase=True)
    plain.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    bert = request.param == "bert"
    plain.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1" if bert else "[CLS] $A [SEP] [SEP] $B [SEP]",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if bert else [])]
    return PreTrainedTokenizerFast(tokenizer_object=plain, model_input_names=inputs, pad_token="[PAD]")


def ask(name: str, context: str, *answers: str, question: str = "who was in rome?") -> Question:
    found = tuple(Answer(text=x, start=context.index(x)) for x in answers)
    return Question(id=name, question=question, context=context, answers=found)


LONG = "anna was in oslo. " * 6 + "Then Bert met Carl in Rome, " + "and dora was in bonn. " * 6


def test_the_answer_s_tokens_are_the_answer(tokenizer: Any) -> None:
    asked = [ask("a", LONG, "Bert met Carl"), ask("b", "Zoë-Anna was in Rome.", "Zoë-Anna"), ask("c", LONG)]
    found = span_features(tokenizer, asked, max_length=40, doc_stride=10, max_question=8)
    assert max(found.texts.lengths) == 40
    assert sorted(set(found.question.tolist())) == [0, 1, 2]
    held = 0
    for i, owner in enumerate(found.question.tolist()):
        first, last = found.spans[i].tolist()
        if (first, last) == (0, 0):
            continue
        held += 1
        start, end = found.offsets[i][first, 0], found.offsets[i][last, 1]
        assert asked[owner].context[start:end] == asked[owner].answers[0].text
    assert held >= 2
    assert not found.spans[found.question == 2].any()


def test_windows_overlap_and_hold_every_token(tokenizer: Any) -> None:
    found = span_features(tokenizer, [ask("a", LONG, "Carl")], max_length=30, doc_stride=7, max_question=8)
    inside = [offsets[offsets[:, 0] >= 0].tolist() for offsets in found.offsets]
    assert len(inside) > 3
    for one, other in pairwise(inside):
        assert one[-7:] == other[:7]
    seen = {tuple(x) for part in inside for x in part}
    plain = tokenizer(LONG, add_special_tokens=False, return_offsets_mapping=True)
    assert seen == set(plain["offset_mapping"])
    assert (found.texts.token_type_ids is None) is ("token_type_ids" not in tokenizer.model_input_names)


def test_long_questions_are_cut(tokenizer: Any) -> None:
    asked = ask("a", "anna was in rome.", "anna", question="who " * 50)
    found = span_features(tokenizer, [asked], max_length=24, doc_stride=4, max_question=5)
    assert found.texts.input_ids[0][1:6] == [tokenizer.get_vocab()["who"]] * 5
    assert len(found) == 1
    with pytest.raises(DataError, match=r"max_length = 20 tokens has 1.* left for the context .* Raise max_length"):
        span_features(tokenizer, [asked], max_length=20, doc_stride=14, max_question=5)
    with pytest.raises(DataError, match="need questions"):
        span_features(tokenizer, [])


def sharp(features: SpanFeatures, spans: dict[int, tuple[int, int]], null: float = 0.0) -> list[Any]:
    """Logits that point at a span of some windows, and at the first token with `null`."""
    found = []
    for i, count in enumerate(features.texts.lengths):
        logits = np.full((count, 2), -5.0, dtype=np.float32)
        logits[0] = null / 2
        if i in spans:
            logits[spans[i][0], 0] = logits[spans[i][1], 1] = 4.0
        found.append(logits)
    return found


def test_true_spans_decode_to_true_answers(tokenizer: Any) -> None:
    asked = [ask("a", LONG, "Bert met Carl"), ask("b", "Zoë-Anna was in Rome.", "Zoë-Anna")]
    features = span_features(tokenizer, asked, max_length=40, doc_stride=10, max_question=8)
    spans = {i: (int(a), int(b)) for i, (a, b) in enumerate(features.spans.tolist()) if a}
    found = decode_spans(features, sharp(features, spans), asked)
    assert {name: x.text for name, x in found.items()} == {"a": "Bert met Carl", "b": "Zoë-Anna"}
    assert found["a"].best[0][1] > 0.5
    assert sum(p for _, p in found["a"].best) == pytest.approx(1)
    assert len(decode_spans(features, sharp(features, spans), asked, n_best=3)["a"].best) == 3
    assert decode_spans(features, sharp(features, spans), asked, max_answer=2)["a"].text != "Bert met Carl"


def test_no_answer_wins_by_the_threshold(tokenizer: Any) -> None:
    asked = [ask("a", "anna was in rome.", "anna"), ask("b", "carl was in lima.")]
    features = span_features(tokenizer, asked, max_length=24, doc_stride=4, max_question=6)
    start = next(i for i, x in enumerate(features.offsets[1].tolist()) if x == [0, 4])
    spans = {0: (start, start), 1: (start, start)}
    found = decode_spans(features, sharp(features, spans, null=9.0), asked)
    assert [found[x].text for x in "ab"] == ["", ""]
    assert found["b"].null_margin == pytest.approx(1.0)
    assert found["b"].best[0][0] == ""
    kept = decode_spans(features, sharp(features, spans, null=9.0), asked, null_threshold=1.5)
    assert [kept[x].text for x in "ab"] == ["anna", "carl"]
    forced = decode_spans(features, sharp(features, spans, null=9.0), asked, allow_null=False)
    assert forced["b"].text == "carl"
    assert "" not in dict(forced["b"].best)
    with pytest.raises(DataError, match="each of 2 windows, got 1 and 2"):
        decode_spans(features, sharp(features, spans)[:1], asked)


def test_a_span_head_learns_to_answer(tokenizer: Any) -> None:
    """Who is in a place: a net that starts random and reads real pieces of text answers as it was taught."""
    asked = [
        ask(f"{i}{j}", f"{a} was in {p} and {b} was in {q}.", a, question=f"who was in {p}?")
        for i, (a, b) in enumerate(pairwise(NAMES))
        for j, (p, q) in enumerate(zip(PLACES, PLACES[2:], strict=False))
    ]
    features = span_features(tokenizer, asked, max_length=24, doc_stride=4, max_question=6)
    facts = ModelFacts(vocab_size=len(tokenizer), max_position_embeddings=32, num_labels=2, head="span")
    torch.manual_seed(0)
    net = Supernet(shape=SubnetConfig.uniform(hidden_size=32, depth=1, heads=4, ffn_size=32), facts=facts).eval()
    before = decode_spans(features, span_logits(net, features.texts), asked)
    stage = Stage(
        name="fine-tune",
        teacher="none",
        losses=LossWeights(soft_label=0, hidden=0, attention=0, hard_label=1),
        sampler=Sampler("whole"),
        steps=40,
        learning_rate=5e-3,
        batch_size=20,
    )
    teach(net, Lessons(texts=features.texts, labels=features.spans), stage, teacher=None, seed=0)
    after = decode_spans(features, span_logits(net, features.texts), asked)
    scores = [squad_scores(asked, {k: x.text for k, x in found.items()})["exact_match"] for found in (before, after)]
    assert scores[0] < 0.3
    assert scores[1] > 0.9
