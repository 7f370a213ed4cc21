"""The benchmarks of the queue go on working. What they measure on a machine that runs tests says nothing."""

from typing import Any

import pytest

from tests.benchmarks import bulk, bulk_real, flat, million
from tests.processes import Stack


def test_bulk_compares_a_worker_with_a_bare_client(stack: Stack) -> None:
    assert_both_were_measured(bulk.compare(stack, bulk.parsed(["--short"])), texts=2000)


def test_bulk_real_compares_a_worker_with_a_real_servers_best_rate(stack: Stack) -> None:
    assert_both_were_measured(bulk_real.compare(stack, bulk_real.parsed(["--short"])), texts=100)


def test_a_batch_goes_all_the_way_from_a_streamed_upload_to_a_streamed_download(stack: Stack) -> None:
    figures = million.measure(stack, million.parsed(["--short"]))
    assert figures["texts"] == 3000
    assert isinstance(figures["peak_mb"], dict)
    assert set(figures["peak_mb"]) == {"web", "worker", "scheduler"}


@pytest.mark.usefixtures("stack")
def test_flat_asks_four_databases_the_same() -> None:
    figures: dict[str, Any] = flat.compare(flat.parsed(["--short"]))
    assert (figures.pop("calls"), figures.pop("batches")) == (2000, 100)
    assert figures.pop("pruned_slice_ms") > 0
    assert len(figures) == 13
    for row in figures.values():
        assert min(row[f"{which}_ms"] for which in ("full", "recent", "young", "empty")) > 0


def assert_both_were_measured(figures: dict[str, Any], *, texts: int) -> None:
    assert figures["texts"] == texts
    assert figures["bare"]["texts_s"] > 0
    assert figures["worker"]["texts_s"] > 0
    assert figures["ratio"] > 0
