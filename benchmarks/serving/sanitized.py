"""The native part under AddressSanitizer with UndefinedBehaviorSanitizer, and under ThreadSanitizer: tests and load.

    .venv/bin/python benchmarks/serving/sanitized.py --models models --builds /tmp/sanitized          about an hour
    .venv/bin/python benchmarks/serving/sanitized.py --models models --builds /tmp/sanitized --quick  load of 20 s

Builds what changed, in a folder for each, runs the native tests and those of the server (`tests/runtime/server`), and
two minutes of load in which every answer is checked, over HTTP and gRPC, while models reload (`exactness.py`). A
sanitizer's word, anywhere, fails it. Libraries that are not built with the sanitizer (OpenVINO, gRPC) are not watched.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "search"))
from outcome import finish, table, target

ROOT = Path(__file__).resolve().parents[2]
BUILDS = {"address": "address,undefined", "thread": "thread"}
SUPPRESSED = Path(__file__).resolve().parent / "sanitizers"
ENVIRONMENT = {
    "TBB_ENABLE_SANITIZERS": "1",  # or it loads libraries in a way that AddressSanitizer refuses
    # Leaks are looked for where all code is ours: in the native tests.
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:exitcode=66",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1:exitcode=66",
    "TSAN_OPTIONS": f"ignore_noninstrumented_modules=1:exitcode=66:suppressions={SUPPRESSED / 'thread.txt'}",
}
WORDS = ("ERROR: AddressSanitizer", "WARNING: ThreadSanitizer", "ERROR: LeakSanitizer", "runtime error: ")


def run(log: Path, *command: object, **environment: str) -> tuple[int, str]:
    """Exit code and output, which the log keeps too."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    with log.open("a") as file:
        file.write(f"$ {' '.join(map(str, command))}\n{done.stdout}\n")
    return done.returncode, done.stdout


def build(folder: Path, sanitizers: str, log: Path) -> bool:
    """Whether it builds."""
    options = ["-G", "Ninja", "-DATB_TESTS=ON", "-DCMAKE_BUILD_TYPE=RelWithDebInfo", f"-DATB_SANITIZE={sanitizers}"]
    made, _ = run(log, "cmake", "-S", ROOT, "-B", folder, *options, f"-DPython_EXECUTABLE={sys.executable}")
    return made == 0 and run(log, "cmake", "--build", folder)[0] == 0


def check(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """All of it with one build; exit codes, and how often a sanitizer spoke."""
    folder = options.builds / name
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "sanitized.log"
    log.unlink(missing_ok=True)
    found: dict[str, Any] = {"build": name, "built": build(folder, BUILDS[name], log)}
    if not found["built"]:
        return found
    server = next(folder.rglob("atb-server"))
    begun = time.monotonic()
    found["native_tests"], said = run(log, "ctest", "--test-dir", folder, "--output-on-failure", ASAN_OPTIONS="")
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/runtime/server"]
    found["server_tests"], more = run(log, *pytest, ATB_SERVER=str(server), ATB_SANITIZED="1")
    said += more
    seconds = 20 if options.quick else 120
    load = [sys.executable, "benchmarks/serving/exactness.py", "--quick", "--models", options.models, "--bin", folder]
    load += ["--model", options.model, "--count", 500, "--seconds", seconds]
    found["load"], more = run(log, *load)
    said += more
    document = json.loads(more.splitlines()[-1]) if more.splitlines()[-1:][0].startswith("{") else {}
    found["rows"] = document.get("rows", [])
    found["words"] = sum(said.count(x) for x in WORDS) + bool(document.get("sanitizers", True))
    found["s"] = time.monotonic() - begun
    return found


def main() -> int:
    """Exit code 0 where no sanitizer spoke and everything passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a shorter load")
    parser.add_argument("--models", type=Path, required=True, help="the folder that models.py wrote")
    parser.add_argument("--model", default="bert-tiny")
    parser.add_argument("--builds", type=Path, required=True, help="a folder for the builds, which are kept")
    parser.add_argument("--only", choices=BUILDS, help="one of them")
    options = parser.parse_args()
    rows = [check(name, options) for name in ([options.only] if options.only else BUILDS)]
    names = ("build", "built", "native_tests", "server_tests", "load", "words", "s")
    table(names, [[x.get(name, "-") for name in names] for x in rows])
    parts = ("native_tests", "server_tests", "load", "words")
    targets = [
        target(f"{x['build']}_{part}", float(x[part]) if part in x else None, "==", 0) for x in rows for part in parts
    ]
    return finish("serving/sanitized", targets, quick=options.quick, model=options.model, builds=rows)


if __name__ == "__main__":
    sys.exit(main())
