"""Notes: small JSON values by name, on a trial or on the study itself, for what has no column of its own.

Programs leave links, checkpoints and messages to each other there.  A note is replaced, never merged: what several processes
write at once belongs under several names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam as p

from nas.errors import StoreError
from nas.store.damage import Suspect, of_row, refuse_strays
from nas.store.schema import notes
from nas.store.sql import Row, Statement, Transaction
from nas.store.statements import NOTES_BEYOND, STRAY_NOTES

#: `notes.number` of a note on the study itself.
STUDY = -1

#: The note on a trial that was tried again: a list, oldest first, of how each earlier try ended.
TRIES = "tries"

_ONE = (notes.c.study_id == p("study"), notes.c.number == p("no"))
_READ = Statement(sa.select(notes.c.name, notes.c.value).where(*_ONE), "study no")
_ALL = Statement(sa.select(notes.c.number, notes.c.name, notes.c.value).where(notes.c.study_id == p("study")), "study")
_SET = Statement(sa.update(notes).where(*_ONE, notes.c.name == p("label")).values(value=p("v")), "v study no label")
_ADD = Statement(sa.insert(notes).values(study_id=p("a"), number=p("b"), name=p("c"), value=p("d")), "a b c d")


def encoded(values: Mapping[str, Any]) -> dict[str, str]:
    """JSON texts by name.

    Raises:
        StoreError: a value is not JSON.
    """
    texts = {}
    for name, value in values.items():
        try:
            texts[str(name)] = json.dumps(value, separators=(",", ":"))
        except (TypeError, ValueError) as error:
            raise StoreError(f"note {name!r} cannot be stored ({error}); give numbers, text, lists and dicts") from None
    return texts


def put(sql: Transaction, study: int, number: int, texts: Mapping[str, str]) -> None:
    """Store notes; those of the same name are replaced."""
    new: list[Row] = []
    for name, text in texts.items():
        if not sql.run(_SET, (text, study, number, name)):
            new.append((study, number, name, text))
    sql.many(_ADD, new)


def read(sql: Transaction, study: int, number: int) -> dict[str, Any]:
    """The notes on one trial, or on the study."""
    _check_owners(sql, study)
    return {name: _value(study, number, name, value) for name, value in sql.all(_READ, (study, number))}


def read_all(sql: Transaction, study: int) -> dict[int, dict[str, Any]]:
    """All notes of a study by trial; those on the study itself under `STUDY`."""
    _check_owners(sql, study)
    found: dict[int, dict[str, Any]] = {}
    for number, name, value in sql.all(_ALL, (study,)):
        found.setdefault(number, {})[name] = _value(study, number, name, value)
    return found


def _check_owners(sql: Transaction, study: int) -> None:
    refuse_strays(sql, STRAY_NOTES)
    if sql.one(NOTES_BEYOND, (study,)) != (0,):
        raise Suspect("a note is on a trial that is not there")


def _value(study: int, number: int, name: str, value: str) -> Any:
    of_row("notes", "study_id number name value", (study, number, name, value), study, number)
    return json.loads(value)
