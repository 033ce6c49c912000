"""What a running server holds: the database, desks, jobs, files, feeds, and what it counted."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from prometheus_client import CollectorRegistry, Counter, Gauge

from nas.web.commands import run, shown
from nas.web.desk import Desks
from nas.web.events import Event, Feed
from nas.web.jobs import Jobs
from nas.web.kept import Kept
from nas.web.making import Making
from nas.web.opened import Opened
from nas.web.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Hashable

    from nas.store import StudyRecord

_LAYERS_S = 300


class State:
    """Of one server.

    Args:
        store: database URL.
        jobs: the operator's folder of jobs.
        folder: for what they print, and the files of networks.
        read_only: refuse every write.
    """

    def __init__(self, store: str, jobs: Path | None, folder: Path | None, *, read_only: bool) -> None:
        self.read_only = read_only
        self.jobs = None if jobs is None else Jobs(jobs, store, folder)
        self.making = None if self.jobs is None else Making(self.jobs, store)
        self.desks = Desks(self.jobs)
        self.opened = Opened(store, read_only=read_only, replaced=self.desks.forget)
        self.kept = Kept()
        self.registry = CollectorRegistry()
        self.requests = Counter("nas_requests", "Requests answered", ["method", "status"], registry=self.registry)
        self.trials = Gauge("nas_trials", "Trials by study and state", ["study", "state"], registry=self.registry)
        self.leases = Gauge("nas_leases", "Trials under way, by study", ["study"], registry=self.registry)
        self.watching = Gauge("nas_event_streams", "Pages and programs that watch", registry=self.registry)
        self._store = store
        self._feeds: dict[Hashable, Feed] = {}
        self._layers: dict[tuple[int, float, int], dict[str, Any]] = {}

    async def feed(self, which: Hashable, look: Callable[[], Callable[[], list[Event]]]) -> Feed:
        """The feed of something, made where nobody watches it yet; whoever gets it joins it at once."""
        found = self._feeds.get(which)
        if found is None or not found.readers:
            fresh = Feed(await anyio.to_thread.run_sync(look))
            self._feeds = {other: feed for other, feed in self._feeds.items() if feed.readers}
            found = self._feeds.setdefault(which, fresh)  # another request may have been quicker
        return found

    @property
    def watchers(self) -> int:
        """How many event streams are open."""
        return sum(feed.readers for feed in self._feeds.values())

    def commands(self, record: StudyRecord, number: int) -> dict[str, str]:
        """What takes a trial's network home on a command line."""
        formats = {"extract": "extract", "export": "onnx"}
        return {verb: shown(record.name, number, format, self.opened.shown) for verb, format in formats.items()}

    def layers(self, record: StudyRecord, number: int) -> dict[str, Any]:
        """Layers of a trial's network, counted in a process of its own.

        Raises:
            Problem: the study's job is not in the folder, or does not build the network.
        """
        job = None if self.jobs is None else self.jobs.file_of(record)
        if job is None:
            raise Problem(
                409,
                f"the job of study {record.name!r} is not in the server's folder, so that its networks cannot be built here",
            )
        which = record.id, record.created, number
        if which not in self._layers:
            if len(self._layers) > 500:
                self._layers.clear()
            self._layers[which] = self._counted(job, record, number)
        return self._layers[which]

    def _counted(self, job: Path, record: StudyRecord, number: int) -> dict[str, Any]:
        try:
            done = run(["nas.web.layers", str(job), record.name, str(number)], job, self._store, _LAYERS_S)
            found = json.loads(done.stdout.strip().splitlines()[-1]) if done.returncode == 0 else None
        except (OSError, ValueError, IndexError, subprocess.SubprocessError):
            found = None
        if not isinstance(found, dict):
            raise Problem(409, f"job {job.name!r} does not build the network of trial {number}")
        if "detail" in found:
            raise Problem(409, str(found["detail"]))
        return found

    def close(self) -> None:
        """The server ends; what runs goes on."""
        for feed in self._feeds.values():
            feed.close()
        if self.making is not None:
            self.making.close()
        self.opened.close()
