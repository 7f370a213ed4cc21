"""The console's pages over HTTP: what they cost, what they say, and what they refuse."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from batches import backlog, clock
from batches.models import WorkerHeartbeat
from citadel.console import charts
from integrations import operations, rollups, series, snapshot
from integrations.models import BreakerEvent, Endpoint
from tests.fixtures_console import words
from tests.fixtures_records import a_call
from tests.made_api import serve
from tests.made_batches import State, a_batch, a_chunk

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_db")]

CALLS = "/admin/integrations/callrecord/"


def happened(**fields: Any) -> None:
    """Roll up a call that ended just now."""
    given = a_call(**fields)
    with connection.cursor() as cursor:
        rollups.upsert(cursor, rollups.collect([given]))


# --- Dashboard -------------------------------------------------------------------------------------------------------


def queries_of_a_refresh(operator: Client) -> int:
    operator.get("/admin/live/")  # reads the configuration, once for all
    with CaptureQueriesContext(connection) as found:
        assert operator.get("/admin/live/").status_code == 200
    # A web process's own thread watches the version of the configuration; here, without one, the page asks for it.
    return sum("integrations_configversion" not in query["sql"] for query in found)


def test_a_refresh_costs_at_most_five_queries_whatever_the_number_of_models(operator: Client) -> None:
    costs = []
    for first, last in ((0, 3), (3, 30)):
        for n in range(first, last):
            serve(f"m{n}", "real_time hybrid", "http://127.0.0.1:9", "http://127.0.0.1:10")
            happened(model=f"m{n}")
            a_batch(f"m{n}", pattern="hybrid")
        costs.append(queries_of_a_refresh(operator))
    assert costs[0] == costs[1] <= 5


def test_each_model_is_shown_in_each_of_its_patterns_with_its_own_figures(operator: Client) -> None:
    serve("phi3", "real_time", "http://127.0.0.1:9")
    serve("open", "real_time hybrid", "http://127.0.0.1:9")
    for code, took in (("ok", 80), ("ok", 90), ("ok", 2000), ("upstream_failed", 100)):
        happened(code=code, duration_ms=took)
    job = a_batch("open", pattern="hybrid", total=250, age=105)
    a_chunk(job, number=0, first=0, texts=["x"] * 100, state="claimed")
    page = operator.get("/admin/live/")
    body = page.content.decode()
    assert [re.search(f'id="row-{key}"', body) is not None for key in ("real_time-open", "hybrid-open")] == [True, True]
    phi3 = words_of(body, "row-real_time-phi3")
    assert "75.0 %" in phi3
    assert "2.0 s" in phi3
    hybrid = words_of(body, "row-hybrid-open")
    assert re.search(r"150 100 1 min 4\d s", hybrid), hybrid


def words_of(body: str, key: str) -> str:
    row = body.split(f'id="{key}"', 1)[1].split("</tr>", 1)[0]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", row))


def test_what_is_wrong_comes_first_with_a_way_to_mend_it(operator: Client) -> None:
    serve("phi3", "real_time", "http://127.0.0.1:9")
    serve("bare", "real_time")
    serve("slow", "bulk_only", "http://127.0.0.1:9", processing_interval=30.0)
    a_batch("slow", age=7200, total=10)
    operations.trip_breaker([Endpoint.objects.get(model__slug="phi3").pk], actor="bob", reason="fire <b>")
    operations.drain_model("slow", actor="bob", reason="new disk")
    for _ in range(30):
        happened(code="upstream_failed")
    snapshot.load()
    page = operator.get("/admin/live/?operates=1")
    shown = words(page)
    assert "phi3: breaker tripped by bob, until it is reset" in shown
    assert "fire &lt;b&gt;. No endpoint is left." in shown
    assert "1 model has no enabled endpoint" in shown
    assert "slow is drained Live calls are refused, queued work waits: new disk" in shown
    assert "No worker is alive Queued work waits (10 texts)" in shown
    assert "phi3: only 0.0 % of real_time calls succeed" in shown
    assert f"/admin/breakers/reset/?endpoint={Endpoint.objects.get(model__slug='phi3').pk}" in page.content.decode()
    order = [shown.index(t) for t in ("phi3: breaker tripped", "1 model has no enabled endpoint")]
    assert order == sorted(order)


def test_late_texts_are_named_once_for_all_models(operator: Client) -> None:
    for slug, age in (("a", 690.0), ("b", 930.0)):
        serve(slug, "bulk_only", "http://127.0.0.1:9")
        a_batch(slug, age=age)
    shown = words(operator.get("/admin/live/"))
    assert re.search(r"The oldest waiting text is 15 min \d+ s old", shown)
    assert re.search(r"Workers do not keep up with b \(15 min \d+ s\), a \(11 min \d+ s\)\.", shown)


def test_all_is_well_where_nothing_is_wrong(operator: Client) -> None:
    serve("phi3", "real_time", "http://127.0.0.1:9")
    now = clock.now()
    for kind in ("worker", "scheduler"):
        WorkerHeartbeat.objects.create(name=kind, kind=kind, host="h", pid=1, started_at=now, seen_at=now)
    shown = words(operator.get("/admin/live/"))
    assert "1 worker 1 scheduler" in shown
    # This process shares no breakers; everything else is in order.
    assert shown.count("Breakers are not shared") == 1
    assert "No worker" not in shown


def test_the_queue_of_the_dashboard_counts_by_model_and_pattern() -> None:
    job = a_batch("a", total=300, completed=100, failed=20, state=State.PROCESSING)
    a_chunk(job, number=1, first=100, texts=["x"] * 50, state="claimed")
    a_batch("a", total=10, age=60)
    a_batch("a", total=5, pattern="hybrid")
    a_batch("b", total=7, completed=7, state=State.COMPLETED)
    found = backlog.queue().backlogs
    assert found.keys() == {("a", "bulk_only"), ("a", "hybrid")}
    bulk = found["a", "bulk_only"]
    assert (bulk.waiting, bulk.running, bulk.batches) == (140, 50, 2)
    assert 59 <= (bulk.oldest_seconds or 0) < 120


# --- Charts ----------------------------------------------------------------------------------------------------------


def test_a_series_has_every_step_and_each_call_in_its_own() -> None:
    now = datetime(2026, 5, 4, 12, 0, 30, tzinfo=UTC)
    for minutes, fields in (
        (0, {"duration_ms": 50}),
        (1, {"code": "upstream_failed", "duration_ms": 900}),
        (1, {"code": "text_rejected"}),
        (2, {"mode": "bulk", "texts": 40}),
        (59, {"mode": "queued", "texts": 9}),
        (60, {}),
    ):
        happened(started_at=now - timedelta(minutes=minutes, seconds=1), **({"duration_ms": 5} | fields))
    points = series.read(step=timedelta(minutes=1), steps=60, now=now)
    assert [p.start.minute for p in points] == [*range(1, 60), 0]
    assert [(p.requests, p.errors, p.queue_texts) for p in reversed(points[-3:])] == [(1, 0, 0), (2, 1, 0), (0, 0, 40)]
    assert points[0].requests == 1
    assert sum(p.requests for p in points) == 4
    assert 45 < (points[-1].quantile_ms(0.5) or 0) <= 56
    assert points[-3].quantile_ms(0.5) is None


@pytest.mark.parametrize(
    ("highest", "top"), [(0, 1.0), (0.3, 0.5), (1, 1.0), (1.01, 2.0), (7, 10.0), (20, 20.0), (2100, 5000.0)]
)
def test_an_axis_ends_at_a_round_number(highest: float, top: float) -> None:
    assert charts.nice(highest) == pytest.approx(top)


def test_a_line_is_interrupted_where_there_is_nothing_to_show() -> None:
    assert charts.line([1.0, 2.0, None, 2.0], scale=charts.Scale(top=2.0)) == "M75.0 60.5 L225.0 1.0 M525.0 1.0h0.1"


def test_a_logarithmic_axis_shows_a_timeout_and_what_is_fast_alike() -> None:
    scale = charts.Scale(top=100_000.0, bottom=10.0)
    assert [round(scale.share(value), 3) for value in (5.0, 10.0, 1000.0, 100_000.0)] == [0.0, 0.0, 0.5, 1.0]
    assert [round(scale.value(share)) for share in (0.0, 0.5, 1.0)] == [10, 1000, 100_000]


@pytest.mark.parametrize(("span", "columns"), [("hour", 60), ("day", 96), ("nonsense", 60)])
def test_charts_show_every_step_and_read_out_as_text(operator: Client, span: str, columns: int) -> None:
    happened(duration_ms=80)
    happened(mode="bulk", texts=30)
    body = operator.get(f"/admin/charts/?range={span}").content.decode()
    assert body.count('class="c-hit"') == 3 * columns  # there are no errors to draw
    assert re.search(r'role="img" aria-label="Latency of live calls\. ', body)
    assert "Nothing in this time." in body


# --- Breakers --------------------------------------------------------------------------------------------------------


def asking(*slugs: str) -> str:
    ids = Endpoint.objects.filter(model__slug__in=slugs).values_list("pk", flat=True)
    return "&".join(f"endpoint={pk}" for pk in ids)


def test_a_trip_says_what_it_refuses_pattern_by_pattern(operator: Client) -> None:
    serve("live", "real_time", "http://127.0.0.1:9")
    serve("both", "hybrid", "http://127.0.0.1:9")
    serve("bulk", "bulk_only", "http://127.0.0.1:9")
    a_batch("bulk", total=12)
    happened(model="live")
    shown = words(operator.get(f"/admin/breakers/trip/?{asking('live', 'both', 'bulk')}"))
    assert "Every real_time call to live will be refused with 503 circuit_open" in shown
    assert "in the last 5 minutes there were 1, 0 are under way" in shown
    assert "Every hybrid call to both will be queued instead of answered" in shown
    assert "12 bulk_only texts of bulk will wait" in shown


def test_a_trip_that_leaves_another_endpoint_says_where_calls_go(operator: Client) -> None:
    serve("two", "real_time", "http://127.0.0.1:9", "http://127.0.0.1:10")
    first = Endpoint.objects.order_by("position").first()
    assert first is not None
    shown = words(operator.get(f"/admin/breakers/trip/?endpoint={first.pk}"))
    assert "two goes on at http://127.0.0.1:10." in shown
    assert "will be refused" not in shown


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"reason": ""}, "This field is required."),
        ({"reason": "x", "lasts": "until"}, "Give the time"),
        ({"reason": "x", "lasts": "5", "until": "2040-01-01T00:00"}, "Choose “until the time below”"),
        ({"reason": "x", "lasts": "until", "until": "2020-01-01T00:00"}, "This time has passed."),
        ({"reason": "x" * 201}, "at most 200 characters"),
    ],
)
def test_a_trip_is_refused_beside_the_field(operator: Client, fields: dict[str, str], message: str) -> None:
    serve("live", "real_time", "http://127.0.0.1:9")
    assert message in words(operator.post(f"/admin/breakers/trip/?{asking('live')}", fields))
    assert not BreakerEvent.objects.exists()


def test_a_trip_for_some_minutes_ends_by_itself_and_a_reset_says_what_it_does(operator: Client) -> None:
    serve("live", "real_time", "http://127.0.0.1:9")
    answer = operator.post(f"/admin/breakers/trip/?{asking('live')}", {"reason": "fire", "lasts": "15"}, follow=True)
    assert "Tripped: live at http://127.0.0.1:9." in words(answer)
    endpoint = Endpoint.objects.get()
    assert endpoint.forced_until is not None
    assert timedelta(minutes=14) < endpoint.forced_until - datetime.now(UTC) <= timedelta(minutes=15)
    assert "gets calls again at once. It is forced open (fire)." in words(
        operator.get(f"/admin/breakers/reset/?{asking('live')}")
    )
    operator.post(f"/admin/breakers/reset/?{asking('live')}")
    assert not Endpoint.objects.get().forced_open


@pytest.mark.parametrize("page", ["/admin/breakers/", "/admin/breakers/live/", "/admin/breakers/trip/?endpoint=1"])
def test_who_may_not_see_endpoints_sees_no_breakers(db: None, page: str) -> None:
    client = Client()
    client.force_login(User.objects.create_user("eve", is_staff=True))
    assert client.get(page).status_code == 403


def test_looking_is_not_tripping(db: None) -> None:
    serve("live", "real_time", "http://127.0.0.1:9")
    vic = User.objects.create_user("vic", is_staff=True)
    vic.user_permissions.add(Permission.objects.get(codename="view_endpoint"))
    client = Client()
    client.force_login(vic)
    page = client.get("/admin/breakers/").content.decode()
    assert "http://127.0.0.1:9" in page
    assert "/trip/" not in page
    assert client.post(f"/admin/breakers/trip/?{asking('live')}", {"reason": "x"}).status_code == 403
