"""The migration, and the health checks of the database and its server, as plain processes against a real server."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.docker.services import DOCKER, Services, compose
from tests.web.served import until

if TYPE_CHECKING:
    from tests.conformance.postgres_server import PostgresServer

TOKEN = "0123456789abcdef" * 4


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "ray_token").write_text(TOKEN)
    (folder / "postgres_password").write_text("unused")
    return folder


@pytest.fixture
def services(server: PostgresServer, secrets: Path, tmp_path: Path) -> Iterator[Services]:
    """Around a new database, whose password is in a file that everybody may read, as a mounted secret is."""
    url = server.database()
    (secrets / "postgres_password").write_text(server.password + "\n")
    (secrets / "postgres_password").chmod(0o444)
    yield Services(secrets, tmp_path, database=url.rpartition("@")[2])
    server.drop(url)


@pytest.mark.postgres
def test_the_migration_makes_the_schema_that_the_health_check_asks_for(services: Services, tmp_path: Path) -> None:
    before = services.run("runner", "health", "store")
    assert before.returncode == 2
    assert "is empty" in before.stderr
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    migrated = services.run("migrate", TMPDIR=str(temporary))
    assert migrated.returncode == 0, migrated.stderr
    assert "upgraded from none" in migrated.stdout
    (passwords,) = temporary.iterdir()  # of the container, whose files go with it
    assert stat.S_IMODE(passwords.stat().st_mode) == 0o600
    again = services.run("migrate")
    assert (again.returncode, "nothing to do" in again.stdout) == (0, True)
    healthy = services.run("runner", "health", "store")
    assert (healthy.returncode, healthy.stderr) == (0, "")
    listed = services.run("runner", "nas", "studies")
    assert listed.returncode == 0, listed.stderr


@pytest.mark.postgres
def test_a_wrong_password_is_one_sentence_that_does_not_show_it(services: Services, secrets: Path) -> None:
    (secrets / "postgres_password").chmod(0o644)
    (secrets / "postgres_password").write_text("hushhush")
    for done in (services.run("migrate"), services.run("runner", "health", "store")):
        assert done.returncode == 2
        assert "wrong password or user" in done.stderr
        assert done.stderr.count("\n") == 1
        assert "hushhush" not in done.stderr


@pytest.mark.postgres
def test_the_servers_health_check_tells_a_server_from_none(server: PostgresServer) -> None:
    from tests.conformance.postgres_server import _candidates

    kind, program, *arguments = compose()["services"]["postgres"]["healthcheck"]["test"]
    assert kind == "CMD"
    found = next(folder / program for folder in _candidates() if (folder / program).exists())
    codes = []
    for port in (server.port, 1):
        command = [str(found), *(str(port) if word == "5432" else word for word in arguments)]
        codes.append(subprocess.run(command, check=False).returncode)
    assert codes == [0, 2]


@pytest.mark.parametrize(
    ("command", "changes", "says"),
    [
        (["migrate"], {"NAS_STORE": "postgresql://nas:plain@127.0.0.1/nas"}, "NAS_STORE holds a password"),
        (["migrate"], {"NAS_PASSWORD_FILE": "/nowhere/password"}, "secret '/nowhere/password' cannot be read"),
        (["head"], {"RAY_AUTH_MODE": "disabled"}, "RAY_AUTH_MODE is not 'token'"),
        (["head"], {"RAY_ADDRESS": "head"}, "RAY_ADDRESS is 'head'; give host:port"),
        (["worker"], {"RAY_AUTH_TOKEN": TOKEN}, "RAY_AUTH_TOKEN holds the token itself"),
        (["worker"], {"RAY_AUTH_TOKEN_PATH": "/dev/null"}, "secret '/dev/null' is empty"),
        (["worker"], {"NAS_GPUS": "some"}, "NAS_GPUS is 'some'; give a whole number"),
        (["run"], {}, "role 'run' needs a job"),
        (["migrat"], {}, "role 'migrat' is not one of migrate, head"),
        (["health", "heart"], {}, "health check 'heart' is not one of store, head, web, worker, runner"),
        (["web"], {"NAS_WEB_TOKEN_PATH": "/nowhere"}, "secret '/nowhere' cannot be read"),
        (["health", "web"], {"NAS_WEB_PORT": "1"}, "the server does not answer at port 1"),
        (["health", "head"], {}, "Ray head 127.0.0.1:1 does not answer: Connection refused"),
    ],
)
def test_what_is_missing_is_one_sentence(
    command: list[str], changes: dict[str, str], says: str, secrets: Path, tmp_path: Path
) -> None:
    done = Services(secrets, tmp_path).run("runner", *command, **changes)
    assert done.returncode == 2
    assert done.stderr.startswith("entry: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert TOKEN not in done.stderr


@pytest.mark.postgres
def test_the_server_is_healthy_once_the_database_is_there_and_asks_for_its_token(
    services: Services, secrets: Path, tmp_path: Path
) -> None:
    token = secrets / "web_token"
    token.write_text(TOKEN)
    token.chmod(0o444)  # as a mounted secret is
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    (tmp_path / "jobs").mkdir()
    services.run("migrate")
    web = services.start("web", NAS_WEB_PORT=port, TMPDIR=str(temporary))
    try:
        until(lambda: services.run("web", "health", "web", NAS_WEB_PORT=port).returncode == 0)
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in temporary.iterdir())
        address = f"http://127.0.0.1:{port}/api/v1/studies"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(address, timeout=60)
        request = urllib.request.Request(address, headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.read() == b'{"studies":[]}'
    finally:
        web.terminate()
        web.wait()


def test_the_entry_point_says_what_its_roles_are() -> None:
    done = subprocess.run([sys.executable, str(DOCKER / "entry.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "migrate, head, worker, web, run, nas, health" in done.stderr
