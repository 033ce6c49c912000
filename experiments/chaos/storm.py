"""A scenario: processes that work, somebody who starts them again when they end badly, and faults at random moments."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import machine

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

LONGEST_STOP_S = 2.0
RESTART_S = 0.2  # between the end of a process and its next life
HEAD_PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s"  # for how long Ray's processes wait for a head that is gone
AGENTS_S = 90.0  # for Ray's own agents, of nodes that were killed with their driver, to end by themselves
PATIENCE_S = 300.0  # for what is left to do once the storm is over


@dataclass(frozen=True)
class Scenario:
    """What works, on which database, and what happens to it.

    Args:
        name: of the folder and of the row in the table.
        kind: of the jobs: workers, ray, trained, tune, supernet, distributed.
        database: sqlite, postgresql, or none.
        faults: kinds and their weights.
        count: faults.
        gap_s: least and most seconds between two of them.
        drivers: how many work on one study.
        options: of the job.
        cluster: Ray nodes that the drivers join.
    """

    name: str
    kind: str
    database: str
    faults: Mapping[str, float]
    count: int
    gap_s: tuple[float, float]
    drivers: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    cluster: int = 0


class Storm:
    """One scenario, from its start to the end of its last process."""

    def __init__(self, scenario: Scenario, folder: Path, seed: int, say: Callable[[str], None]) -> None:
        self.scenario, self.folder, self._say = scenario, folder, say
        self.tag = f"{scenario.name}-{os.getpid()}"
        self.injected: Counter[str] = Counter()
        self.lives = 0
        self.ended: Counter[str] = Counter()  # how processes ended that were not killed
        self._rng = random.Random(f"{seed} {scenario.name}")
        self._drivers: list[subprocess.Popen[bytes] | None] = []
        self._stopped: list[threading.Timer] = []
        self._stack = ExitStack()
        self._server: Any = None
        self._proxy: Any = None
        self._cluster: Any = None
        self._inject: dict[str, Callable[[], bool]] = {
            "kill_worker": lambda: self._kill(machine.workers(self.tag)),
            "stop_worker": lambda: self._stop(machine.workers(self.tag)),
            "kill_driver": lambda: self._kill(self._driver_pids()),
            "stop_driver": lambda: self._stop(self._driver_pids()),
            "kill_raylet": self._kill_raylet,
            "stop_raylet": lambda: self._stop(machine.raylets(self.tag)),
            "kill_head": self._kill_head,
            "cut": self._cut_all,
            "cut_before_commit": lambda: self._cut("before"),
            "cut_after_commit": lambda: self._cut("after"),
            "restart_server": lambda: self._restart("immediate"),
            "crash_server": lambda: self._restart("crash"),
            "kill_backend": lambda: self._kill(self._backends()),
            "stop_backend": lambda: self._stop(self._backends()),
        }

    # -- the whole of it ---------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Start everything, disturb it, wait until it has ended by itself."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._stack:
            self.url = self._start_database()
            if self.scenario.cluster:
                self._start_cluster()
            self._drivers = [self._start(i) for i in range(self.scenario.drivers)]
            try:
                self._disturb()
                (self.folder / "calm").touch()
                if not machine.wait_until(lambda: not self._supervise(), PATIENCE_S):
                    for pid in self._driver_pids():
                        machine.send(pid, signal.SIGUSR1)
                    time.sleep(1.0)
                    self.look_at_database()
                    raise RuntimeError(f"{self.scenario.name}: work is left {PATIENCE_S:g} s after the last fault")
            finally:
                self._go_on()
                for driver in self._drivers:
                    if driver is not None:
                        driver.kill()
                        driver.wait()
            # What the last process leaves behind may take a moment to see that.
            machine.wait_until(lambda: not machine.workers(self.tag), 15.0)
            self.orphans = len(machine.workers(self.tag))
            self.look_at_database()
        machine.wait_until(lambda: not machine.others(self.tag), 15.0)
        self.orphans = max(self.orphans, len(machine.others(self.tag)))
        machine.wait_until(lambda: not machine.tagged(self.tag), AGENTS_S)
        self.left = [machine.command(pid)[:80] for pid in machine.tagged(self.tag)]
        self.orphans = max(self.orphans, len(self.left))

    def look_at_database(self) -> None:
        """For whoever looks while the database is there."""

    def _disturb(self) -> None:
        machine.wait_until(lambda: self._works() or not self._supervise(), 60.0)
        kinds, weights = zip(*self.scenario.faults.items(), strict=True)
        while self.injected.total() < self.scenario.count:
            moment = time.monotonic() + self._rng.uniform(*self.scenario.gap_s)
            while time.monotonic() < moment:
                if not self._supervise():
                    return
                time.sleep(0.02)
            kind = self._rng.choices(kinds, weights)[0]
            if self._inject[kind]():
                self.injected[kind] += 1
                line = json.dumps({"at": round(time.time(), 3), "scenario": self.scenario.name, "kind": kind})
                with (self.folder / "faults").open("a") as faults:
                    faults.write(line + "\n")
                if self.injected.total() % 10 == 0:
                    self._say(f"{self.scenario.name}: {self.injected.total()} of {self.scenario.count} faults")

    def _works(self) -> bool:
        return bool(machine.workers(self.tag)) or (self.folder / "supernet" / "state.json").exists()

    # -- processes ---------------------------------------------------------------------------------------------------

    def _environment(self) -> dict[str, str]:
        environment = {**os.environ, machine.TAG: self.tag, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
        if self._cluster is not None:
            environment |= {"RAY_ADDRESS": self._cluster.address, HEAD_PATIENCE: "8"}
        return environment

    def _start(self, index: int) -> subprocess.Popen[bytes]:
        self.lives += 1
        options = json.dumps(dict(self.scenario.options))
        command = [sys.executable, str(Path(__file__).with_name("jobs.py")), self.scenario.kind]
        with (self.folder / f"driver-{index}.log").open("ab") as log:
            return subprocess.Popen(
                [*command, str(self.folder), self.url, options],
                cwd=ROOT,
                env=self._environment(),
                stdout=log,
                stderr=log,
            )

    def _supervise(self) -> bool:
        """Start again what has ended badly, as a user or an engine of containers would; whether anything is still at work."""
        for i, driver in enumerate(self._drivers):
            if driver is None or driver.poll() is None:
                continue
            if driver.returncode == 0:
                self._drivers[i] = None
                continue
            if driver.returncode != -signal.SIGKILL:
                self.ended[f"exit {driver.returncode}"] += 1
            time.sleep(RESTART_S)
            if self._cluster is not None and not self._cluster.alive():
                self._cluster.restart()
            self._drivers[i] = self._start(i)
        return any(driver is not None for driver in self._drivers)

    def _driver_pids(self) -> list[int]:
        return [driver.pid for driver in self._drivers if driver is not None and driver.poll() is None]

    def _kill(self, among: list[int]) -> bool:
        return bool(among) and machine.send(self._rng.choice(among), signal.SIGKILL)

    def _stop(self, among: list[int]) -> bool:
        """SIGSTOP now, SIGCONT a little later."""
        if not among:
            return False
        pid, seconds = self._rng.choice(among), self._rng.uniform(0.05, LONGEST_STOP_S)
        if not machine.send(pid, signal.SIGSTOP):
            return False
        timer = threading.Timer(seconds, machine.send, (pid, signal.SIGCONT))
        timer.start()
        self._stopped.append(timer)
        return True

    def _go_on(self) -> None:
        for timer in self._stopped:
            timer.join()

    # -- the database ------------------------------------------------------------------------------------------------

    def _start_database(self) -> str:
        if self.scenario.database == "sqlite":
            return f"sqlite:///{self.folder}/nas.db"
        if self.scenario.database == "none":
            return ""
        from tests.conformance.cutting_proxy import CuttingProxy
        from tests.conformance.postgres_server import PostgresServer

        self._server = self._stack.enter_context(PostgresServer(durable=True))
        self._proxy = self._stack.enter_context(CuttingProxy(self._server.port))
        self.direct = self._server.database()
        return str(self.direct).replace(f":{self._server.port}/", f":{self._proxy.port}/")

    def _database(self) -> str:
        return str(self.direct).rpartition("/")[2]

    def _cut_all(self) -> bool:
        import psycopg

        try:
            return int(self._server.cut(self._database())) > 0
        except psycopg.OperationalError:
            return False  # it recovers from the last fault

    def _cut(self, when: str) -> bool:
        self._proxy.cut = when  # the next commit that comes by
        return True

    def _restart(self, how: str) -> bool:
        self._server.restart(crash=how == "crash", immediate=how == "immediate")
        return True

    def _backends(self) -> list[int]:
        import psycopg

        try:
            rows = self._server.run(f"SELECT pid FROM pg_stat_activity WHERE datname = '{self._database()}'")
        except psycopg.OperationalError:
            return []  # it recovers from the last fault
        return sorted(int(str(pid)) for (pid,) in rows)

    # -- the cluster -------------------------------------------------------------------------------------------------

    def _start_cluster(self) -> None:
        from nodes import Nodes

        self._cluster = self._stack.enter_context(Nodes(self.scenario.cluster, self.tag))

    def _kill_raylet(self) -> bool:
        if self._cluster is not None:
            return bool(self._cluster.alive() and self._cluster.kill_node(self._rng))
        return self._kill(machine.raylets(self.tag))

    def _kill_head(self) -> bool:
        if not self._cluster.alive():
            return False
        self._cluster.kill_head()
        return True


def lines(file: Path) -> list[Any]:
    """JSON lines that were written whole."""
    found: list[Any] = []
    with suppress(FileNotFoundError):
        for line in file.read_text(encoding="utf-8").splitlines():
            found.append(json.loads(line))
    return found
