"""Writes unicode_tables.cpp: what `tokenizers` does with every code point, found by asking it.

    python runtime/native/tokenizer/make_tables.py            rewrites the file beside this one, a minute
    python runtime/native/tokenizer/make_tables.py --check    fails where the file is not what it would write

The facts are asked of the installed `tokenizers`, not of a Unicode database: its parts follow different versions of
Unicode (categories, decompositions, lower case and regular expressions each have their own), and exactness means
theirs. What the C++ side assumes beyond the tables is asserted here: no step but canonical reordering looks at a
neighbour, Hangul decomposes by its formula, and marks that stay after accents are stripped stand at a decomposition's
end.
"""

from __future__ import annotations

import argparse
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import tokenizers
from tokenizers import AddedToken, Tokenizer, models
from tokenizers.normalizers import NFD, BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

CODES = (*range(0xD800), *range(0xE000, 0x110000))
CONTROL, SPACE, CHINESE, MARK, PUNCTUATION, WORD = (1 << i for i in range(6))
HANGUL = range(0xAC00, 0xAC00 + 11172)
OUTPUT = Path(__file__).with_name("unicode_tables.cpp")
WIDTH = 120


class Facts(NamedTuple):
    """Of one code point: flags, canonical combining class where it matters, and how far its lower case is away."""

    flags: int
    order: int
    lower: int


def bert(*, clean: bool = False, chinese: bool = False, strip: bool = False, lower: bool = False) -> BertNormalizer:
    """One step of the normalizer, or several."""
    return BertNormalizer(clean_text=clean, handle_chinese_chars=chinese, strip_accents=strip, lowercase=lower)


def flags_of_steps() -> dict[int, int]:
    """What cleaning drops or makes a space, which characters get spaces around them, what splits words."""
    clean, chinese, split = bert(clean=True), bert(chinese=True), BertPreTokenizer()
    found = {}
    for code in CODES:
        c = chr(code)
        cleaned = clean.normalize_str(c)
        pieces = [x for x, _ in split.pre_tokenize_str(f"a{c}a")]
        space, punctuation = pieces == ["a", "a"], pieces == ["a", c, "a"]
        assert space or punctuation or pieces == [f"a{c}a"], code
        assert cleaned == ("" if not cleaned else " " if space else c), code
        spaced = chinese.normalize_str(c)
        assert spaced in (c, f" {c} "), code
        found[code] = CONTROL * (not cleaned) | SPACE * space | PUNCTUATION * punctuation | CHINESE * (spaced != c)
    return found


def flags_of_added_tokens(space: set[int]) -> set[int]:
    r"""The code points of `\w`, which added tokens with `single_word` look at; asserts that `\s` is `space`."""

    def of(token: AddedToken) -> Tokenizer:
        made = Tokenizer(models.WordPiece({"[UNK]": 0}))
        made.add_tokens([token])
        return made

    word, stripped = of(AddedToken("TT", single_word=True)), of(AddedToken("TT", rstrip=True, normalized=False))
    found = set()
    for part in _chunks(CODES, 10_000):
        texts = [f"TT{chr(code)}" for code in part]
        for code, row, eaten in zip(
            part, word.encode_batch_fast(texts), stripped.encode_batch_fast(texts), strict=True
        ):
            if row.ids == [0]:
                found.add(code)
            else:
                assert row.ids == [1, 0], code
            assert (eaten.ids == [1]) == (code in space), code
    return found


def classes() -> dict[int, int]:
    """Canonical combining classes other than 0, of what `NFD` swaps with a neighbour."""
    nfd = NFD()

    def swaps(first: str, second: str) -> bool:
        return bool(nfd.normalize_str(f"a{first}{second}") == f"a{second}{first}") and first != second

    least, most = "\u0334", "\u0345"  # of classes 1 and 240, in Unicode since its beginning
    moved = [
        code
        for code in CODES
        if nfd.normalize_str(chr(code)) == chr(code) and (swaps(chr(code), least) or swaps(most, chr(code)))
    ]
    references: dict[int, str] = {}
    for code in moved:  # which class it is, Python's database says; whether all agree on that, the swaps do
        references.setdefault(unicodedata.combining(chr(code)), chr(code))
    found = {}
    for code in moved:
        c = chr(code)
        same = [k for k, r in references.items() if not swaps(c, r) and not swaps(r, c)]
        assert len(same) == 1, (code, same)
        found[code] = same[0]
    assert 0 not in references, hex(ord(references[0]))
    assert sorted(references, key=lambda k: sum(swaps(r, references[k]) for r in references.values())) == sorted(
        references, reverse=True
    )
    assert all(found[ord(r)] == k for k, r in references.items())
    return found


def decompositions(marks: set[int], order: dict[int, int]) -> dict[int, tuple[int, ...]]:
    """What is left of a code point after `NFD` without the marks; Hangul, which has a formula, is left out."""
    nfd, strip = NFD(), bert(strip=True)
    found = {}
    for code in CODES:
        c = chr(code)
        full = nfd.normalize_str(c)
        left = tuple(map(ord, strip.normalize_str(c)))
        assert left == tuple(ord(x) for x in full if ord(x) not in marks), code
        if code in HANGUL:
            at = code - HANGUL.start
            tail = (0x11A7 + at % 28,) if at % 28 else ()
            assert left == (0x1100 + at // 588, 0x1161 + at % 588 // 28, *tail), code
        elif full != c:
            starts = [x for x in map(ord, full) if x not in order]
            assert starts == list(map(ord, full[: len(starts)])), code  # what reorders stands at the end
            # So a dropped mark that keeps its place ends no run of reordered ones that what stays would not end.
            assert not left or not starts or left[0] not in order, code
            found[code] = left
    return found


def gather() -> tuple[dict[int, Facts], dict[int, tuple[int, ...]], dict[int, tuple[int, ...]]]:
    """Facts of all code points, decompositions without marks, and lower cases of several characters."""
    nfd, strip, lower = NFD(), bert(strip=True), bert(lower=True)
    flags = flags_of_steps()
    word = flags_of_added_tokens({code for code, x in flags.items() if x & SPACE})
    marks = {code for code in CODES if nfd.normalize_str(chr(code)) == chr(code) and not strip.normalize_str(chr(code))}
    order = classes()
    apart = decompositions(marks, order)
    # What falls into marks alone is dropped like one: like one that keeps its place if any of them does.
    gone = {
        code: 230 if all(ord(x) in order for x in nfd.normalize_str(chr(code))) else 0
        for code in apart
        if not apart[code]
    }
    assert max(map(len, apart.values())) <= 4  # as many as `Few` holds
    facts, longer = {}, {}
    for code in CODES:
        small = tuple(map(ord, lower.normalize_str(chr(code))))
        if len(small) != 1:
            longer[code] = small
        facts[code] = Facts(
            flags=flags[code] | MARK * (code in marks or code in gone) | WORD * (code in word),
            order=gone.get(code, order.get(code, 0)),
            lower=small[0] - code if len(small) == 1 else 0,
        )
    return facts, apart, longer


def _chunks(codes: Iterable[int], size: int) -> Iterator[list[int]]:
    part: list[int] = []
    for code in codes:
        part.append(code)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def _rows(items: Iterable[str]) -> Iterator[str]:
    line = "   "
    for item in items:
        if len(line) + len(item) + 2 > WIDTH:
            yield line
            line = "   "
        line += f" {item},"
    yield line


def _flat(found: dict[int, tuple[int, ...]]) -> list[str]:
    """Each as: the code point, how many follow, and those."""
    return [f"{x:#x}" if i != 1 else str(x) for code, out in sorted(found.items()) for i, x in _counted(code, out)]


def _counted(code: int, out: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    return enumerate((code, len(out), *out))


def written() -> str:
    """The whole source file."""
    facts, apart, longer = gather()
    # Surrogates are in no text; they take the facts of what stands before them, which makes no new run.
    kinds = sorted(set(facts.values()))
    number = {kind: i for i, kind in enumerate(kinds)}
    runs = [(next(codes), kind) for kind, codes in groupby(facts, key=facts.__getitem__)]
    apart = {code: out for code, out in apart.items() if out}
    single = {code: out for code, out in apart.items() if len(out) == 1}
    several = {code: out for code, out in apart.items() if len(out) > 1}
    pairs = [f"{x:#x}" for code, out in sorted(single.items()) for x in (code, out[0])]
    made_of = f"tokenizers {tokenizers.__version__}"
    lines = [
        f"// What {made_of} does with every code point. Written by make_tables.py; do not edit.",
        "// clang-format off",
        '#include "tokenizer/unicode.h"',
        "",
        "namespace atb::unicode {",
        "",
        f'const char* const kTablesVersion = "{made_of}";',
        "",
        "namespace {",
        "// Flags, combining class, distance to the lower case.",
        "constexpr Facts kKinds[] = {",
        *_rows(f"{{{kind.flags}, {kind.order}, {kind.lower}}}" for kind in kinds),
        "};",
        "// The first code point of each run of equals, and its kind.",
        "constexpr Run kRuns[] = {",
        *_rows(f"{{{start:#x},{number[kind]}}}" for start, kind in runs),
        "};",
        "// A code point, and the one that is left of it without its marks.",
        "constexpr char32_t kSingle[] = {",
        *_rows(pairs),
        "};",
        "// A code point, how many are left of it, and those.",
        "constexpr char32_t kSeveral[] = {",
        *_rows(_flat(several)),
        "};",
        "// Lower cases of several characters, in the same form.",
        "constexpr char32_t kLower[] = {",
        *_rows(_flat(longer)),
        "};",
        "}  // namespace",
        "",
        "Tables tables() noexcept { return {kKinds, kRuns, kSingle, kSeveral, kLower}; }",
        "",
        "}  // namespace atb::unicode",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Writes the file, or compares it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the file differs")
    arguments = parser.parse_args()
    text = written()
    if not arguments.check:
        OUTPUT.write_text(text, encoding="utf-8")
    elif OUTPUT.read_text(encoding="utf-8") != text:
        sys.exit(f"{OUTPUT} is not what tokenizers {tokenizers.__version__} does: run {__file__}")


if __name__ == "__main__":
    main()
