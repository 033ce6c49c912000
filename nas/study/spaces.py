"""A study that is resumed with another space than it was begun with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from nas.errors import SpaceError, StudyError

if TYPE_CHECKING:
    from nas.space import Space
    from nas.store import StudyRecord

_MOST_CHANGES = 5


def follow(record: StudyRecord, space: Space) -> str:
    """Make `space` the study's own; a sentence on what that means for its trials, "" where the space is as it was.

    Trials keep the space that they were stored with.  Those of archs that the new space has are its history; the others stay on
    record and count as trials, and no algorithm is told of them.

    Raises:
        StudyError: not one trial is of an arch of the new space.
    """
    was = record.schema
    if was["fingerprint"] == space.fingerprint:
        return ""
    if "value" not in was and was["fingerprint"] == space.labels_fingerprint:
        record.update_space(space.schema(), key_of=lambda row: space.from_row(row).key)
        return (
            f"study {record.name!r} was begun with a version of supernas that did not record what is fixed in a space; "
            "its trials are taken to be of this one"
        )
    changes = _listed(space.changes(was))
    stored = record.history()
    rows = [*zip(stored.rows, stored.space_ids.tolist(), strict=True), *((t.row, t.space_id) for t in stored.pending)]
    kept = sum(_has(space, row, stored.schemas[space_id]) for row, space_id in rows)
    if rows and not kept:
        raise StudyError(
            f"study {record.name!r} was begun with another space ({changes}), and none of its {len(rows)} trials is of an arch "
            "of this one; restore the space, or give the new study another name (--name)"
        )
    record.update_space(space.schema())
    if not rows:
        return ""
    without = f", {len(rows) - kept} of archs that it no longer has are kept on record only" if kept < len(rows) else ""
    return f"the space changed ({changes}): {kept} of {len(rows)} trials are of archs of it and its history{without}"


def _has(space: Space, row: list[float | None], schema: dict[str, object]) -> bool:
    try:
        space.from_row(row, schema)
    except SpaceError:
        return False
    return True


def _listed(changes: Iterable[str]) -> str:
    found = list(changes)
    more = f"; and {len(found) - _MOST_CHANGES} more" if len(found) > _MOST_CHANGES else ""
    return "; ".join(found[:_MOST_CHANGES]) + more or "in the order or the names of its decisions only"
