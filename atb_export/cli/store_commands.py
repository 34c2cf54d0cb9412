"""`atb store`: what the searches measured, shown, given away, taken over and tidied. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from atb_export.cli.output import emit, json_option, table
from search.store import Accuracy, Failure, Measurement, Store
from supernet.space import SubnetConfig


def _store_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--store",
        "path",
        type=click.Path(path_type=Path),
        default=Path("runs/store.sqlite"),
        show_default=True,
        help="The store's file.",
    )(command)


@click.group("store")
def store_command() -> None:
    """The store keeps every measurement, failure and accuracy for the next search; all its commands take --json.

    \b
    Example:
      atb store ls --target openvino-CPU-bf16-b1-l64-t1
      atb store export mine.jsonl
      atb store merge colleague.sqlite
      atb store gc --keep 3 --dry-run
    """


@store_command.command("ls")
@_store_option
@click.option("--target", help="Only what was measured on this target, named by its label.")
@click.option("--hardware", help="Only what was measured on this machine, named by its fingerprint.")
@click.option("--failures", "what", flag_value="failures", help="What could not be built or measured, and why.")
@click.option("--accuracies", "what", flag_value="accuracies", help="The accuracies of subnets.")
@click.option("--searches", "what", flag_value="searches", help="The recorded searches.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Show so many of the newest.")
@json_option
def ls_command(
    path: Path, target: str | None, hardware: str | None, what: str | None, limit: int, as_json: bool
) -> None:
    """Show what the store holds: by target and machine, then the newest measurements.

    \b
    Example:
      atb store ls
      atb store ls --failures --target openvino-CPU-bf16-b1-l64-t1
      atb store ls --searches --json
    """
    if what in ("accuracies", "searches") and (target or hardware):
        raise click.UsageError(f"--{what} belong to no target or machine; leave --target and --hardware out")
    with Store.open(path, create=False, readonly=True) as store:
        summary = store.summary()
        rows: list[dict[str, Any]]
        if what == "searches":
            keys = ("id", "header", "created", "evaluations")
            rows = [dict(zip(keys, x, strict=True)) for x in reversed(store.searches()[-limit:])]
            lines = [[x["id"], x["created"][:19], x["evaluations"]] for x in rows]
            header: Sequence[str] = ("search", "begun", "evaluations")
        elif what == "accuracies":
            found = store.accuracies(limit=limit)
            rows = [{k: v for k, v in x.to_json().items() if k != "correct"} for x in found]
            lines, header = [_accuracy(x) for x in found], _ACCURACY
        elif what == "failures":
            failed = store.failures(target=target, hardware=hardware, limit=limit)
            rows = [x.to_json() for x in failed]
            lines, header = [_failure(x) for x in failed], _FAILURE
        else:
            what = "measurements"
            measured = store.measurements(target=target, hardware=hardware, limit=limit, reports=False)
            rows = [{k: v for k, v in x.to_json().items() if k != "report"} for x in measured]
            lines, header = [_measurement(x) for x in measured], _MEASUREMENT
    click.echo(
        f"{path}  {summary['bytes'] / 1e6:.1f} MB: {_count(summary, 'measurements')} of {_count(summary, 'graphs')}, "
        f"{_count(summary, 'failures')}, {_count(summary, 'accuracies')}, {_count(summary, 'searches')}\n"
    )
    if what == "measurements" and summary["targets"]:
        names = ("target", "hardware", "graphs", "measurements", "failures")
        table(names, [[x[name] for name in names] for x in summary["targets"]])
        click.echo()
    table(header, lines)
    emit({"store": str(path), "summary": summary, what: rows}, as_json=as_json)


_SINGULAR = {
    "measurements": "measurement",
    "graphs": "graph",
    "failures": "failure",
    "accuracies": "accuracy",
    "searches": "search",
}
_MEASUREMENT = ("measured", "graph", "subnet", "target", "precision", "ms [95 %]", "runtime", "hardware")
_FAILURE = ("failed", "graph", "target", "runtime", "hardware", "reason")
_ACCURACY = ("scored", "checkpoint", "subnet", "precision", "data", "rows", "accuracy")


def _count(summary: dict[str, Any], name: str) -> str:
    return f"{summary[name]} {_SINGULAR[name] if summary[name] == 1 else name}"


def _short(text: str, longest: int = 60) -> str:
    """One line without control characters: a compiler's message may hold anything."""
    line = "".join(x if x.isprintable() else " " for x in text)
    return line if len(line) <= longest else f"{line[: longest - 3]}..."


def _subnet(data: dict[str, Any] | None) -> str:
    return "" if data is None else _short(str(SubnetConfig.from_json(data)))


def _measurement(x: Measurement) -> list[object]:
    times = f"{x.ms:.3f} [{x.ci_ms[0]:.3f}, {x.ci_ms[1]:.3f}]"
    where = (x.key.target, x.key.effective_precision, times, x.key.runtime, x.key.hardware)
    return [x.created[:19], x.key.graph[:12], _subnet(x.subnet), *where]


def _failure(x: Failure) -> list[object]:
    where = (x.key.target, x.key.runtime, x.key.hardware)
    return [x.created[:19], x.key.graph[:12], *where, _short(x.reason, 100)]


def _accuracy(x: Accuracy) -> list[object]:
    rows = x.rows if x.complete else f"{x.rows} (stopped)"
    names = (_short(x.checkpoint, 12), _subnet(x.subnet), x.precision, _short(x.data, 24))
    return [x.created[:19], *names, rows, f"{x.accuracy:.4f}"]


@store_command.command("export")
@click.argument("out", type=click.Path(path_type=Path))
@_store_option
@json_option
def export_command(out: Path, path: Path, as_json: bool) -> None:
    """Write all of the store to the new file OUT: JSON lines, or a store of its own if it ends in .sqlite.

    \b
    Example:
      atb store export mine.jsonl
      atb store export copy.sqlite --store runs/store.sqlite
    """
    with Store.open(path, create=False, readonly=True) as store:
        counts = store.export(out, kind="sqlite" if out.suffix == ".sqlite" else "jsonl")
    table(("kind", "rows"), list(counts.items()))
    click.echo(f"\nexport  {out}  {out.stat().st_size / 1e6:.1f} MB")
    emit({"store": str(path), "export": str(out), "rows": counts}, as_json=as_json)


@store_command.command("merge")
@click.argument("others", nargs=-1, required=True, type=click.Path(path_type=Path))
@_store_option
@json_option
def merge_command(others: tuple[Path, ...], path: Path, as_json: bool) -> None:
    """Take over what OTHERS, stores or exports of stores, have and this store has not.

    Engines measured on another machine stay apart from those of this one. To merge again changes nothing.

    \b
    Example:
      atb store merge colleague.sqlite server.jsonl
    """
    merged = {}
    with Store.open(path) as store:
        for other in others:
            merged[str(other)] = store.merge(other)
    lines = [[name, kind, x["added"], x["skipped"]] for name, kinds in merged.items() for kind, x in kinds.items()]
    table(("from", "kind", "added", "skipped"), lines)
    emit({"store": str(path), "merged": merged}, as_json=as_json)


@store_command.command("gc")
@_store_option
@click.option("--keep", type=click.IntRange(1), help="Keep so many of the newest measurements of each engine.")
@click.option(
    "--checkpoint", "checkpoints", multiple=True, help="Keep the accuracies of this checkpoint only; may be repeated."
)
@click.option("--failures-older-than", "days", type=click.FloatRange(0), help="Drop failures older than so many days.")
@click.option("--drop-search", "searches", multiple=True, help="Drop the record of this search; may be repeated.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@json_option
def gc_command(
    path: Path,
    keep: int | None,
    checkpoints: tuple[str, ...],
    days: float | None,
    searches: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove damaged rows and what the options name, and give the room back to the disk.

    \b
    Example:
      atb store gc --keep 3 --failures-older-than 30 --dry-run
    """
    before = None
    if days is not None:
        try:
            before = (datetime.now(UTC) - timedelta(days=days)).isoformat()
        except (OverflowError, ValueError):
            raise click.UsageError(
                f"--failures-older-than {days:g}: no time lies so many days back; name fewer"
            ) from None
    with Store.open(path, create=False) as store:
        result = store.gc(
            keep=keep,
            checkpoints=checkpoints or None,
            failures_before=before,
            drop_searches=searches,
            dry_run=dry_run,
        )
    table(("kind", "would go" if dry_run else "removed"), list(result["removed"].items()))
    if not dry_run:
        click.echo(f"\n{path}  {result['bytes_before'] / 1e6:.1f} MB -> {result['bytes'] / 1e6:.1f} MB")
    emit({"store": str(path), **result}, as_json=as_json)
