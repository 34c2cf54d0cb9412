from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from search.plan import SearchPlan

PLAN = SearchPlan(engines=24)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("engines", 0),
        ("seconds", 0.0),
        ("seconds", float("nan")),
        ("population", 1),
        ("generation", 0),
        ("mutation_rate", 0.0),
        ("mutation_rate", 1.1),
        ("slack", 0.99),
        ("brood", 0),
        ("explore", -0.1),
        ("explore", 1.1),
        ("patience", 0),
        ("failures_per_engine", -1.0),
    ],
)
def test_refuses_and_names_the_value(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{field} must .*, got {value}"):
        replace(PLAN, **{field: value})


@pytest.mark.parametrize("change", [{"mutation_rate": 1.0}, {"explore": 0.0}, {"explore": 1.0}, {"slack": 1.0}])
def test_the_edges_are_allowed(change: dict[str, Any]) -> None:
    assert replace(PLAN, **change).engines == 24
