"""Where samplings are kept, and the study of one in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas.errors import StoreError, StudyError
from nas.metrics import Metric
from nas.search.dna_search import DNASearch
from nas.space import Space
from nas.store import Store, StudyRecord, open_store
from nas.study.spaces import follow

_open: dict[tuple[int, str], Store] = {}


def shared_store(where: str | Path | None, *, create: bool) -> Store:
    """The database at a path or URL, `$NAS_STORE` or nas.db; opened once in a process, since inner loops sample very often."""
    url = str(where or os.environ.get("NAS_STORE") or "nas.db")
    path = url if "://" in url else os.path.abspath(url)
    key = (os.getpid(), path)
    if key not in _open:
        _open[key] = open_store(path, create=create)
    return _open[key]


def study_of(store: Store, name: str, space: Space, search: DNASearch, metrics: Sequence[str]) -> StudyRecord:
    """The study of that name, made if there is none; several processes may do so at once.

    Raises:
        StudyError: it has another space, other metrics, or another kind of algorithm.
    """
    objectives = [Metric(metric, "max") for metric in metrics]
    described = search.describe()
    try:
        return store.create_study(
            name,
            space_schema=space.schema(),
            objectives=objectives,
            settings={"pyglove": True, "algorithm": described},
        )
    except StoreError:
        record = store.open_study(name)  # raises what was wrong, if it was not that the study is there
    _check(record, space, objectives, described)
    return record


def _check(record: StudyRecord, space: Space, objectives: Sequence[Metric], described: dict[str, Any]) -> None:
    if record.settings.get("pyglove") is not True:
        raise StudyError(f"study {record.name!r} was not begun by pg.sample; give this sampling another name")
    was: Any = record.settings["algorithm"]["generator"].get("_type")
    now: Any = described["generator"].get("_type")
    pairs = [
        ("metrics", [metric.name for metric in record.objectives], [metric.name for metric in objectives]),
        ("algorithm", was, now),
    ]
    for what, before, after in pairs:
        if before != after:
            raise StudyError(
                f"sampling {record.name!r} was begun with {what} {before}, this program has {after}; "
                "restore it, or give the new sampling another name"
            )
    was = record.schema["fingerprint"]
    if was != space.fingerprint and (was != space.labels_fingerprint or "value" in record.schema):
        changes = "; ".join(space.changes(record.schema)) or "its decisions have another order or other names"
        raise StudyError(
            f"sampling {record.name!r} was begun with another space ({changes}); restore it, or give the new sampling "
            "another name"
        )
    follow(record, space)
