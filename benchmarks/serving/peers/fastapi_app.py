"""FastAPI as its tutorial has it: a pydantic model in, one out, a plain function. `uvicorn fastapi_app:app`"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from inference import load
from pydantic import BaseModel

model = load()
app = FastAPI()


class Question(BaseModel):
    """What comes in."""

    text: str


class Answer(BaseModel):
    """What goes out."""

    label: str
    score: float


@app.post("/predict")
def predict(question: Question) -> Answer:
    """One text."""
    return Answer(**model([question.text])[0])


@app.get("/health")
def health() -> dict[str, Any]:
    """Ready."""
    return {}
