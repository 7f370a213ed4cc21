"""From numbers in an answer to a matrix that can be trusted."""

from typing import Any

import numpy as np
import numpy.typing as npt

from integrations.errors import UpstreamMalformed

Vectors = npt.NDArray[np.float32]

# A vector this near to length 1 was normalised by its server: it must pass with every bit as it came, so that what is
# stored equals what the server gives when it is asked directly. float32 and float16 models differ from 1 by far less.
UNIT_TOLERANCE = 1e-3
# The squares of such lengths.
_LEAST, _MOST = (1 - UNIT_TOLERANCE) ** 2, (1 + UNIT_TOLERANCE) ** 2


def matrix(rows: Any, *, body: bytes, normalise: bool = False) -> Vectors:
    """Return `rows`, lists of numbers or the bytes of little-endian float32, as (n, dimensions) float32.

    Raises UpstreamMalformed unless it is a list of vectors of one length, not zero, made of finite numbers. `body` is
    the answer they came from. normalise: at length 1; those within UNIT_TOLERANCE of it keep every bit, and zero
    vectors have no direction.
    """
    if not isinstance(rows, list):
        raise UpstreamMalformed("The model server's answer holds no list of vectors.")
    if not rows:
        return np.empty((0, 0), np.float32)
    vectors = _float32(_from_bytes(rows) if all(type(row) is bytes for row in rows) else _from_numbers(rows, body=body))
    return _normalised(vectors) if normalise else _finite(vectors)


def _from_bytes(rows: list[bytes]) -> npt.NDArray[Any]:
    if len(set(map(len, rows))) > 1:
        raise _of_different_lengths()
    try:
        return np.frombuffer(b"".join(rows), "<f4").reshape(len(rows), -1)
    except ValueError:
        raise UpstreamMalformed("The model server gave a vector that is not base64 of float32.") from None


def _from_numbers(rows: list[Any], *, body: bytes) -> npt.NDArray[Any]:
    # numpy takes JSON's booleans for numbers. The words are looked for first, since types are slow to check one by one.
    if (b"true" in body or b"false" in body) and _has_booleans(rows):
        raise UpstreamMalformed("The model server gave vectors that are not made of numbers.")
    try:
        return np.array([np.frombuffer(row, "<f4") if type(row) is bytes else row for row in rows])
    except ValueError:
        raise _of_different_lengths() from None


def _of_different_lengths() -> UpstreamMalformed:
    return UpstreamMalformed("The model server gave vectors of different lengths.")


def _float32(found: npt.NDArray[Any]) -> Vectors:
    if found.ndim != 2 or found.shape[1] == 0:
        raise UpstreamMalformed("The model server's answer is not a list of vectors.")
    if found.dtype == np.float32:
        return found
    if found.dtype.kind not in "fiu":
        raise UpstreamMalformed("The model server gave vectors that are not made of numbers.")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused afterwards
        return found.astype(np.float32)


def _finite(vectors: Vectors) -> Vectors:
    if not np.isfinite(vectors).all():
        raise UpstreamMalformed("The model server gave a vector with NaN or infinity in it.")
    return vectors


def _has_booleans(rows: list[Any]) -> bool:
    return any(bool in set(map(type, row)) for row in rows if isinstance(row, list))


def _normalised(vectors: Vectors) -> Vectors:
    squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    # Nearly all are of length 1, and whoever is, is finite: one look at each instead of four at all.
    if all(_LEAST <= square <= _MOST for square in squares.tolist()):
        return vectors
    _finite(vectors)
    lengths = np.sqrt(squares)
    far = (np.abs(lengths - 1) > UNIT_TOLERANCE) & (lengths > 0)
    result = vectors.copy()
    result[far] = vectors[far] / lengths[far, np.newaxis]
    return result
