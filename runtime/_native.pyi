"""The native part of runtime: bundles, tokenizer, engines and the classifier made of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.classifier import Score, Text

class Bundle:
    """A folder that was checked against its manifest, file by file."""

    @staticmethod
    def read(folder: str) -> Bundle:
        """Raises `BundleError` naming what is not as the manifest says."""

    @property
    def name(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def labels(self) -> list[str]: ...
    @property
    def max_length(self) -> int: ...
    @property
    def folder(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def tokenizer(self) -> str: ...
    @property
    def engines(self) -> list[str]:
        """Their labels."""

class Tokenizer:
    """BERT's WordPiece, token for token that of Hugging Face's tokenizers. Any thread may use it."""

    @staticmethod
    def from_file(path: str) -> Tokenizer:
        """Raises `BundleError` naming what of the file it does not compute exactly."""

    @staticmethod
    def from_json(json: str) -> Tokenizer: ...
    def encode(
        self, text: str, pair: str | None = None, *, max_length: int
    ) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """Ids and segments, special tokens included, without padding; the longest of a pair is cut first."""

    @property
    def pad_id(self) -> int: ...
    @property
    def vocabulary_size(self) -> int: ...

class Engine:
    """A compiled model: rows of token ids in, logits out. Threads take turns."""

    @staticmethod
    def open(bundle: Bundle, engine: str = "", *, batch: int = 0) -> Engine:
        """The one of that label, or the shortest of that group or backend, compiled for `batch` rows (0: its own)."""

    def infer(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64] | None = None,
        token_type_ids: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32]:
        """[batch, labels] from C-contiguous [batch, length] of each input that the model has. Raises `FeedError`."""

    @property
    def label(self) -> str: ...
    @property
    def effective_precision(self) -> str: ...
    @property
    def labels(self) -> int: ...

class Classifier:
    """Text in, label out; `runtime.Classifier` is made of it. Any number of threads may use it."""

    @staticmethod
    def load(folder: str, engine: str, workers: int, batches: Sequence[int]) -> Classifier: ...
    def logits(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Raises `UnicodeEncodeError` for lone surrogates."""

    def scores(self, texts: Sequence[Text]) -> list[list[Score]]:
        """Raises `UnicodeEncodeError` for lone surrogates."""

    def close(self) -> None: ...
    def describe(self) -> str:
        """The engines that answer, as JSON."""

    @property
    def labels(self) -> list[str]: ...
    @property
    def max_length(self) -> int: ...
