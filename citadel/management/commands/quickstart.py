"""`manage.py quickstart`: all of Citadel on this machine, with nothing installed beforehand."""

import contextlib
import subprocess
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from citadel.quickstart import kept, planning, report
from citadel.quickstart import plan as plans
from citadel.quickstart.plan import Plan
from citadel.quickstart.session import Session, Stopped, stoppable

_INTERRUPTED = 130  # as a shell says it


class Command(BaseCommand):
    """Starts everything, says where it is, and stops it all at the end."""

    help = (
        "Run Citadel on 127.0.0.1: PostgreSQL and Redis (or those of DATABASE_URL and REDIS_URL), demo model servers, "
        "web, workers and scheduler, until Ctrl-C."
    )
    # The database that the checks would ask is started here.
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--state", type=Path, metavar="DIR", help="where everything is kept (default: .citadel)")
        parser.add_argument("--port", type=int, help="of the web server (default: 8000; with --check a free one)")
        parser.add_argument("--models-port", type=int, help="first of the ten of the demo servers (default: 11400)")
        parser.add_argument(
            "--check", action="store_true", help="start on free ports, run the pattern test, stop; exit 0 if all passed"
        )

    def handle(
        self, *, state: Path | None, port: int | None, models_port: int | None, check: bool, **_options: Any
    ) -> None:
        folder = state or (Path(tempfile.mkdtemp(prefix="citadel-check-")) if check else settings.BASE_DIR / ".citadel")
        plan = planning.make_plan(folder, port=port, models_port=models_port, free=check)
        with contextlib.ExitStack() as undo:
            kept.lock(plan.state)
            if check and state is None:
                undo.callback(plan.places.remove)
                plan = undo.enter_context(planning.throwaway(plan))
            status = self._run(plan, check=check)
        raise SystemExit(status)

    def _run(self, plan: Plan, *, check: bool) -> int:
        session = Session(plan=plan, say=self._say)
        status = 0
        with stoppable():
            try:
                self._start(session)
                if check:
                    status = _pattern_test(plan)
                else:
                    self._say(report.welcome(plan, password_known=session.password_known))
                    session.watch()
            except Stopped:
                self._say("Stopping")
                status = _INTERRUPTED if check else 0
            finally:
                session.stop()
        return status

    def _start(self, session: Session) -> None:
        began = time.monotonic()
        session.end_leftovers()
        planning.require_ports(session.plan)
        session.start()
        report.write_environment(session.plan)
        self._say(f"Ready after {time.monotonic() - began:.1f} s: {session.plan.url}\n")

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


def _pattern_test(plan: Plan) -> int:
    """Run the pattern test against what was started; return its exit status."""
    words = ["test_integration_patterns", "--all-patterns", "--verbose", "--url", plan.url]
    test = plans.manage(plan, "pattern-test", *words)
    # In a session of its own: a Ctrl-C is ours to answer, by stopping whatever carries this state's mark.
    done = subprocess.run(test.argv, cwd=test.cwd, env=test.env, stdin=subprocess.DEVNULL, start_new_session=True)
    return done.returncode
