"""A dump of a Citadel at work, restored on new servers by the very commands of the documentation, goes on working."""

import os
import re
import subprocess
from pathlib import Path

import requests
from django.contrib.auth.models import User
from pytest_django import DjangoDbBlocker

from batches import submission
from batches.models import BatchChunk, BatchJob
from integrations import operations, recorder
from integrations.models import CallRecord
from tests.acceptance.test_worker_kills import assert_each_text_has_its_own_vector
from tests.made_api import serve
from tests.made_batches import a_submission
from tests.processes import stack_on, wait_until
from tests.running import ROOT
from tests.servers import Servers
from tests.upstreams import Upstream

PASSWORD = "a-passw0rd-of-the-test"
TEXTS = [f"text {n}" for n in range(400)]


def documented(*programs: str) -> list[str]:
    """The commands of the page's section on backups that begin with one of these programs."""
    page = (ROOT / "docs/operations.md").read_text()
    section = page.split("## Backup and restore")[1].split("\n## ")[0]
    found = re.findall(rf"^    ((?:{'|'.join(programs)}) .*)$", section, re.MULTILINE)
    assert [line.split()[0] for line in found] == list(programs)
    return found


def run(command: str, *, servers: Servers, folder: Path) -> None:
    """Run a documented command as an operator whose shell knows this PostgreSQL."""
    env = {
        **os.environ,
        "PATH": f"{servers.places.postgres_bin}:{os.environ['PATH']}",
        "PGHOST": str(servers.places.server_sockets),
        "PGUSER": "postgres",
        "DATABASE_URL": servers.database_url("citadel"),
    }
    done = subprocess.run(["bash", "-c", command], env=env, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command}\n{done.stderr}"


def submit(url: str, key: str) -> str:
    headers = {"Authorization": f"Bearer {key}"}
    answer = requests.post(f"{url}/api/v1/external/m/embed", json={"texts": TEXTS}, headers=headers, timeout=30)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["batch_id"])


def log_in(url: str) -> int:
    """The status of the dashboard after a log-in with the password."""
    with requests.Session() as browser:
        page = f"{url}/admin/login/?next=/admin/"
        browser.get(page, timeout=30)
        form = {"username": "ann", "password": PASSWORD, "csrfmiddlewaretoken": browser.cookies["csrftoken"]}
        answer = browser.post(page, data={**form, "next": "/admin/"}, allow_redirects=False, timeout=30)
        assert answer.headers.get("Location") == "/admin/", answer.text
        return browser.get(f"{url}/admin/", allow_redirects=False, timeout=30).status_code


def test_a_dump_in_the_midst_of_a_batch_is_restored_elsewhere_and_the_batch_completes(
    tmp_path: Path, django_db_blocker: DjangoDbBlocker
) -> None:
    dump, *restore = documented("pg_dump", "createdb", "pg_restore")
    folders = [tmp_path / "old", tmp_path / "new"]
    for folder in folders:
        folder.mkdir()
    with Upstream(delay=0.1) as upstream, django_db_blocker.unblock():
        with Servers() as old, stack_on(old, folders[0]) as stack:
            serve("m", "bulk_only", upstream, batch_size=10, processing_interval=0.2)
            key = operations.create_key("team-a", ["batch"], actor="ann")
            User.objects.create_superuser("ann", password=PASSWORD)
            running = [stack.scheduler(), stack.worker()]
            batches = [submission.submit(a_submission(TEXTS, batch_size=10)).batch_id for _ in range(2)]
            recorder.flush(10)
            # One half done and with chunks in a worker's hands, the other not begun.
            wait_until(lambda: BatchJob.objects.get(batch_id=batches[0]).completed >= 100, 30)
            run(dump, servers=old, folder=tmp_path)
            for process in running:
                process.kill()
        with Servers() as new:
            for command in restore:
                run(command, servers=new, folder=tmp_path)
            with stack_on(new, folders[1], restored=True) as stack:
                unfinished = {batch_id: BatchJob.objects.get(batch_id=batch_id) for batch_id in batches}
                assert [job.state in BatchJob.ACTIVE for job in unfinished.values()] == [True, True]
                assert BatchChunk.objects.filter(state="claimed").exists()
                assert stack.redis.dbsize() == 0
                _, url = stack.web()
                stack.scheduler()
                stack.worker()
                wait_until(lambda: BatchJob.objects.filter(state="completed").count() == 2, 60)
                for batch_id in batches:
                    assert_each_text_has_its_own_vector(batch_id, TEXTS, upstream)
                later = submit(url, key)
                wait_until(lambda: BatchJob.objects.get(batch_id=later).state == "completed", 30)
                assert log_in(url) == 200
                assert CallRecord.objects.filter(mode="queued", batch_id__in=batches).count() == 2
