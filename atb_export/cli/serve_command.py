"""`atb serve`: the native server takes this process's place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click

from atb_export.serving.errors import ServingError
from atb_export.serving.programs import native_program

_PROGRAM = "atb-server"


class _Serve(click.Command):
    """Its help ends with the server's own, where there is one."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Runs the server for it."""
        try:
            folder = next(x.resolve_envvar_value(ctx) for x in self.params if x.name == "programs")
            program = native_program(_PROGRAM, Path(folder) if folder else None)
            told = subprocess.run(  # noqa: S603 - our own program
                [program, "--help"], capture_output=True, text=True, timeout=10, check=True
            ).stdout
        except (ServingError, OSError, subprocess.SubprocessError) as error:
            told = f"The server's options cannot be shown: {error}"
        formatter.write(f"\nThe options of the server, {_PROGRAM}:\n\n{told.rstrip()}\n")


@click.command("serve", cls=_Serve, context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[NAME=]BUNDLE... [SERVER OPTIONS]")
@click.option("--name", help="What clients call the one BUNDLE. Default: the name in its manifest.")
@click.option(
    "--bin",
    "programs",
    envvar="ATB_BIN",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder of atb-server, where it is not the installed one [env: ATB_BIN].",
)
def serve_command(words: tuple[str, ...], name: str | None, programs: Path | None) -> None:
    """Serve bundles over HTTP, and gRPC where it was built with it: text in, label out.

    A BUNDLE is a folder made by atb export or atb run, or a folder of such folders named by version (1, 2, ...). What
    follows the bundles goes to the native server as it is, and the server takes this process's place: signals and exit
    codes are its own.

    \b
    Example:
      atb serve runs/quickstart/bundle
      atb serve reviews=runs/quickstart/bundle spam=runs/spam/bundle --port 8000 --grpc-port 8001
      atb serve runs/quickstart/bundle --name reviews --host 0.0.0.0 --ui
      curl -s http://127.0.0.1:8000/predict -d '{"inputs": "a film of rare warmth"}'
    """
    program = native_program(_PROGRAM, programs)
    count = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    bundles, options = words[:count], words[count:]
    if not bundles and not any(word.split("=")[0] in ("--model", "--help", "--version") for word in options):
        raise click.UsageError("no BUNDLE is named: atb serve [NAME=]BUNDLE... [SERVER OPTIONS]")
    if name is not None and len(bundles) != 1:
        raise click.UsageError(f"--name names one BUNDLE, and there are {len(bundles)}: write NAME=BUNDLE for each")
    command = [str(program)]
    for word in bundles:
        command += ["--model", _model(word, name)]
    sys.stdout.flush()
    os.execv(program, [*command, *options])  # noqa: S606 - the arguments are a list, there is no shell


def _model(word: str, name: str | None) -> str:
    """NAME=FOLDER, with the bundle's own name where none is given."""
    given, equals, rest = word.partition("=")
    if equals and not Path(word).exists():
        if name is not None:
            raise click.UsageError(f"{word!r} is named already: leave out --name {name}")
        given_name, folder = given, Path(rest)
    else:
        given_name, folder = name or "", Path(word)
    if not folder.is_dir():
        raise ServingError(f"{folder} is no folder: a bundle is what atb export or atb run leaves")
    return f"{given_name or _own_name(folder)}={folder}"


def _own_name(folder: Path) -> str:
    """Of the manifest; of a folder of versions the folder's. What is wrong with either is the server's to say."""
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        return folder.absolute().name
    try:
        return str(json.loads(manifest.read_bytes())["name"])
    except (OSError, ValueError, LookupError, TypeError):
        return folder.absolute().name
