"""The services of the compose file as plain processes: the same roles, settings, secrets and health checks, on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from tests.conformance.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"


def compose(name: str = "compose.yaml") -> dict[str, Any]:
    """A compose file, its anchors and merges resolved."""
    loaded: dict[str, Any] = yaml.safe_load((DOCKER / name).read_text(encoding="utf-8"))
    return loaded


class Services:
    """What a container of each service would run, with the places of the network and the secrets replaced by this machine's.

    Args:
        secrets: folder that stands for /run/secrets.
        folder: where Ray keeps its files and processes run.
        database: host:port/name that stands for postgres:5432/nas.
        head: host:port that stands for head:6379.
    """

    def __init__(self, secrets: Path, folder: Path, *, database: str = "127.0.0.1:1/x", head: str = "127.0.0.1:1"):
        self._services = compose()["services"]
        self._folder = folder
        self._places = {"/run/secrets": str(secrets), "postgres:5432/nas": database, "head:6379": head}

    def environment(self, service: str, **changes: str) -> dict[str, str]:
        """Of a service, `${NAME:-default}` being the default."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "NAS_", "PG"))}
        inherited |= {"RAY_TMPDIR": str(self._folder), "PYTHONPATH": str(ROOT)}
        own = {name: self._here(str(value)) for name, value in self._services[service]["environment"].items()}
        return inherited | own | changes

    def command(self, service: str, *instead: str) -> list[str]:
        """What the container runs: its entry point with the service's command, or `instead`."""
        return [sys.executable, str(DOCKER / "entry.py"), *(instead or self._services[service]["command"])]

    def start(self, service: str, *instead: str, **changes: str) -> subprocess.Popen[str]:
        """The service, running; what it prints is in `service.log` of the folder."""
        with (self._folder / f"{service}.log").open("ab") as log:
            return subprocess.Popen(
                self.command(service, *instead),
                env=self.environment(service, **changes),
                cwd=self._folder,
                stdout=log,
                stderr=log,
                text=True,
            )

    def run(self, service: str, *instead: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """The service, run to its end."""
        return self._done(self.command(service, *instead), self.environment(service, **changes))

    def health(self, service: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """The service's health check, run to its end."""
        kind, python, script, *arguments = self._services[service]["healthcheck"]["test"]
        assert (kind, python, script) == ("CMD", "/opt/nas/bin/python", "/opt/nas/entry.py")
        return self._done(self.command(service, *arguments), self.environment(service, **changes))

    def _done(self, command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=environment, cwd=self._folder, capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )

    def _here(self, value: str) -> str:
        if value.startswith("${"):
            value = value.removesuffix("}").partition(":-")[2]
        for there, here in self._places.items():
            value = value.replace(there, here)
        return value
