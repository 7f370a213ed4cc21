"""What each role may do, over real HTTP: every page and every write of the console, for every role."""

from collections.abc import Iterator

from batches.models import BatchJob
from integrations import operations
from integrations.models import ApiKey, AuditEntry, Endpoint
from tests.made_batches import State, a_batch, a_chunk, finish
from tests.operators import ROLES, Client, Staff
from tests.processes import Stack, serve_model

# (what, method, address, fields, the least role that may). Answers other than 403 are those of somebody who may.
Action = tuple[str, str, str, dict[str, object], str]


def looks(model: int, job: int, key: int) -> Iterator[Action]:
    """Pages that every role sees."""
    pages = (
        *(f"integrations/{table}/" for table in ("modelconfig", "endpoint", "patternassignment", "apikey")),
        *(f"integrations/{table}/" for table in ("callrecord", "callstats", "breakerevent", "auditentry")),
        f"integrations/modelconfig/{model}/change/",
        f"integrations/modelconfig/{model}/state/",
        f"integrations/apikey/{key}/change/",
        "batches/batchjob/",
        f"batches/batchjob/{job}/change/",
        f"batches/batchjob/{job}/live/",
        f"batches/batchjob/{job}/download/",
        "batches/workerheartbeat/queue/",
        "batches/workerheartbeat/queue/live/",
        "django_rq/dashboard/",
        "django_rq/dashboard/queues/0/",
        "breakers/",
    )
    for page in pages:
        yield page, "GET", f"/admin/{page}", {}, "viewer"


def operates(model: int, endpoint: int, job: int) -> Iterator[Action]:
    """What an operator may do."""
    batch, models = f"/admin/batches/batchjob/{job}", "/admin/integrations/modelconfig"
    chosen = {"_selected_action": job, "index": "0"}
    yield "trip", "POST", f"/admin/breakers/trip/?endpoint={endpoint}", {"endpoint": endpoint}, "operator"
    yield "reset", "POST", f"/admin/breakers/reset/?endpoint={endpoint}", {"endpoint": endpoint}, "operator"
    yield "trip models", "POST", f"{models}/", {"action": "trip", "_selected_action": model}, "operator"
    yield "drain models", "POST", f"{models}/", {"action": "drain", "_selected_action": model}, "operator"
    yield "ask to drain", "GET", f"{models}/{model}/drain/", {}, "operator"
    yield "drain", "POST", f"{models}/{model}/drain/", {"reason": "a test"}, "operator"
    yield "undrain", "POST", f"{models}/{model}/undrain/", {}, "operator"
    for what in ("priority", "retry", "cancel"):
        yield f"ask to {what}", "GET", f"{batch}/{what}/", {}, "operator"
        yield what, "POST", f"{batch}/{what}/", {"priority": 9}, "operator"
    for what in ("set_priority", "retry", "cancel"):
        yield f"{what} many", "POST", "/admin/batches/batchjob/", {"action": what, **chosen}, "operator"
    yield "ask to empty a list", "GET", "/admin/django_rq/dashboard/queues/0/empty/", {}, "operator"
    yield "empty a list", "POST", "/admin/django_rq/dashboard/queues/0/empty/", {}, "operator"


def administers(model: int, key: int) -> Iterator[Action]:
    """What an administrator may do, and nobody below."""
    models, keys = "/admin/integrations/modelconfig", "/admin/integrations/apikey"
    yield "probe", "POST", f"{models}/probe/", {"endpoints-0-probe": "now"}, "administrator"
    yield "new model", "GET", f"{models}/add/", {}, "administrator"
    yield "edit", "POST", f"{models}/{model}/change/", {}, "administrator"
    yield "ask to delete", "GET", f"{models}/{model}/delete/", {}, "administrator"
    yield "delete many", "POST", f"{models}/", {"action": "delete_selected", "_selected_action": 0}, "administrator"
    yield "new key", "POST", f"{keys}/add/", {"client": "c"}, "administrator"
    yield "ask to revoke", "GET", f"{keys}/{key}/revoke/", {}, "administrator"
    yield "revoke many", "POST", f"{keys}/", {"action": "revoke", "_selected_action": key}, "administrator"
    yield "revoke", "POST", f"{keys}/{key}/revoke/", {}, "administrator"


def nobodys(batch: int, entry: int) -> Iterator[Action]:
    """What none of the roles may do."""
    yield "edit a batch", "POST", f"/admin/batches/batchjob/{batch}/change/", {"priority": 9}, "nobody"
    yield "delete a batch", "POST", f"/admin/batches/batchjob/{batch}/delete/", {"post": "yes"}, "nobody"
    yield "edit the trail", "POST", f"/admin/integrations/auditentry/{entry}/change/", {}, "nobody"
    yield "users", "GET", "/admin/auth/user/", {}, "nobody"
    yield "groups", "GET", "/admin/auth/group/", {}, "nobody"


def refused(client: Client, action: Action) -> bool:
    _, method, address, fields, _ = action
    answer = client.get_page(address) if method == "GET" else client.submit(address, **fields)
    assert answer.status_code in (200, 302, 403), (action, answer.status_code, answer.text[:500])
    assert "/login/" not in answer.headers.get("Location", ""), action
    return answer.status_code == 403


def test_each_role_does_what_is_its_own_and_is_refused_the_rest(stack: Stack, staff: Staff) -> None:
    model = serve_model("http://127.0.0.1:9")
    operations.create_key("search", ["embed"], actor="setup")
    job = a_batch(total=2)
    finish(a_chunk(job, number=0, first=0, texts=["a", "b"]), failed=[0])
    endpoint, key = Endpoint.objects.get().pk, ApiKey.objects.get().pk
    actions = [
        *looks(model.pk, job.pk, key),
        *nobodys(job.pk, AuditEntry.objects.latest("id").pk),
        *operates(model.pk, endpoint, job.pk),
        *administers(model.pk, key),
    ]
    _, url = stack.web()
    wrong, audits = [], AuditEntry.objects.count()
    for rank, role in enumerate(ROLES):
        client = staff.client(f"{role}-1", url, role)
        for action in actions:
            least = action[4]
            may = least in ROLES[: rank + 1]
            if refused(client, action) is may:
                wrong.append(f"{role}: {action[0]}: {'refused' if may else 'let through'}")
        if role == "viewer":
            assert AuditEntry.objects.count() == audits
    assert wrong == []
    assert not ApiKey.objects.get(pk=key).enabled
    assert BatchJob.objects.get(pk=job.pk).state in (State.CANCELLED, State.QUEUED)


def test_who_has_no_role_sees_nothing(stack: Stack, staff: Staff) -> None:
    user = staff.user("nobody", "none of the roles")
    _, url = stack.web()
    client = staff.client(user.username, url, "none of the roles")
    pages = ("integrations/modelconfig/", "batches/batchjob/", "batches/workerheartbeat/queue/", "django_rq/dashboard/")
    assert [client.get_page(f"/admin/{page}").status_code for page in pages] == [403] * 4
