"""`atb`: its commands, exit codes and the one place where errors become messages.

Exit codes: 0 done, 1 refused or failed (one message on stderr, no traceback), 2 wrong usage, 130 interrupted.

Of several processes that a launcher started, the first that fails says why; the first of them says all else.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
import time
import traceback
from typing import Any, NoReturn

import click

from supernet.processes import ALONE, Processes, launched

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
# The commands that several processes run together; any other is done by the first alone.
TOGETHER = ("run", "distill", "train", "search", "compare")
# So long a process that failed leaves the one that says why, for a launcher ends all at the first that is gone.
_LAST_WORDS_S = 1.0


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
    processes = launched()
    if processes.count == 1:
        sys.exit(run(arguments))
    _run_as_one_of(processes, sys.argv[1:] if arguments is None else arguments)


def _run_as_one_of(processes: Processes, arguments: list[str]) -> NoReturn:
    """The same in one of several processes, which end together.

    They end by `os._exit`. A thread of PyTorch's (gloo's, autograd's) may be the last to hold a tensor, whose release
    needs the interpreter. While that is being finalised it ends a thread that asks for it, and with it, by
    std::terminate, the process: exit code -6 after all is done (pytorch/pytorch#190489, seen with 2.13). Leaving the
    group beforehand, as is done, makes that rare, not impossible.
    """
    # Set before torch is imported: a process that others lose is told of in a line, not in the frames of its store.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    code = 0
    if arguments[:1] and arguments[0] in TOGETHER:
        code = _run_together(processes, arguments)
    elif processes.is_main:
        code = run(arguments)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _run_together(processes: Processes, arguments: list[str]) -> int:
    try:
        if not (code := run(arguments, processes)):
            processes.leave()
            return 0
    except KeyboardInterrupt:
        code = 130
    except BaseException:  # a mistake of ours, shown by Python as ever
        code = 1
        if processes.fails():
            traceback.print_exc()
    sys.stderr.flush()
    with contextlib.suppress(KeyboardInterrupt):
        time.sleep(_LAST_WORDS_S)
    return code


def run(arguments: list[str] | None = None, processes: Processes = ALONE) -> int:
    """Runs `atb`, maybe as one of several processes, and returns its exit code."""
    try:
        value: Any = atb.main(args=arguments, prog_name="atb", standalone_mode=False)
    except (KeyboardInterrupt, click.Abort):
        if processes.is_main:
            processes.interrupted()
            click.echo("\ninterrupted; what was finished is kept, add --resume to continue", err=True)
        return 130
    except click.ClickException as error:
        if processes.fails():
            error.show()
        return error.exit_code
    except BrokenPipeError:
        # The reader of stdout went away; pointing stdout elsewhere keeps Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if (message := _message(error)) is None:
            raise
        if processes.fails():
            who = "" if processes.is_main else f"process {processes.rank + 1} of {processes.count}: "
            click.echo(f"error: {who}{message}", err=True)
        return 1
    return value if isinstance(value, int) else 0


def _message(error: Exception) -> str | None:
    """What to tell the user of it; nothing of a mistake of ours."""
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").split(".")[0]
        if package in ("", "atb_export", "supernet", "search", "runtime"):
            return None
        return f"this command needs the package {package}, which is not installed: pip install 'atb-export[train]'"
    if (reason := _unwritable(error)) is not None:
        return f"{reason}. Nothing half-written is left: mend it and add --resume"
    return str(error) if isinstance(error, _user_errors()) else None
