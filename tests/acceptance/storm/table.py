"""What a storm's summary says."""

from collections import Counter
from collections.abc import Iterator, Mapping
from statistics import median

from tests.acceptance.storm import verdict
from tests.acceptance.storm.verdict import Facts


def rows(facts: Facts, *, limit: int) -> Iterator[tuple[str, str]]:
    """Yield each line's label and value."""
    met = verdict.hits(facts)
    rescues = [hit.rescued for hit in met]
    done = sum(batch.completed for batch in facts.stored.values())
    yield "kills", f"{len(facts.kills)} ({_each(Counter(kill.kind for kill in facts.kills))})"
    yield "of them on running chunks", str(len(met))
    yield "texts accepted, with their own vector", f"{sum(map(len, facts.accepted.values()))}, {done}"
    yield "batches", str(len(facts.accepted))
    yield "texts asked for again, in flight at the kills", f"{verdict.duplicates(facts)}, {limit}"
    yield "pause after a worker's death, median, longest", _seconds([*verdict.pauses(facts).values()])
    yield "until its own chunks were done, median, longest", _seconds(rescues)
    yield "submissions", _each(facts.submissions)
    yield "live calls", _each(facts.live)
    yield "from the first submission to the last vector", f"{facts.seconds:.0f} s"


def _each(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _seconds(values: list[float]) -> str:
    return f"{median(values):.1f} s, {max(values):.1f} s" if values else "none"
