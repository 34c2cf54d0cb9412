"""Token ids in one file, written once and memory-mapped after: texts that need not fit in memory.

The file is a safetensors file: `ids` (and `types`, the segments of pairs) of all rows one after another in the order
in which they were written, `starts` and `counts` of each row in the order of the rows.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from supernet.batches import TokenizedTexts, tokenize
from supernet.data.rows import Row
from supernet.data.stream import TransferText, stream_sentences
from supernet.errors import CheckpointError
from supernet.ragged import Ragged

_HEADER = 4096  # bytes, known before what is described in them
_CHUNK = 2000  # rows tokenised at a time
_TYPES: dict[str, np.dtype[Any]] = {"I32": np.dtype("<i4"), "I64": np.dtype("<i8"), "U8": np.dtype("u1")}
# Raise it when the file's layout changes.
_LAYOUT = 1

Placed = Iterable[tuple[int, tuple[str, ...]]]


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Sha256 (hexadecimal) of everything that decides which ids a text gets."""
    plain = json.loads(tokenizer.backend_tokenizer.to_str())
    plain["truncation"] = plain["padding"] = None  # what the last call left there
    inputs = [*tokenizer.model_input_names, tokenizer.pad_token_id]
    return hashlib.sha256(json.dumps([plain, inputs], sort_keys=True).encode()).hexdigest()


def cached_tokens(
    path: Path, tokenizer: Any, rows: Callable[[], Placed], *, fingerprint: str, max_length: int
) -> TokenizedTexts:
    """The tokens of `rows()`, (place, texts) each, cut to `max_length`: from the file where it has them, else written.

    `fingerprint` names the rows; the tokenizer and the length are added to it. Each place from 0 on comes once, in any
    order. Raises `CheckpointError` where the file cannot be written.
    """
    wanted = hashlib.sha256(
        json.dumps([fingerprint, tokenizer_fingerprint(tokenizer), max_length, _LAYOUT]).encode()
    ).hexdigest()
    found = _read(path, wanted)
    if found is None:
        try:
            _write(path, tokenizer, rows(), fingerprint=wanted, max_length=max_length)
        except OSError as error:
            raise CheckpointError(
                f"cannot write {path}: {error.strerror or error}. Free some space or choose another output."
            ) from error
        found = _read(path, wanted)
        if found is None:
            raise CheckpointError(f"{path} changed while it was written: two processes share this folder")
    return found


def transfer_tokens(
    folder: Path, tokenizer: Any, text: TransferText, *, max_length: int, exclude: Iterable[Row] = ()
) -> TokenizedTexts:
    """The sentences of a text without those of `exclude`, in a file in `folder` that is named after what it holds.

    The text is read again only where it, the tokenizer, the length or the excluded rows are others than before.
    """
    held_out = tuple(exclude)
    keys = hashlib.sha256(json.dumps(sorted(row.key for row in held_out)).encode()).hexdigest()
    name = hashlib.sha256(
        json.dumps([text.fingerprint(), keys, tokenizer_fingerprint(tokenizer), max_length]).encode()
    ).hexdigest()

    def rows() -> Iterator[tuple[int, tuple[str, ...]]]:
        with stream_sentences(text, folder=folder, exclude=held_out) as found:
            for place, sentence in found.placed:
                yield place, (sentence,)

    path = folder / f"transfer-{name[:16]}.safetensors"
    return cached_tokens(path, tokenizer, rows, fingerprint=name, max_length=max_length)


def _read(path: Path, fingerprint: str) -> TokenizedTexts | None:
    """The texts in a file; None where there is none, it holds others, or it was not finished."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(_HEADER - 8))
        about = header.pop("__metadata__")
        ends = max(entry["data_offsets"][1] for entry in header.values())
        if about["fingerprint"] != fingerprint or size != _HEADER - 8 or path.stat().st_size != _HEADER + ends:
            return None
        arrays = {name: _array(path, entry) for name, entry in header.items()}
        starts, counts = arrays["starts"], arrays["counts"]
        return TokenizedTexts(
            input_ids=Ragged(arrays["ids"], starts, counts),
            token_type_ids=Ragged(arrays["types"], starts, counts) if "types" in arrays else None,
            pad_token_id=int(about["pad_token_id"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _array(path: Path, entry: dict[str, Any]) -> NDArray[Any]:
    kind, (begin, end) = _TYPES[entry["dtype"]], entry["data_offsets"]
    if begin == end:
        return np.zeros(0, dtype=kind)
    count = (end - begin) // kind.itemsize
    return np.asarray(np.memmap(path, dtype=kind, mode="r", offset=_HEADER + begin, shape=(count,)))


def _write(path: Path, tokenizer: Any, rows: Placed, *, fingerprint: str, max_length: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file, tempfile.TemporaryFile(dir=path.parent) as types:
            file.write(b" " * _HEADER)
            places, counts, has_types = _write_rows(file, types, tokenizer, rows, max_length)
            header = _write_index(file, types if has_types else None, places, counts)
            header["__metadata__"] = {"fingerprint": fingerprint, "pad_token_id": str(int(tokenizer.pad_token_id or 0))}
            file.seek(0)
            file.write((_HEADER - 8).to_bytes(8, "little") + json.dumps(header).encode().ljust(_HEADER - 8))
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def _write_rows(
    file: IO[bytes], types: IO[bytes], tokenizer: Any, rows: Placed, max_length: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], bool]:
    """Ids to the one, segments (if any) to the other; the rows' places and lengths in the order they came in."""
    places, counts, has_types = array("q"), array("i"), False
    stream = iter(rows)
    while some := list(islice(stream, _CHUNK)):
        found = tokenize(tokenizer, [texts for _, texts in some], max_length=max_length)
        places.extend(place for place, _ in some)
        counts.extend(found.lengths)
        file.write(np.concatenate([np.asarray(x, dtype="<i4") for x in found.input_ids]).tobytes())
        if found.token_type_ids is not None:
            has_types = True
            types.write(np.concatenate([np.asarray(x, dtype="u1") for x in found.token_type_ids]).tobytes())
    return np.frombuffer(places, dtype=np.int64), np.frombuffer(counts, dtype=np.int32), has_types


def _write_index(
    file: IO[bytes], types: IO[bytes] | None, places: NDArray[np.int64], counts: NDArray[np.int32]
) -> dict[str, Any]:
    """Where each row is, then the segments; returns the entries of the header."""
    total = int(counts.sum())
    starts = np.cumsum(counts, dtype=np.int64) - counts
    order = np.argsort(places, kind="stable")
    if not np.array_equal(places[order], np.arange(len(places))):
        raise ValueError(f"{len(places)} rows have the places 0 to {len(places) - 1}, each once")
    if total % 2:
        file.write(bytes(4))  # what follows is eight bytes wide
    begin = file.tell() - _HEADER
    header: dict[str, Any] = {"ids": _entry("I32", total + total % 2, 0)}
    for name, kind, values in (("starts", "I64", starts[order]), ("counts", "I32", counts[order])):
        header[name] = _entry(kind, len(values), begin)
        file.write(values.astype(_TYPES[kind]).tobytes())
        begin = header[name]["data_offsets"][1]
    if types is not None:
        types.seek(0)
        header["types"] = _entry("U8", total, begin)
        while block := types.read(1 << 20):
            file.write(block)
    return header


def _entry(kind: str, count: int, begin: int) -> dict[str, Any]:
    return {"dtype": kind, "shape": [count], "data_offsets": [begin, begin + count * _TYPES[kind].itemsize]}
