"""The example page in a real browser: it asks the server it came from, and shows what that answers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

Show = Callable[[str], str]


@pytest.fixture
def show(tmp_path: Path) -> Show:
    """What stands in the document of a URL once its scripts have run."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("there is no Chromium")
    quiet = ["quic", "background-networking", "component-update", "sync", "gpu", "extensions"]
    options = ["--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{x}" for x in quiet)]

    def run(url: str) -> str:
        command = [browser, *options, f"--user-data-dir={tmp_path}", "--virtual-time-budget=20000", "--dump-dom", url]
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert answer.returncode == 0, answer.stderr[-2000:]
        return answer.stdout

    return run


class _Texts(HTMLParser):
    """Texts by the class or id of the element that holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[str]] = {}
        self._of = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        self._of = names.get("class") or names.get("id") or tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.found.setdefault(self._of, []).append(data)


def texts_of(document: str) -> dict[str, list[str]]:
    reader = _Texts()
    reader.feed(document)
    return reader.found


def test_the_page_shows_label_scores_and_times(serve: Any, show: Show) -> None:
    with serve("--ui") as server:
        document = show(f"http://127.0.0.1:{server.port}/?text=a%20good%20film")
        expected = server.ask("/predict", {"inputs": "a good film"}).json
    assert 'data-state="answered"' in document
    found = texts_of(document)
    assert found["name"] == [x["label"] for x in expected]
    assert found["value"] == [f"{x['score']:.4f}" for x in expected]
    assert document.count("<rect") == 5
    assert re.search(r"in this browser, .* of them in the server", found["total"][0])


def test_the_page_shows_what_went_wrong_and_runs_no_text_as_html(serve: Any, show: Show) -> None:
    with serve("--ui", "--text-bytes", 20) as server:
        document = show(f"http://127.0.0.1:{server.port}/?text=%3Cimg%20src=x%20onerror=alert(1)%3E%20and%20more")
    assert 'data-state="failed"' in document
    assert "<img" not in document
    assert "at most 20 are taken" in "".join(texts_of(document)["error"])


def test_a_token_is_asked_for_on_the_page(serve: Any, show: Show) -> None:
    with serve("--ui", ATB_SERVER_TOKEN="secret") as server:
        document = show(f"http://127.0.0.1:{server.port}/?text=good")
    assert re.search(r'<div id="secret">', document)
    assert 'data-state="failed"' in document


def test_the_page_is_there_only_where_it_was_asked_for(server: Any) -> None:
    reply = server.ask("/")
    assert reply.status == 404
    assert json.loads(reply.body)["error_type"] == "not_found"
