"""What a person sees while a command works: headings and progress bars on stderr, so that stdout stays clean."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from tqdm import tqdm

Progress = Callable[[int, int, str], None]


class Ui:
    """`with ui.progress("title") as progress: progress(done, total, text)` shows a bar with the time left."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet

    def say(self, text: str) -> None:
        """One line."""
        if not self.quiet:
            click.echo(text, err=True)

    @contextmanager
    def progress(self, title: str) -> Iterator[Progress]:
        """A bar for a terminal; a line every ten seconds where the output is a file."""
        terminal = sys.stderr.isatty()
        bar = tqdm(
            desc=title,
            disable=self.quiet,
            mininterval=0.2 if terminal else 10.0,
            ncols=None if terminal else 110,
            file=sys.stderr,
            leave=True,
            dynamic_ncols=terminal,
            bar_format="{desc}: {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed} < {remaining}] {postfix}",
        )

        def progress(done: int, total: int, text: str) -> None:
            if bar.total != total:
                bar.total = total
                bar.initial, bar.n = done - 1, done - 1  # a resumed stage starts where it was
            bar.set_postfix_str(text, refresh=False)
            bar.update(done - bar.n)

        try:
            yield progress
        finally:
            bar.close()


def quiet_libraries() -> None:
    """Keeps the progress bars and advice of `transformers` out of ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
