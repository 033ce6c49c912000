"""Studies that are declared in JSON: made over HTTP, and made again from what the database keeps of the declaration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nas.errors import AlgorithmError, DatabaseError, NasError, SpaceError, brief
from nas.search.registry import ALGORITHMS, make
from nas.space.plain import space_of
from nas.study import Study

if TYPE_CHECKING:
    from nas.search import Algorithm
    from nas.store import Store, StudyRecord

# Those that are given archs, objects or other studies, or decide how far an evaluation goes.
_NOT_BY_NAME = ("dna", "given", "policy", "transfer", "multifidelity", "multi_fidelity", "fidelity")
OFFERED = sorted(set(ALGORITHMS) - set(_NOT_BY_NAME))
MOST_TRIALS = 10_000_000
_OPTION = re.compile(r"[a-z_]{1,40}\Z")


def study_of(told: Mapping[str, Any], store: Store) -> Study:
    """The study that a declaration means; nothing is written.

    Args:
        told: `name`, `space` (see `nas.space.plain`), `objectives`, `constraints`, `algorithm` (a name, or an object with `name`
            and options), `trials`.
        store: where it is, or will be.

    Raises:
        NasError: something in it is not usable, with the place.
    """
    name = told["name"]
    study = Study(
        name,
        space=space_of(told["space"], str(name)),
        objectives=told["objectives"],
        constraints=told.get("constraints") or (),
        algorithm=_algorithm(told.get("algorithm") or "surrogate"),
        store=store,
        trials=told.get("trials") or 100,
    )
    study.algorithm.__class__(**_options(study.algorithm)).bind(study.space, study.objectives, study.constraints)
    study.declared = {"space": told["space"], "trials": study.trials_wanted}
    return study


def again(record: StudyRecord, store: Store) -> Study | None:
    """The study of a record that was declared in JSON, from what the record keeps; None for any other.

    Raises:
        DatabaseError: what it keeps is no declaration, or not of its space.
    """
    kept = record.settings.get("declared")
    if kept is None:
        return None
    try:
        told = {
            "name": record.name,
            "space": kept["space"],
            "objectives": list(record.objectives),
            "constraints": list(record.constraints),
            "algorithm": record.settings["algorithm"],
            "trials": kept["trials"],
        }
        study = study_of(told, store)
        if study.space.fingerprint != record.schema["fingerprint"]:
            raise SpaceError("its space is another one than its trials are of")
    except (NasError, LookupError, TypeError) as error:
        raise DatabaseError(f"study {record.name!r} has a damaged declaration: {brief(error, 200)}") from None
    return study


def _algorithm(told: Any) -> Algorithm:
    given = dict(told) if isinstance(told, Mapping) else {"name": told}
    name = given.pop("name", None)
    if name not in OFFERED:
        raise AlgorithmError(f"algorithm {brief(repr(name), 80)} is not offered here; there are {', '.join(OFFERED)}")
    for option, value in given.items():
        plain = value is None or isinstance(value, (bool, int, float, str))
        if not _OPTION.match(str(option)) or not plain or (isinstance(value, str) and len(value) > 100):
            raise AlgorithmError(
                f"algorithm {name!r}: option {brief(repr(option), 80)} is a number, a text, true, false or null"
            )
        if isinstance(value, (int, float)) and not -(2**63) < value < 2**63:
            raise AlgorithmError(f"algorithm {name!r}: option {option!r} is beyond 64 bits")
    if _is_large(given):
        raise AlgorithmError(f"algorithm {name!r}: options are at most 1,000,000, except seed")
    return make(name, **given)


def _is_large(options: Mapping[str, Any]) -> bool:
    return any(isinstance(value, int) and abs(value) > 1_000_000 for name, value in options.items() if name != "seed")


def _options(algorithm: Algorithm) -> dict[str, Any]:
    described = algorithm.describe()
    del described["name"]
    return described
