"""The colours, by name: the page declares them as CSS variables, pictures in files wear the light ones."""

from __future__ import annotations

from collections.abc import Mapping

LIGHT: Mapping[str, str] = {
    "paper": "#fdfcfa",
    "sheet": "#f5f3ee",
    "ink": "#1d2025",
    "muted": "#636972",
    "grid": "#dedbd3",
    "winner": "#0b63c4",
    "teacher": "#b84a0e",
    "baseline": "#6b3fa0",
    "candidate": "#8f98a6",
    "front": "#4b5a70",
    "limit": "#a3123f",
    "band": "#f3e6ea",
    "good": "#1b7a43",
    "bad": "#b3261e",
    # Generations of a search, first to last.
    "step0": "#b3dad3",
    "step1": "#82c2b7",
    "step2": "#4aa294",
    "step3": "#1f786c",
    "step4": "#0a443d",
    # Parts of a whole, in their order.
    "part0": "#c9a227",
    "part1": "#d4622a",
    "part2": "#8a5bb5",
    "part3": "#0b63c4",
    "part4": "#1f9a8a",
    "part5": "#c9c5bb",
}
DARK: Mapping[str, str] = {
    "paper": "#14171b",
    "sheet": "#1c2026",
    "ink": "#e9e7e2",
    "muted": "#9ba2ad",
    "grid": "#343a43",
    "winner": "#66aefc",
    "teacher": "#f59a5b",
    "baseline": "#bf9bee",
    "candidate": "#8590a1",
    "front": "#c3cfe0",
    "limit": "#ff8fa8",
    "band": "#33232a",
    "good": "#66c98d",
    "bad": "#ff8a80",
    "step0": "#2f5550",
    "step1": "#3a7870",
    "step2": "#4aa598",
    "step3": "#74cfc2",
    "step4": "#c3f5ec",
    "part0": "#e3c35c",
    "part1": "#f08a55",
    "part2": "#b692e0",
    "part3": "#66aefc",
    "part4": "#4fc9b7",
    "part5": "#4a515c",
}
FILES: Mapping[str, str] = {**LIGHT, "paper": "#ffffff"}
STEPS = tuple(name for name in LIGHT if name.startswith("step"))
PARTS = tuple(name for name in LIGHT if name.startswith("part"))
