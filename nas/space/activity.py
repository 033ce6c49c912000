"""`active_when`: conditions for flat spellings, laid onto the points of a compiled space.

A flat spelling writes the decisions of every layer side by side and a depth beside them; layers beyond the depth are not used,
so genomes that differ only there are one model.  `{"blocks[2]": ("depth", {3, 4})}` says so.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from nas.errors import SpaceError, suggest
from nas.space.checking import expected, index_of
from nas.space.compiling import Decision
from nas.space.labels import short

Conditions = Mapping[str, tuple[str, Collection[Any]]]
_MOST_UNEQUAL_SLOTS = 16


def matches(name: str, prefix: str) -> bool:
    """Whether `prefix` means decision `name`: itself, or something inside it.

    >>> matches("blocks[2].kernel", "blocks[2]"), matches("blocks[21]", "blocks[2]")
    (True, False)
    """
    return name == prefix or (name.startswith(prefix) and name[len(prefix)] in ".[=")


def apply_conditions(decisions: list[Decision], conditions: Conditions) -> None:
    """Make the topmost decision(s) under each prefix active only when its controller has one of the given values.

    Raises:
        SpaceError: a name or value is not there, two conditions meet in one decision, or they form a cycle.
    """
    names = {decision.name: decision for decision in decisions}
    claimed: dict[int, str] = {}
    scope = [decision.point.parent for decision in decisions]
    for prefix, (controller_name, values) in conditions.items():
        controller = names.get(controller_name)
        if controller is None:
            raise SpaceError(
                f"active_when[{prefix!r}] depends on {controller_name!r}, which is no decision{suggest(controller_name, names)}"
            )
        allowed = _allowed(prefix, controller, values)
        inside = {decision.index for decision in decisions if matches(decision.name, prefix)}
        if not inside:
            raise SpaceError(f"active_when names {prefix!r}, which is no decision{suggest(prefix, names)}")
        for p in inside:
            if scope[p] in inside:
                continue
            if p in claimed:
                raise SpaceError(
                    f"active_when[{prefix!r}] and active_when[{claimed[p]!r}] both name {decisions[p].name!r}; keep one"
                )
            claimed[p] = prefix
            if scope[p] not in (-1, scope[controller.index]):
                raise SpaceError(
                    f"active_when[{prefix!r}]: {decisions[p].name!r} is already conditional on "
                    f"{decisions[scope[p]].name!r}; its condition must name a decision beside it"
                )
            if (
                scope[p] >= 0
                and decisions[p].point.allowed != controller.point.allowed
                and scope[controller.index] == scope[p]
            ):
                raise SpaceError(
                    f"active_when[{prefix!r}]: {decisions[p].name!r} and {controller_name!r} are in different candidates "
                    f"of {decisions[scope[p]].name!r}, so one is never there when the other is"
                )
            point = decisions[p].point
            point.parent, point.allowed = controller.index, allowed
    _refuse_cycles(decisions)
    _refuse_split_groups(decisions)


def _allowed(prefix: str, controller: Decision, values: Collection[Any]) -> frozenset[int]:
    if controller.kind == "float":
        raise SpaceError(f"active_when[{prefix!r}] depends on {controller.name!r}, which is a float; use a pg.oneof")
    allowed = set()
    for value in values:
        c = index_of(controller, value)
        if c is None:
            raise SpaceError(
                f"active_when[{prefix!r}]: {short(value)} is no candidate of {controller.name!r}, which is {expected(controller)}"
            )
        allowed.add(c)
    if not allowed:
        raise SpaceError(f"active_when[{prefix!r}] gives no value of {controller.name!r}; it would never be active")
    return frozenset(allowed)


def _refuse_cycles(decisions: list[Decision]) -> None:
    for decision in decisions:
        seen = [decision.index]
        while (p := decisions[seen[-1]].point.parent) >= 0:
            if p in seen:
                cycle = " -> ".join(decisions[q].name for q in [*seen[seen.index(p) :], p])
                raise SpaceError(f"active_when goes round in a cycle: {cycle}")
            seen.append(p)


def _refuse_split_groups(decisions: list[Decision]) -> None:
    for decision in decisions:
        group = decision.point.group
        if group is None or group.slots[0] != decision.index:
            continue
        whens = {(decisions[slot].point.parent, decisions[slot].point.allowed) for slot in group.slots}
        name = decision.name.removesuffix("[0]")
        if len(whens) > 1:
            raise SpaceError(
                f"active_when treats the slots of {name!r} differently, but they must be distinct or sorted together; "
                "name the whole"
            )
