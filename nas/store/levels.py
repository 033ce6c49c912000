"""Which study holds the low evaluations of which (`nas.MultiFidelity`): the two are renamed, deleted and changed as one.

Any study may be called `digits@3`.  What tells a study of low evaluations is what it was created with: evaluators that go a part
of the way, as far as its name says, for the algorithm of the study that the rest of the name names.
"""

from __future__ import annotations

import json
from typing import Any

from nas.store import statements as s
from nas.store.damage import of_row
from nas.store.sql import Transaction


def whole_of(sql: Transaction) -> dict[str, str]:
    """Each study of low evaluations, by name, to the name of the study that they were made for, if that is there."""
    names = [str(name) for (name,) in sql.all(s.STUDY_NAMES)]
    pairs = [(name, *name.rpartition("@")[::2]) for name in names if "@" in name]
    found: dict[str, str] = {}
    for name, whole, far in pairs:
        if whole in names:
            low, full = _settings(sql, name), _settings(sql, whole)
            if _goes_so_far(low, far) and low.get("algorithm") == full.get("algorithm"):
                found[name] = whole
    return found


def renamed(level: str, new: str) -> str:
    """What a study of low evaluations is called when its study is called `new`."""
    return f"{new}@{level.rpartition('@')[2]}"


def _settings(sql: Transaction, name: str) -> dict[str, Any]:
    row = sql.one(s.SETTINGS_OF, (name,))
    assert row is not None, "names and settings are of one snapshot"
    of_row("studies", "settings", row, name)
    settings: dict[str, Any] = json.loads(row[0])
    return settings


def _goes_so_far(settings: dict[str, Any], far: str) -> bool:
    """Whether an evaluator is a `nas.evaluate.partial.Partial` that goes `far`."""
    told = [one for one in settings.get("evaluators") or () if isinstance(one, dict) and one.get("name") == "Partial"]
    return any(isinstance(one.get("far"), (int, float)) and f"{one['far']:g}" == far for one in told)
