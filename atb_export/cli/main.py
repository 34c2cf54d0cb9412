"""`atb`: its commands, exit codes and the one place where errors become messages.

Exit codes: 0 done, 1 refused or failed (one message on stderr, no traceback), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import Any

import click

# command -> module that defines it; a module is imported only when its command is asked for.
COMMANDS = {
    "run": "atb_export.cli.recipe_commands",
    "distill": "atb_export.cli.distill_command",
    "train": "atb_export.cli.recipe_commands",
    "search": "atb_export.cli.recipe_commands",
    "pick": "atb_export.cli.pick_command",
    "compare": "atb_export.cli.recipe_commands",
    "space": "atb_export.cli.space_command",
    "store": "atb_export.cli.store_commands",
    "export": "atb_export.cli.export_command",
    "bench": "atb_export.cli.bench_command",
    "verify": "atb_export.cli.export_command",
    "serve": "atb_export.cli.serve_command",
    "layout": "atb_export.cli.layout_command",
    "doctor": "atb_export.cli.doctor",
}
HELP = {
    "run": "Do everything a recipe describes, from the teacher to the bundle and the report.",
    "distill": "Distil a teacher into a hand-written shape, in stages, over several seeds.",
    "train": "Fine-tune the teacher and train the supernet of a recipe.",
    "search": "Search a recipe's space by the measured latency of compiled engines.",
    "pick": "Show the front of a search and pick from it; slice the pick to a dense model.",
    "compare": "Continue a run with hand-designed baselines, distilled alike.",
    "space": "Show a search space: its size, its choices, its ends and samples.",
    "store": "List, export, merge and tidy what searches have measured.",
    "export": "Export a dense model to verified engines in a bundle.",
    "bench": "Measure bundles, ONNX files, PyTorch models and running servers.",
    "verify": "Check a bundle's hashes and what its engines compute.",
    "serve": "Serve bundles over HTTP and gRPC by the native server.",
    "layout": "Lay a bundle out for Triton, OpenVINO Model Server or the Hugging Face hub.",
    "doctor": "Show what is installed, which engines work here, and how to get what is missing.",
}


class LazyGroup(click.Group):
    """Lists its commands without importing what they need."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command's module."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(COMMANDS[cmd_name]), f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table above, so that `atb --help` is quick."""
        with formatter.section("Commands"):
            formatter.write_dl(list(HELP.items()))


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="atb-export", prog_name="atb")
def atb() -> None:
    """Tiny BERTs, found by measurement and shipped as compiled engines.

    \b
    Example:
      atb run recipes/quickstart.toml     teacher -> supernet -> search -> bundle and report
      atb verify runs/quickstart/bundle
    """


def _user_errors() -> tuple[type[Exception], ...]:
    """The trees of errors that speak to the user; those whose floor is not installed cannot occur."""
    found: list[type[Exception]] = []
    for module, name in (
        ("atb_export.errors", "AtbError"),
        ("atb_export.recipe_errors", "RecipeError"),
        ("atb_export.report", "ReportError"),
        ("runtime.errors", "AtbRuntimeError"),
        ("search.errors", "SearchError"),
        ("supernet.errors", "SupernetError"),
    ):
        try:
            found.append(getattr(importlib.import_module(module), name))
        except ModuleNotFoundError:
            continue
    return tuple(found)


def _unwritable(error: Exception) -> str | None:
    """What keeps files from being written, if that is what failed; native writers hide it in their own errors."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
    full = os.strerror(errno.ENOSPC)
    return full if full in str(error) else None


def main(arguments: list[str] | None = None) -> None:
    """Runs `atb` and exits with its code."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Runs `atb` and returns its exit code."""
    try:
        value: Any = atb.main(args=arguments, prog_name="atb", standalone_mode=False)
    except (KeyboardInterrupt, click.Abort):
        click.echo("\ninterrupted; what was finished is kept, add --resume to continue", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        # The reader of stdout went away; pointing stdout elsewhere keeps Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package in ("", "atb_export", "supernet", "search", "runtime"):
            raise
        click.echo(
            f"error: this command needs the package {package}, which is not installed: pip install 'atb-export[train]'",
            err=True,
        )
        return 1
    except Exception as error:
        if (reason := _unwritable(error)) is not None:
            click.echo(f"error: {reason}. Nothing half-written is left: mend it and add --resume", err=True)
        elif isinstance(error, _user_errors()):
            click.echo(f"error: {error}", err=True)
        else:
            raise
        return 1
    return value if isinstance(value, int) else 0
