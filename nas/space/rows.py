"""Rows of numbers that were stored with another version of a space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nas.errors import SpaceError
from nas.space.compiling import Decision


class RowMap:
    """Maps rows stored with an old schema to genomes of the present decisions, by names and labels.

    Added candidates, added decisions and another order are fine.  A label that is gone while the number of candidates is the
    same is taken for a renamed class, and so are the names of the decisions inside it.

    Args:
        decisions: of the present space.
        schema: `Space.schema()` of the space the rows were stored with.

    Raises:
        SpaceError: `schema` is none.
    """

    def __init__(self, decisions: Sequence[Decision], schema: Mapping[str, Any]) -> None:
        self.decisions = decisions
        try:
            self.title = f"{schema.get('name')!r} version {schema.get('version')}"
            self.old = [(str(d["name"]), d.get("candidates")) for d in schema["decisions"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise SpaceError(f"the stored schema of the space is not one: {type(error).__name__}: {error}") from None
        present = {decision.name: decision for decision in decisions}
        renamed: dict[str, str] = {}
        # For each old decision: the present one (or None) and the present index of each old candidate (or None).
        self.targets: list[tuple[Decision | None, list[int | None] | None]] = []
        for name, labels in self.old:
            decision = present.get(_renamed(name, renamed))
            if decision is None or (labels is None) != (decision.kind == "float"):
                self.targets.append((None, None))
                continue
            if labels is None:
                self.targets.append((decision, None))
                continue
            indices = _match(labels, decision)
            for old, c in zip(labels, indices, strict=True):
                if c is not None:
                    renamed[f"{name}={old}"] = f"{decision.name}={decision.labels[c]}"
            self.targets.append((decision, indices))

    def genome(self, numbers: Sequence[Any], firsts: Sequence[Any]) -> list[Any]:
        """Numbers of the present decisions; what was not stored takes `firsts`.  Activity is the caller's to settle.

        Raises:
            SpaceError: a stored decision or candidate has no counterpart.
        """
        if len(numbers) != len(self.old):
            raise SpaceError(
                f"a row of {len(numbers)} numbers does not fit space {self.title} of {len(self.old)} decisions"
            )
        genome = list(firsts)
        for number, (name, labels), (decision, indices) in zip(numbers, self.old, self.targets, strict=True):
            if number is None:
                continue
            if decision is None:
                raise SpaceError(f"decision {name!r} of stored space {self.title} is not in this space")
            if labels is None or indices is None:
                genome[decision.index] = float(number)
                continue
            index = int(number) if number in range(len(labels)) else None
            c = None if index is None else indices[index]
            if c is None:
                what = number if index is None else labels[index]
                raise SpaceError(
                    f"candidate {what!r} of decision {name!r} of stored space {self.title} is not in this space"
                )
            genome[decision.index] = c
        return genome


def _match(labels: Sequence[Any], decision: Decision) -> list[int | None]:
    """For each old label the present candidate: of that label, else of that index if the counts agree and it is unclaimed."""
    canonical = decision.point.canonical
    here = {(type(label), label): canonical[c] for c, label in reversed(list(enumerate(decision.labels)))}
    indices = [here.get((type(label), label)) for label in labels]
    if len(labels) == len(decision.labels):
        claimed = set(indices)
        indices = [(canonical[i] if c is None and canonical[i] not in claimed else c) for i, c in enumerate(indices)]
    return indices


def _renamed(name: str, renamed: Mapping[str, str]) -> str:
    """`name` with the longest known old prefix replaced by the present one."""
    for prefix in sorted(renamed, key=len, reverse=True):
        if name == prefix or (name.startswith(prefix) and name[len(prefix)] in ".[="):
            return renamed[prefix] + name[len(prefix) :]
    return name
