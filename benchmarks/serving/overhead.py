"""What our server adds to its engine: p50 at one connection minus the engine's own p50 in C++; and the tokenizer alone.

    .venv/bin/python benchmarks/serving/overhead.py --models models --bin build      about 3 minutes
    .venv/bin/python benchmarks/serving/overhead.py --models models --bin build --quick

`--bin` names the folder of a build with -DATB_TESTS=ON, which makes atb-overhead beside the others. Texts of one
length bucket at a time go to the server over one keep-alive connection, in Text Embeddings Inference's JSON and in
Open Inference Protocol's binary tensors, and to the engine on one thread of the same core, in turns; the server is
frozen while the engine is timed. A figure is the median over the rounds. "Client awake" is a client that never sleeps,
so that its own waking up, 10 us and more in a virtual machine, is not in the figure; the targets are held without it.
Client, kernel and loopback are in it: an empty answer over loopback costs 16 to 18 us here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from common import Load, finish, gathered, options_parser, read_lines, spread, table, target
from servers import Place, ours, split_cpus
from tokenizers import Tokenizer

from atb_export.serving.load import LoadPlan
from atb_export.serving.programs import native_program
from runtime.environment import environment

MOST_US = 60.0
ASCII_15_US, MIXED_128_US = 1.0, 10.0
# Scripts and marks that a WordPiece works hardest at; filled up with the texts' own words.
MIXED = "Ça coûte 1,299 € — naïve Übergröße, Ελληνικά, кино, 映画, 🎬 don't: co-op e.g. [sic] résumé #1 50% déjà-vu "


def by_length(bundle: Path, texts: list[Any], lengths: list[int]) -> dict[int, list[str]]:
    """Texts whose tokens just fit each length, as many as 64."""
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(lengths[-1])
    found: dict[int, list[str]] = defaultdict(list)
    joined = [*texts, *(" ".join(texts[i : i + n]) for n in (2, 3, 4, 6) for i in range(0, 300, n))]
    for text in joined:
        count = len(tokenizer.encode(text).ids)
        length = next(x for x in lengths if x >= count)
        if len(found[length]) < 64:
            found[length].append(text)
    return {x: found[x] for x in lengths if found[x]}


def of_tokens(bundle: Path, words: list[str], count: int) -> str:
    """Words until there are so many tokens, special ones included."""
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    text = ""
    for word in words:
        more = f"{text} {word}".strip()
        size = len(tokenizer.encode(more).ids)
        if size <= count:
            text = more
        if size == count:
            break
    return text


def alone(program: Path, bundle: Path, file: Path, cpu: str, seconds: float) -> dict[str, Any]:
    """One run of atb-overhead."""
    command = ["taskset", "-c", cpu, str(program), str(bundle), str(file), "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr.strip())
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> int:
    """Exit code 0 where all targets are met."""
    parser = options_parser(__doc__ or "")
    parser.add_argument("--model", default="bert-tiny", help="of the folder of models")
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args()
    rounds = options.rounds or (3 if options.quick else 9)
    seconds = 0.8 if options.quick else 2.0
    bundle = options.models / options.model
    manifest = json.loads((bundle / "manifest.json").read_text())
    lengths = sorted(
        {x["target"]["shape"]["length"] for x in manifest["engines"] if x["target"]["backend"] == "openvino"}
    )
    server_cpus, load_cpu = split_cpus(options.server_cpus)
    core = server_cpus.split(",")[0]
    texts = read_lines(options.texts or options.models / "texts.txt")
    shared: dict[tuple[int, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="atb-overhead-") as scratch:
        folder = Path(scratch)
        options.programs = gathered(options.programs, folder / "bin")
        program = native_program("atb-overhead", options.programs)
        groups = by_length(bundle, texts, lengths)
        place = Place(rivals=None, programs=options.programs, cpus=core, threads=1, scratch=folder)
        server = ours(bundle, place)
        try:
            server.start()
            for _ in range(rounds):
                for length, group in groups.items():
                    file = folder / f"{length}.txt"
                    file.write_text("".join(x + "\n" for x in group), encoding="utf-8")
                    part = folder / f"load-{length}"
                    part.mkdir(exist_ok=True)
                    load = Load(group, programs=options.programs, cpu=load_cpu, scratch=part)
                    with server.awake():
                        for name, endpoint, spin in (
                            ("tei", server.endpoint, False),
                            ("oip-binary", server.others[0], False),
                            ("tei, awake", server.endpoint, True),
                        ):
                            plan = LoadPlan(connections=1, seconds=seconds, warm_up_s=seconds / 4, spin=spin)
                            shared[length, name].append(load.run(server, plan, endpoint).p50_ms * 1e3)
                    shared[length, "engine"].append(alone(program, bundle, file, core, seconds)["engine_p50_us"])
                print(".", end="", file=sys.stderr, flush=True)
        finally:
            server.stop()
        print(file=sys.stderr)
        words = " ".join(str(x) for x in texts[:200]).split()
        short = of_tokens(bundle, [x for x in words if x.isascii()], 15)
        long = of_tokens(bundle, (MIXED + " ".join(words)).split(" "), 128)
        file = folder / "tokens.txt"
        file.write_text(f"{short}\n{long}\n", encoding="utf-8")
        tokenise = alone(program, bundle, file, core, 0.1)["texts"]
    return tell(shared, list(groups), tokenise, options, {"servers": core, "load": load_cpu})


def tell(
    shared: dict[tuple[int, str], list[float]],
    lengths: list[int],
    tokenise: list[dict[str, Any]],
    options: Any,
    cpus: dict[str, str],
) -> int:
    """The table, the targets, the document."""
    rows, over = [], defaultdict(list)
    for length in lengths:
        engine = shared[length, "engine"]
        cells: list[object] = [length, f"{spread(engine)['median']:.1f}"]
        for name in ("tei", "oip-binary", "tei, awake"):
            whole = shared[length, name]
            found = spread([a - b for a, b in zip(whole, engine, strict=True)])
            over[name].append(found["median"])
            cells += [
                f"{spread(whole)['median']:.1f}",
                f"{found['median']:.1f} [{found['least']:.1f}, {found['most']:.1f}]",
            ]
        rows.append(cells)
    print(f"\n{options.model}: microseconds, p50, 1 connection\n")
    table(
        ["length", "engine", *(x for name in ("TEI", "OIP binary", "TEI, client awake") for x in (name, "above"))], rows
    )
    told = [f"{x['tokenise_us']:.2f} us for {x['tokens']} tokens" for x in tokenise]
    print(f"\ntokenizer: {', '.join(told)}")
    return finish(
        "serving/overhead",
        [
            target("tei_above_engine_us", max(over["tei"], default=None), "<=", MOST_US),
            target("oip_binary_above_engine_us", max(over["oip-binary"], default=None), "<=", MOST_US),
            target("tokenise_15_ascii_us", tokenise[0]["tokenise_us"], "<=", ASCII_15_US),
            target("tokenise_128_mixed_us", tokenise[1]["tokenise_us"], "<=", MIXED_128_US),
        ],
        quick=options.quick,
        cpus=cpus,
        rounds_us={f"{length} {what}": values for (length, what), values in shared.items()},
        tokenise=tokenise,
        environment=environment(),
    )


if __name__ == "__main__":
    sys.exit(main())
