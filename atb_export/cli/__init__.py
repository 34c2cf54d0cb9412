"""The one command, `atb`. Only this folder parses arguments; heavy packages load inside the commands."""

from atb_export.cli.main import main

__all__ = ["main"]
