"""The front of a search as a table, and how well its latencies were foreseen."""

from __future__ import annotations

from typing import Any

import click

from atb_export.cli.output import table
from atb_export.picking import Found
from search.candidate import Candidate


def show_front(found: Found, picked: Candidate | None) -> None:
    """The targets with their limits, and one line for each design, marked at the pick."""
    scored, failed = sum(x.is_scored for x in found.candidates), sum(x.has_failed for x in found.candidates)
    counts = f"{len(found.candidates)} designs evaluated, {scored} scored whole, {failed} failed"
    state = "finished, its front measured once more" if found.finished else "as far as recorded, each measured once"
    click.echo(f"{found.where}: {state}; {counts}\n")
    teacher = found.teacher_ms or (None,) * len(found.targets)
    lines = [
        [i + 1, label, "" if reference is None else f"{reference:.3f}", "none" if limit is None else f"{limit:.3f}"]
        for i, (label, reference, limit) in enumerate(zip(found.targets, teacher, found.limits_ms, strict=True))
    ]
    table(["#", "target", "teacher ms", "limit ms"], lines)
    click.echo()
    several = len(found.targets) > 1
    times = [f"p50 ms [95 %] on {i + 1}" if several else "p50 ms [95 %]" for i in range(len(found.targets))]
    rows = []
    for x in found.front:
        intervals = [f"{t.ms:.3f} [{t.ci_ms[0]:.3f}, {t.ci_ms[1]:.3f}]" for t in x.latencies]
        mark = " <- picked" if picked is not None and x.design == picked.design else ""
        names = [x.design.key, f"{x.accuracy:.4f}"]
        rows.append([*names, *intervals, ", ".join(x.design.precisions), f"{x.subnet}{mark}"])
    table(["key", "search-dev", *times, "precision", "subnet"], rows)


def latency_models(found: Found) -> list[dict[str, Any]]:
    """For each target and precision how well a model foretells engines of this search that it was not fitted to, and
    how well the guesses made before each measurement ranked them; None where there are too few of either."""
    from search.latency_model import LEAST_ENGINES, LatencyModel
    from search.statistics import spearman

    rows = []
    for i, label in enumerate(found.targets):
        for precision in sorted({x.design.precisions[i] for x in found.candidates}):
            mine = [x for x in found.candidates if x.is_measured and x.design.precisions[i] == precision]
            # Subnets of other layers of the supernet but the same shape are one engine.
            engines = {x.subnet.renumbered(): x.ms[i] for x in mine}
            enough = len(engines) >= LEAST_ENGINES
            quality = LatencyModel(list(engines), list(engines.values())).quality if enough else None
            guessed = [(x.predicted_ms[i], x.ms[i]) for x in mine if x.predicted_ms is not None]
            rows.append(
                {
                    "target": label,
                    "precision": precision,
                    "engines": len(engines),
                    "mape": None if quality is None else quality.mape,
                    "spearman": None if quality is None else quality.spearman,
                    "guesses": len(guessed),
                    "spearman_of_guesses": spearman([a for a, _ in guessed], [b for _, b in guessed]),
                }
            )
    return rows


def show_latency_models(rows: list[dict[str, Any]]) -> None:
    """Those that say anything."""
    telling = [x for x in rows if x["mape"] is not None or x["spearman_of_guesses"] is not None]
    if not telling:
        return
    click.echo("\nlatency models; they only steer what is measured next, every latency above was measured\n")

    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    table(
        ["target", "precision", "engines", "held-out error", "Spearman", "guesses", "Spearman"],
        [
            [
                x["target"],
                x["precision"],
                x["engines"],
                number(x["mape"], ".1%"),
                number(x["spearman"], ".3f"),
                x["guesses"],
                number(x["spearman_of_guesses"], ".3f"),
            ]
            for x in telling
        ],
    )
