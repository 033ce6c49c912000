"""PyGlove generators as JSON that holds no code: what a study's settings keep of them, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nas.checking import shown
from nas.errors import AlgorithmError

if TYPE_CHECKING:
    import pyglove as pg


def generator_from(given: Any) -> pg.DNAGenerator:
    """A generator from itself, or from what `generator_text` gave; the random one from None.

    A plain `pg.geno.Deduping` is replaced by what it wraps: archs are never proposed twice here, and the wrapper would hide
    that its generator takes several objectives.

    Raises:
        AlgorithmError: it is none; its JSON holds code; it wants duplicates.
    """
    import pyglove as pg

    if given is None:
        return pg.geno.Random()
    if isinstance(given, Mapping):
        given = _from_json(given)
    if not isinstance(given, pg.DNAGenerator):
        raise AlgorithmError(
            f"pyglove was given generator={shown(given)}; it is a pg.DNAGenerator, as pg.evolution.regularized_evolution() is"
        )
    if isinstance(given, pg.geno.Deduping):
        if given.max_duplicates > 1 or given.auto_reward_fn is not None:
            raise AlgorithmError(
                "pg.geno.Deduping was given max_duplicates or auto_reward_fn, but no arch is evaluated twice here; "
                "leave them out"
            )
        return given if given.hash_fn is not None else generator_from(given.generator)
    return given


def generator_text(generator: pg.DNAGenerator) -> dict[str, Any]:
    """JSON of a generator.  Of code and opaque objects in it only the name is kept: it is the same on every machine."""
    scrubbed: dict[str, Any] = _scrub(generator.to_json())
    return scrubbed


def _scrub(value: Any) -> Any:
    if isinstance(value, dict):
        kind = str(value.get("_type", ""))
        if holds_code(value):
            return {"_type": kind, "name": str(value.get("name", "")), "code": None}
        return {key: _scrub(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_scrub(item) for item in value]
    return value


def holds_code(value: Mapping[str, Any]) -> bool:
    """Whether a JSON object of PyGlove's is executable: a function's byte code, or a pickle."""
    kind = str(value.get("_type", ""))
    return kind.endswith("_OpaqueObject") or (kind == "function" and "code" in value)


def any_code(value: Any) -> bool:
    """Whether there is such an object anywhere in a JSON value."""
    if isinstance(value, Mapping):
        return holds_code(value) or any(any_code(item) for item in value.values())
    return isinstance(value, list | tuple) and any(any_code(item) for item in value)


def _from_json(given: Mapping[str, Any]) -> Any:
    import pyglove as pg

    if any_code(given):
        raise AlgorithmError(
            f"the generator {given.get('_type')!r} holds functions that are not stored; give the generator itself"
        )
    try:
        return pg.from_json(dict(given))
    except Exception as error:
        raise AlgorithmError(f"the generator's JSON is not understood: {error}") from error
