"""From numbers in an answer to a matrix that can be trusted."""

from typing import Any

import numpy as np
import numpy.typing as npt

from integrations.errors import UpstreamMalformed

Vectors = npt.NDArray[np.float32]

# A vector this near to length 1 was normalised by its server: it must pass with every bit as it came, so that what is
# stored equals what the server gives when it is asked directly. float32 and float16 models differ from 1 by far less.
UNIT_TOLERANCE = 1e-3


def matrix(rows: Any, *, body: bytes) -> Vectors:
    """Return `rows` as (n, dimensions) float32.

    Raises UpstreamMalformed unless it is a list of vectors of one length, not zero, made of finite numbers. `body` is
    the answer they came from.
    """
    if isinstance(rows, np.ndarray):
        return _finite(rows)
    if not isinstance(rows, list):
        raise UpstreamMalformed("The model server's answer holds no list of vectors.")
    if not rows:
        return np.empty((0, 0), np.float32)
    # numpy takes JSON's booleans for numbers. The words are looked for first, since types are slow to check one by one.
    numbers = any(type(row) is list for row in rows)
    if numbers and (b"true" in body or b"false" in body) and _has_booleans(rows):
        raise UpstreamMalformed("The model server gave vectors that are not made of numbers.")
    try:
        found = np.array(rows)
    except ValueError:
        raise UpstreamMalformed("The model server gave vectors of different lengths.") from None
    return _finite(found)


def _finite(found: npt.NDArray[Any]) -> Vectors:
    if found.ndim != 2 or found.shape[1] == 0:
        raise UpstreamMalformed("The model server's answer is not a list of vectors.")
    if found.dtype.kind not in "fiu":
        raise UpstreamMalformed("The model server gave vectors that are not made of numbers.")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused here
        vectors = found.astype(np.float32, copy=False)
    if not np.isfinite(vectors).all():
        raise UpstreamMalformed("The model server gave a vector with NaN or infinity in it.")
    return vectors


def _has_booleans(rows: list[Any]) -> bool:
    return any(bool in set(map(type, row)) for row in rows if isinstance(row, list))


def normalised(vectors: Vectors) -> Vectors:
    """Return the vectors at length 1. Those within UNIT_TOLERANCE keep every bit; zero vectors have no direction."""
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    far = (np.abs(lengths - 1) > UNIT_TOLERANCE) & (lengths > 0)
    if not far.any():
        return vectors
    result = vectors.copy()
    result[far] = vectors[far] / lengths[far, np.newaxis]
    return result
