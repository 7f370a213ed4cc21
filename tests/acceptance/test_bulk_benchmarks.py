"""The benchmarks of the queue go on working. What they measure on a machine that runs tests says nothing."""

from tests.benchmarks import bulk
from tests.processes import Stack


def test_bulk_compares_a_worker_with_a_bare_client(stack: Stack) -> None:
    figures = bulk.compare(stack, bulk.parsed(["--short"]))
    assert figures["texts"] == 2000
    assert isinstance(figures["worker"], dict)
    assert figures["worker"]["texts_s"] > 0
    assert isinstance(figures["ratio"], float)
    assert figures["ratio"] > 0
