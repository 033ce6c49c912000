"""Whether a resumed study goes on with the evaluators and the algorithm that it began with, their parameters included.

What they are is a note on the study (`nas.identity`), since its settings hold their names and what they say of themselves.
Studies of an earlier version have no such note: it is made when they are opened, and said.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nas.errors import StudyError
from nas.evaluate import base
from nas.evaluate.base import Evaluator, subject
from nas.identity import IDENTITY, changes, code_changes, identity, recoded, unknown

if TYPE_CHECKING:
    from nas.search import Algorithm
    from nas.space import Space
    from nas.store import StudyRecord

NOTE = IDENTITY


def identity_of(evaluators: Sequence[Evaluator], algorithm: Algorithm, space: Space) -> dict[str, Any]:
    """What decides a study's networks, measurements and proposals, JSON-able: a `describe()` of an evaluator has the word."""
    told = [{"name": _name(subject(one)), "is": base.identity_of(one)} for one in evaluators]
    options = [name for name in inspect.signature(type(algorithm)).parameters if hasattr(algorithm, name)]
    chosen = {name: identity(getattr(algorithm, name)) for name in options}
    return {"evaluators": told, "algorithm": chosen, "code": space.code}


def check(record: StudyRecord, now: Mapping[str, Any], finished: int, space: Space) -> list[str]:
    """Compare with what the study began with, and note it where nothing was.

    Args:
        record: the study.
        now: `identity_of` what this job declares.
        finished: how many trials it has.
        space: of this job.

    Returns:
        sentences to say when the study is run.

    Raises:
        StudyError: a parameter differs; with its name, what it was and what it is.
    """
    was = record.notes().get(NOTE)
    if was is None:
        record.annotate({NOTE: now})
        early = f"study {record.name!r} was begun by an earlier version, which kept no parameters of evaluators: "
        return [early + "those of this job are taken for the same, and compared from now on"] if finished else []
    said = _recoded(record, was.get("code"), space) if finished else []
    was = space.restated(was)
    for old, new in zip(was["evaluators"], now["evaluators"], strict=False):
        who = f"evaluator {new['name']!r}"
        if differ := changes(old["is"], new["is"]):
            raise StudyError(
                f"study {record.name!r} was begun with {who} otherwise: {', '.join(differ[:5])}; restore it, give the new study "
                "another name (--name), or give the evaluator a describe() that returns what its results depend on"
            )
        if edited := code_changes(old["is"], new["is"]):
            said.append(
                f"{who} of study {record.name!r} has other code than before ({', '.join(edited)}): what it measured is kept, "
                "and another name begins anew"
            )
        if finished and (places := unknown(new["is"])):
            said.append(
                f"{who} of study {record.name!r} cannot be compared with what it was in {', '.join(places[:5])}"
            )
    if differ := changes(was["algorithm"], now["algorithm"]):
        raise StudyError(
            f"study {record.name!r} was begun with another algorithm: {', '.join(differ[:5])}; restore it, or give the new study "
            "another name (--name)"
        )
    if was != now:
        record.annotate({NOTE: now})
    return said


def _recoded(record: StudyRecord, was: Mapping[str, Any] | None, space: Space) -> list[str]:
    """Which model functions and classes have other code, in a sentence; of a study of an earlier version, which text."""
    if was is None:
        text, here = record.schema.get("sources") or {}, space.schema()["sources"]
        edited = [name for name in text if here.get(name, text[name]) != text[name]]
    else:
        edited = recoded(was, space.code)
    if not edited:
        return []
    return [
        f"{', '.join(edited)} of the space of study {record.name!r} has other code than before: its trials are kept, and may be "
        "of other networks than those that this code makes; restore it, or give the new study another name (--name)"
    ]


def _name(one: Any) -> str:
    one = one.func if isinstance(one, functools.partial) else one
    return str(getattr(one, "__qualname__", type(one).__qualname__))
