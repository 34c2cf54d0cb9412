"""The virtual environments of the servers we are compared with: one each, for some want other versions than ours.

    .venv/bin/python benchmarks/serving/rivals.py --setup rivals            all of them, 10 to 20 minutes, 6 GB
    .venv/bin/python benchmarks/serving/rivals.py --setup rivals litserve   some
    .venv/bin/python benchmarks/serving/rivals.py --list rivals             what is there

`--setup` leaves `NAME.txt`, what pip installed, beside each environment. What cannot be installed is said and takes no
part; exit code 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ENGINES = ("tokenizers", "onnxruntime", "openvino==2026.4.1")
NEEDS: dict[str, tuple[str, ...]] = {
    "asgi": ("uvicorn", "uvloop", "httptools", *ENGINES),
    "fastapi": ("fastapi", "uvicorn", "uvloop", "httptools", *ENGINES),
    "litserve": ("litserve", *ENGINES),
    "triton": ("nvidia-pytriton", *ENGINES),
    "infinity": ("infinity-emb[torch,server]", "torch"),
}


def python_of(folder: Path, name: str) -> Path:
    """The interpreter of an environment."""
    return folder.absolute() / name / "bin" / "python"


def missing(folder: Path | None, name: str) -> str | None:
    """Why a rival cannot take part."""
    if folder is None:
        return "no --rivals folder was named"
    if not (folder / f"{name}.txt").is_file() or not python_of(folder, name).is_file():
        return f"{folder} has no environment {name}: benchmarks/serving/rivals.py --setup {folder} {name}"
    return None


def versions(folder: Path, name: str) -> list[str]:
    """What is installed there and matters."""
    wanted = {x.partition("[")[0].partition("=")[0] for x in NEEDS[name]} | {"starlette", "transformers", "torch"}
    lines = (folder / f"{name}.txt").read_text().splitlines()
    return [x for x in lines if x.partition("==")[0].lower() in wanted]


def setup(folder: Path, name: str) -> str | None:
    """Makes one; returns why it could not."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / name
    if not python_of(folder, name).is_file():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    pip = [str(python_of(folder, name)), "-m", "pip", "--disable-pip-version-check"]
    done = subprocess.run([*pip, "install", "-q", *NEEDS[name]], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return " ".join(done.stderr.strip().splitlines()[-3:])[-300:]
    frozen = subprocess.run([*pip, "freeze"], capture_output=True, text=True, check=True).stdout
    (folder / f"{name}.txt").write_text(frozen)
    return None


def main() -> int:
    """Exit code 1 where one could not be made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--setup", type=Path, metavar="DIR")
    what.add_argument("--list", type=Path, metavar="DIR", dest="listed")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(NEEDS)}; by default all")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NEEDS):
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(NEEDS)}")
    failed = 0
    for name in options.names or NEEDS:
        folder = options.setup or options.listed
        reason = setup(folder, name) if options.setup else None
        reason = reason or missing(folder, name)
        failed += reason is not None
        print(f"{name}: {reason or ', '.join(versions(folder, name))}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
