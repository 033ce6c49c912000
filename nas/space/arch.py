"""`Arch`: one closed point of a space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.space.space import Space


class Arch:
    """One closed point of a space: immutable, hashable, storable.  Made by a `Space`, never by hand.

    Two archs are equal when their spaces have the same fingerprint and their canonical genomes are the same, which is when
    they close to the same value.
    """

    __slots__ = ("_genome", "_key", "_space", "_value")

    _space: Space
    _genome: tuple[Any, ...]
    _key: str
    _value: Any

    def __init__(self, space: Space, genome: tuple[Any, ...]) -> None:
        self._space = space
        self._genome = genome

    @property
    def space(self) -> Space:
        """The space it is a point of."""
        return self._space

    @property
    def genome(self) -> tuple[Any, ...]:
        """Canonical genome: an entry a decision: index of the candidate, float, or None where inactive."""
        return self._genome

    @property
    def choices(self) -> dict[str, Any]:
        """Active decisions by name: JSON scalars as they are, other candidates by their label."""
        return self._space._choices(self._genome)

    @property
    def value(self) -> Any:
        """The closed symbolic value, made when first asked for and kept; what `pg.template(...).decode` gives."""
        try:
            return self._value
        except AttributeError:
            self._value = self._space._close(self._genome)
            return self._value

    @property
    def key(self) -> str:
        """32 hex characters: equal where archs close to the same value, in every process and every version of their space."""
        try:
            return self._key
        except AttributeError:
            self._key = self._space._key_of(self._genome)
            return self._key

    def row(self) -> list[Any]:
        """The genome as JSON-able numbers and None, for a column of a database; `Space.from_row` reads it."""
        return list(self._genome)

    def to_json(self) -> dict[str, Any]:
        """Decisions by name with the space they belong to: what survives a change of the space."""
        space = self._space
        return {
            "choices": self.choices,
            "space": space.name,
            "version": space.version,
            "fingerprint": space.fingerprint,
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Arch):
            return NotImplemented
        return self._genome == other._genome and (
            self._space is other._space or self._space.fingerprint == other._space.fingerprint
        )

    def __hash__(self) -> int:
        return hash(self._genome)

    def __repr__(self) -> str:
        text = ", ".join(f"{name}={value}" for name, value in self.choices.items())
        return f"Arch({text if len(text) <= 100 else text[:97] + '...'})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Arch, (self._space, self._genome)
