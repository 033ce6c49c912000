"""Rows of numbers that were stored with another version of a space."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from nas.errors import SpaceError
from nas.space import template
from nas.space.compiling import Decision
from nas.space.template import Matcher, Tree


class RowMap:
    """Maps rows stored with an old schema to genomes of the present decisions, by what they close to.

    Added, dropped and reordered candidates and decisions are told apart by their content, never by their place; a fixed argument
    that became a choice, or the other way round, is followed.  A class or function that moved to another module, with the same
    source text, is the same one (`moved` says which); one with another name is another.

    Args:
        decisions: of the present space.
        schema: `Space.schema()` of the space that the rows were stored with.
        present: the present space's schema.

    Raises:
        SpaceError: `schema` is none.
    """

    def __init__(self, decisions: Sequence[Decision], schema: Mapping[str, Any], present: Mapping[str, Any]) -> None:
        try:
            self.title = f"{schema.get('name')!r} version {schema.get('version')}"
            self._old = [(str(one["name"]), one.get("candidates")) for one in schema["decisions"]]
            self._firsts = list(schema.get("firsts") or [None] * len(self._old))
            self.moved = moved(schema, present)
            self._tree: Tree | None = template.renamed(schema["value"], self.moved) if "value" in schema else None
        except (KeyError, TypeError, AttributeError) as error:
            raise SpaceError(f"the stored schema of the space is not one: {type(error).__name__}: {error}") from None
        self._matcher = Matcher(present["value"], [decision.name for decision in decisions])
        self._by_name = {decision.name: decision for decision in decisions}

    def genome(self, numbers: Sequence[Any]) -> list[Any]:
        """Numbers of the present decisions; None where nothing is chosen.  Activity is the caller's to settle.

        Raises:
            SpaceError: the row is none of its own space, or no arch of the present one.
        """
        if len(numbers) != len(self._old):
            raise SpaceError(
                f"a row of {len(numbers)} numbers does not fit space {self.title} of {len(self._old)} decisions"
            )
        try:
            if self._tree is None:
                return self._by_labels(numbers)
            return self._matcher.genome(template.closed(self._tree, self._whole(numbers)))
        except (SpaceError, IndexError, TypeError, ValueError) as error:
            raise SpaceError(f"an arch of stored space {self.title} is not in this space: {error}") from None

    def _whole(self, numbers: Sequence[Any]) -> list[Any]:
        """The row with the candidates that switched off decisions are built with."""
        whole = []
        for number, first, (name, labels) in zip(numbers, self._firsts, self._old, strict=True):
            if number is not None and labels is not None and number not in range(len(labels)):
                raise SpaceError(f"candidate {number!r} of decision {name!r} is none of {len(labels)}")
            whole.append(first if number is None else number)
        return whole

    def _by_labels(self, numbers: Sequence[Any]) -> list[Any]:
        """A row of a database of version 0.1, which recorded decisions and labels and nothing of what is fixed."""
        genome: list[Any] = [None] * len(self._by_name)
        for number, (name, labels) in zip(numbers, self._old, strict=True):
            decision = self._by_name.get(name)
            if number is None:
                continue
            if decision is None or (labels is None) != (decision.kind == "float"):
                raise SpaceError(f"there is no decision {name!r} of its kind")
            if labels is None:
                genome[decision.index] = float(number)
                continue
            label = labels[int(number)] if number in range(len(labels)) else number
            same = [c for c, other in enumerate(decision.labels) if type(other) is type(label) and other == label]
            if not same:
                raise SpaceError(f"{name} was {label!r}, which is no candidate here")
            genome[decision.index] = decision.point.canonical[same[0]]
        return genome


def moved(schema: Mapping[str, Any], present: Mapping[str, Any]) -> dict[str, str]:
    """Old name to new name of classes and functions that moved to another module; proven by their source text."""
    was, now = dict(schema.get("sources") or {}), dict(present.get("sources") or {})
    gone = {name: digest for name, digest in was.items() if name not in now}
    came = {name: digest for name, digest in now.items() if name not in was}
    of_source = Counter(came.values())
    return {
        old: new
        for old, digest in gone.items()
        for new, other in came.items()
        if digest == other and of_source[digest] == 1 and _qualname(old) == _qualname(new)
    }


def _qualname(name: str) -> str:
    return name.rstrip(")").rpartition(".")[2]


def differences(schema: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """How the present space differs from a stored one, a phrase for each difference.

    Raises:
        SpaceError: a schema is none.
    """
    try:
        names = moved(schema, present)
        was, now = ({one["name"]: one for one in each["decisions"]} for each in (schema, present))
        found = [f"{old} is {new} now, with the same source" for old, new in names.items()]
        found += [f"decision {name} is gone" for name in was if name not in now]
        found += [f"decision {name} is new" for name in now if name not in was]
        for name in was:
            if name in now:
                found += _changes(name, was[name], now[name])
        if "value" in schema:
            fixed = template.fixed_differences(template.renamed(schema["value"], names), present["value"])
            found += [one for one in fixed if f"decision {one}" not in found]
    except (KeyError, TypeError, AttributeError) as error:
        raise SpaceError(f"the stored schema of the space is not one: {type(error).__name__}: {error}") from None
    return found


def _changes(name: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    if was["kind"] != now["kind"]:
        return [f"{name} was {was['kind']}, and is {now['kind']} now"]
    if was["kind"] == "float":
        before, after = _range(was), _range(now)
        return [f"{name} was a float {before}, and is one {after} now"] if before != after else []
    labels = [[(type(label), label) for label in one["candidates"]] for one in (was, now)]
    lost = [str(label) for kind, label in labels[0] if (kind, label) not in labels[1]]
    gained = [str(label) for kind, label in labels[1] if (kind, label) not in labels[0]]
    words = [f"{verb} {_some(which)}" for verb, which in (("lost", lost), ("gained", gained)) if which]
    return [f"{name} {' and '.join(words)}"] if words else []


def _some(labels: Sequence[str]) -> str:
    return ", ".join(labels[:5]) + ", ..." * (len(labels) > 5)


def _range(one: Mapping[str, Any]) -> str:
    return f"from {one['min']} to {one['max']}" + (f", {one['scale']}" if one["scale"] else "")
