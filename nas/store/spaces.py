"""Spaces as the store knows them: schemas that give names and labels to the numbers of an arch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nas.errors import StoreError
from nas.store import statements as s
from nas.store.sql import Transaction


def register(sql: Transaction, schema: Mapping[str, Any]) -> int:
    """Identity of the space with this schema, which is stored when it is new.

    Raises:
        StoreError: `schema` is not what `Space.schema()` gives.
    """
    try:
        which = (schema["fingerprint"], schema["name"], schema["version"])
        decoder(schema)
        text = json.dumps(schema, separators=(",", ":"))
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"space schema cannot be stored ({type(error).__name__}: {error}); give Space.schema()"
        ) from error
    found = sql.one(s.FIND_SPACE, which)
    if found is None:
        sql.run(s.ADD_SPACE, (*which, text))
        found = sql.one(s.FIND_SPACE, which)
    assert found is not None
    return int(found[0])


def parse_rows(texts: Sequence[str]) -> list[list[float | None]]:
    """Many stored archs at once."""
    rows: list[list[float | None]] = json.loads(f"[{','.join(texts)}]")
    return rows


def decoder(schema: Mapping[str, Any]) -> Callable[[Sequence[float | None]], dict[str, Any]]:
    """From a stored row to label or value by decision name, active decisions only."""
    plan = [(decision["name"], decision.get("candidates")) for decision in schema["decisions"]]

    def decode(row: Sequence[float | None]) -> dict[str, Any]:
        return {
            name: value if labels is None else labels[int(value)]
            for (name, labels), value in zip(plan, row, strict=True)
            if value is not None
        }

    return decode
