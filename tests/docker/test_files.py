"""The Dockerfiles, the compose files and the script of secrets: by their linters, by their schema, and by what must agree."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.docker.services import DOCKER, ROOT, compose

IMAGES = ("cpu.Dockerfile", "cuda.Dockerfile")


def tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name(name)
    return subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False, cwd=ROOT)


def walk(value: Any) -> list[str]:
    """Every text in a compose file."""
    if isinstance(value, dict):
        return [text for item in value.values() for text in walk(item)]
    return [text for item in value for text in walk(item)] if isinstance(value, list) else [str(value)]


@pytest.mark.parametrize("name", IMAGES)
def test_hadolint_finds_nothing(name: str) -> None:
    done = tool("hadolint", str(DOCKER / name))
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /tmp\n")
    assert tool("hadolint", str(tmp_path / "Dockerfile")).returncode == 1


def test_compose_files_fit_their_published_schema(tmp_path: Path) -> None:
    check = ("check-jsonschema", "--builtin-schema", "vendor.compose-spec")
    done = tool(*check, str(DOCKER / "compose.yaml"), str(DOCKER / "compose.cuda.yaml"))
    assert done.returncode == 0, done.stdout
    broken = tmp_path / "compose.yaml"
    broken.write_text((DOCKER / "compose.yaml").read_text().replace("healthcheck:", "healthchek:"))
    assert tool(*check, str(broken)).returncode == 1


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_built_of_what_is_there_and_runs_as_nobody_in_particular(name: str) -> None:
    text = (DOCKER / name).read_text(encoding="utf-8")
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.M):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists()
            assert source in let_through
    bases = re.findall(r"^FROM (\S+)", text, re.M)
    assert len(bases) == 2  # the second has none of what building needs
    assert all(re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", base) for base in bases)
    assert re.findall(r"^USER (\S+)", text, re.M) == ["1000:1000"]


def test_images_have_the_torch_that_was_tested() -> None:
    pinned = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert pinned is not None
    for name in IMAGES:
        assert f"ARG TORCH_VERSION={pinned[1]}\n" in (DOCKER / name).read_text()


def test_the_two_images_differ_in_torch_and_driver_only() -> None:
    cpu, cuda = ((DOCKER / name).read_text().splitlines() for name in IMAGES)
    assert len(cpu) == len(cuda)
    differing = [line for line, other in zip(cpu, cuda, strict=True) if line != other]
    assert [line.split()[0] for line in differing] == ["#", "#", "ARG", "RUN", "ENV"]


def test_no_secret_is_in_a_compose_file() -> None:
    declared = compose()
    assert all(set(secret) == {"file"} for secret in declared["secrets"].values())
    for service in declared["services"].values():
        assert set(service["secrets"]) <= set(declared["secrets"])
        for name, value in service["environment"].items():
            if re.search("PASSWORD|TOKEN|SECRET", name):
                assert re.fullmatch(r"/run/secrets/\w+", value)
                assert Path(value).name in service["secrets"]
    assert not [text for text in walk(declared) if re.search(r"://[^@/\s]*:[^@/\s]*@", text)]


def test_every_service_that_stays_has_a_health_check_and_ray_has_its_token_on() -> None:
    services = compose()["services"]
    assert set(services) == {"postgres", "migrate", "head", "worker", "runner", "web"}
    assert [name for name, service in services.items() if "healthcheck" not in service] == ["migrate"]
    on_ray = [service["environment"] for service in services.values() if "RAY_ADDRESS" in service["environment"]]
    assert len(on_ray) == 4
    assert all(environment["RAY_AUTH_MODE"] == "token" for environment in on_ray)
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(published) == {"web"}
    assert all(port.startswith("127.0.0.1:") for port in published["web"])  # nothing is reachable from outside


def test_services_wait_for_what_they_need() -> None:
    services = compose()["services"]
    waits = {
        name: {other: how["condition"] for other, how in s.get("depends_on", {}).items()}
        for name, s in services.items()
    }
    assert waits["migrate"] == {"postgres": "service_healthy"}
    assert waits["web"] == {"migrate": "service_completed_successfully"}
    assert waits["worker"] == {"head": "service_healthy"}
    assert waits["runner"] == {"migrate": "service_completed_successfully", "worker": "service_healthy"}


def test_secrets_are_made_once_and_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    made = [subprocess.run([str(DOCKER / "secrets.sh"), str(folder)], capture_output=True, text=True, check=True)]
    first = {path.name: path.read_text() for path in folder.iterdir()}
    made += [subprocess.run([str(DOCKER / "secrets.sh"), str(folder)], capture_output=True, text=True, check=True)]
    assert set(first) == set(compose()["secrets"])
    assert all(re.fullmatch("[0-9a-f]{64}", text) for text in first.values())
    assert len(set(first.values())) == 3
    assert {path.name: path.read_text() for path in folder.iterdir()} == first
    assert made[1].stdout == ""
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not any(text in made[0].stdout for text in first.values())


def test_secrets_are_kept_out_of_git_and_images() -> None:
    assert os.linesep.join(["*", "!nas"]) in (ROOT / ".dockerignore").read_text()
    ignored = subprocess.run(
        ["git", "check-ignore", "-q", "docker/secrets/ray_token"], cwd=ROOT, check=False, capture_output=True
    )
    assert ignored.returncode == 0
