"""The command that lays a bundle out for other servers and for the hub."""

from __future__ import annotations

from pathlib import Path

import click

from atb_export.cli.output import emit, json_option, table
from atb_export.layouts.writing import Layout
from runtime.manifest import Bundle, read_bundle


@click.command("layout")
@click.argument("bundle", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--format",
    "form",
    required=True,
    type=click.Choice(("triton", "ovms", "huggingface")),
    help="A Triton model repository, OpenVINO Model Server's folder, or a repository for the Hugging Face hub.",
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="The folder to write: new."
)
@click.option("--engine", help="Backend, group or label of the engine to serve; by default the bundle's first.")
@click.option("--max-batch", type=click.IntRange(1, 4096), help="Rows that are run together at most.")
@click.option(
    "--queue-delay-us",
    type=click.IntRange(0, 10_000_000),
    help="How long a request waits for others to share a batch (Triton; 100 unless given).",
)
@click.option("--python-engine", is_flag=True, help="Run the bundle's own engines in Triton's Python backend.")
@json_option
def layout_command(
    bundle: Path,
    form: str,
    out: Path,
    engine: str | None,
    max_batch: int | None,
    queue_delay_us: int | None,
    python_engine: bool,
    as_json: bool,
) -> None:
    """Lay BUNDLE out for another server or for the hub; every file is checked against its hash on the way.

    \b
    Example:
      atb layout runs/quickstart/bundle --format triton --max-batch 16 --out repository
      atb layout runs/quickstart/bundle --format ovms --engine openvino --out ovms
    """
    given = {
        "--engine": engine is not None,
        "--max-batch": max_batch is not None,
        "--queue-delay-us": queue_delay_us is not None,
        "--python-engine": python_engine,
    }
    meant = {"triton": set(given), "ovms": {"--engine", "--max-batch"}, "huggingface": set()}[form]
    if wrong := [name for name, there in given.items() if there and name not in meant]:
        raise click.UsageError(f"--format {form} has no {', '.join(wrong)}")
    found = read_bundle(bundle)
    layout = _write(found, form, out, engine, max_batch, queue_delay_us, python_engine)
    table(["file", "bytes"], [[name, f"{(layout.folder / name).stat().st_size:,}"] for name in layout.files])
    click.echo(f"\n{form}  {out}  {layout.total_bytes / 1e6:.1f} MB  serves {', '.join(layout.engines)}")
    for note in layout.notes:
        click.echo(f"note: {note}")
    emit(
        {
            "format": form,
            "out": str(out),
            "model": layout.name,
            "engines": list(layout.engines),
            "files": list(layout.files),
            "bytes": layout.total_bytes,
            "notes": list(layout.notes),
        },
        as_json=as_json,
    )


def _write(
    bundle: Bundle,
    form: str,
    out: Path,
    engine: str | None,
    max_batch: int | None,
    queue_delay_us: int | None,
    python_engine: bool,
) -> Layout:
    if form == "triton":
        from atb_export.layouts.triton import TritonOptions, write_triton

        delay = TritonOptions.queue_delay_us if queue_delay_us is None else queue_delay_us
        options = TritonOptions(engine=engine, max_batch=max_batch, queue_delay_us=delay, python_engine=python_engine)
        return write_triton(bundle, out, options)
    if form == "ovms":
        from atb_export.layouts.ovms import OvmsOptions, write_ovms

        return write_ovms(bundle, out, OvmsOptions(engine=engine, max_batch=max_batch))
    from atb_export.layouts.huggingface import write_huggingface

    return write_huggingface(bundle, out)
