"""Who may ask what: hosts, origins, tokens, lengths, and headers that let no script of others run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from nas.errors import NasError
from nas.web.guarding import MOST_BODY, Token
from nas.web.serving import Serving, checked_prefix, is_loopback, token_of
from tests.web.served import SPACE, client, problem, told, toy

TOKEN = "correct-horse-battery-staple"
NEW = {"name": "new", "space": SPACE, "objectives": ["max accuracy"]}


@pytest.fixture
def guarded(store: Path) -> Iterator[TestClient]:
    with client(store, token=TOKEN) as one:
        yield one


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "", "[::2]", "10.0.0.1:80"]
)
def test_another_hosts_name_is_refused_without_a_token(api: TestClient, host: str) -> None:
    assert "is none of this server" in problem(api.get("/api/v1/studies", headers={"Host": host}), 403)


@pytest.mark.parametrize("host", ["localhost", "localhost:8017", "127.0.0.1:1", "[::1]", "[::1]:8017"])
def test_this_machines_own_names_are_served(api: TestClient, host: str) -> None:
    told(api.get("/api/v1/studies", headers={"Host": host}))


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:9999"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_writes_of_other_sites_are_refused(api: TestClient, headers: dict[str, str]) -> None:
    assert "site" in problem(api.post("/api/v1/studies", json=NEW, headers=headers), 403)
    assert [one["name"] for one in told(api.get("/api/v1/studies"))["studies"]] == ["toy"]


def test_a_form_of_another_site_is_no_body(api: TestClient) -> None:
    answer = api.post("/api/v1/studies", content="{}", headers={"Content-Type": "text/plain"})
    assert "application/json" in problem(answer, 415)


def test_the_servers_own_page_may_write(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.db"
    toy(path)
    with client(path) as one:
        headers = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
        assert one.post("/api/v1/studies", json=NEW, headers=headers).status_code == 201


def test_nothing_of_the_database_is_told_without_the_token(guarded: TestClient) -> None:
    paths = list(told(guarded.get("/api/v1/openapi.json", headers=bearer()))["paths"])
    assert len(paths) > 20
    for path in paths:
        shown = (
            path.replace("{study}", "toy").replace("{number}", "0").replace("{job}", "j").replace("{file}", "f" * 32)
        )
        if path != "/api/v1/session":
            assert "token is needed" in problem(guarded.get(shown), 401)
    assert "token is needed" in problem(guarded.get("/metrics"), 401)
    assert "token is needed" in problem(guarded.get("/api/v1/openapi.json"), 401)
    assert told(guarded.get("/healthz")) == {"status": "alive"}


def bearer(token: str = TOKEN) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("wrong", ["", "correct", TOKEN + "x", TOKEN.upper(), "ü" * 20])
def test_a_wrong_token_is_refused(guarded: TestClient, wrong: str) -> None:
    headers = [(b"authorization", f"Bearer {wrong}".encode("latin-1"))]
    assert guarded.get("/api/v1/studies", headers=headers).status_code == 401
    assert "not the token" in problem(guarded.post("/api/v1/session", json={"token": wrong}), 401)
    assert "set-cookie" not in guarded.post("/api/v1/session", json={"token": wrong}).headers


def test_a_session_is_a_cookie_that_scripts_and_other_sites_do_not_get(guarded: TestClient) -> None:
    answer = guarded.post("/api/v1/session", json={"token": TOKEN})
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    told(guarded.get("/api/v1/studies"))
    assert guarded.delete("/api/v1/session").status_code == 204
    problem(guarded.get("/api/v1/studies"), 401)


def test_cookies_are_worth_the_token_for_a_week_alone() -> None:
    one = Token(TOKEN)
    assert one.honours(one.cookie())
    assert not one.honours(one.cookie(now=0.0))
    assert not Token(TOKEN + "!").honours(one.cookie())
    end, _, signature = one.cookie().partition(".")
    assert not one.honours(f"{int(end) + 1}.{signature}")
    for forged in ("", ".", "x.y", f"{end}.", f"{'9' * 40}.{signature}", f"{end}.ü"):
        assert not one.honours(forged)


def test_every_answer_forbids_scripts_of_others(api: TestClient) -> None:
    for path in ("/api/v1/studies", "/healthz", "/nothing", "/static/robots.txt"):
        headers = api.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in policy


def test_bodies_and_queries_are_bounded(api: TestClient) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(MOST_BODY // 2**20 + 2):
            yield b" " * 2**20

    headers = {"Content-Type": "application/json"}
    assert "at most" in problem(api.post("/api/v1/studies", content=b" " * (MOST_BODY + 1), headers=headers), 413)
    assert "at most" in problem(api.post("/api/v1/studies", content=endless(), headers=headers), 413)
    assert "query" in problem(api.get("/api/v1/studies?x=" + "y" * 20_000), 414)
    problem(api.get("/api/v1/studies/toy/trials", params={"where": "a" * 5000}), 422)


def test_a_server_that_only_reads_refuses_every_write(store: Path) -> None:
    with client(store, read_only=True) as one:
        before = told(one.get("/api/v1/studies/toy"))["position"]
        writes = [
            ("/api/v1/studies", NEW),
            ("/api/v1/studies/toy/ask", {"worker": "w"}),
            ("/api/v1/studies/toy/tell", {"worker": "w", "results": [{"number": 0, "attempt": 1, "state": "FAILED"}]}),
            ("/api/v1/studies/toy/heartbeat", {"worker": "w"}),
            ("/api/v1/studies/toy/files", {"trial": 0, "format": "onnx"}),
            ("/api/v1/jobs/x/start", {}),
            ("/api/v1/jobs/x/stop", {}),
        ]
        for path, body in writes:
            assert "only reads" in problem(one.post(path, json=body), 403)
        assert told(one.get("/api/v1/studies/toy"))["position"] == before
        assert told(one.get("/api/v1/server"))["read_only"] is True


def test_it_works_under_a_prefix_that_a_proxy_leaves(store: Path) -> None:
    with client(store, prefix="/nas") as one:
        assert told(one.get("/nas/api/v1/studies"))["studies"]
        told(one.get("/nas/healthz"))
        told(one.get("/healthz"))


@pytest.mark.parametrize("prefix", ["nas", "/a b", "/..", "/a//b", "/<script>"])
def test_a_prefix_is_a_path(prefix: str) -> None:
    with pytest.raises(NasError, match="is no path; give one as '/nas'"):
        checked_prefix(prefix)


def test_another_address_needs_a_token_of_ones_own(tmp_path: Path) -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert not is_loopback("0.0.0.0")
    assert token_of(Serving("x.db")) is None
    for host in ("0.0.0.0", "192.168.1.5", "::", "myhost"):
        with pytest.raises(NasError, match="is reached by other machines, so a token is needed"):
            token_of(Serving("x.db", host))
    file = tmp_path / "token"
    with pytest.raises(NasError, match="cannot be read"):
        token_of(Serving("x.db", token=file))
    file.write_text("short\n")
    file.chmod(0o600)
    with pytest.raises(NasError, match="holds no token"):
        token_of(Serving("x.db", token=file))
    file.write_text(TOKEN + "\n")
    assert token_of(Serving("x.db", "0.0.0.0", token=file)) == TOKEN
    if os.name == "posix":
        file.chmod(0o640)
        with pytest.raises(NasError, match=r"can be read by others \(mode 640\); chmod 600 it"):
            token_of(Serving("x.db", token=file))
