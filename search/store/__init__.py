"""The store: every measurement, failure, accuracy and evaluation in one SQLite file, for the next search to reuse."""

from search.errors import StoreError
from search.store.history import History
from search.store.rows import Accuracy, EngineKey, Failure, Measurement, Row, utc_now
from search.store.store import Store

__all__ = ["Accuracy", "EngineKey", "Failure", "History", "Measurement", "Row", "Store", "StoreError", "utc_now"]
