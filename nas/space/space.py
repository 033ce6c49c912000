"""`Space`: a symbolic value with open choices, compiled once into flat tables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from random import Random
from typing import Any

import pyglove as pg

from nas.errors import SpaceError, suggest
from nas.space import dna, nodes
from nas.space.activity import Conditions, apply_conditions, candidates_text, index_of
from nas.space.arch import Arch
from nas.space.compiling import Decision, compile_value
from nas.space.features import Encoder, Floats, Kind
from nas.space.forest import Forest
from nas.space.labels import short
from nas.space.rows import RowMap


class Space:
    """A search space: a PyGlove value with open choices, compiled.

    >>> import random
    >>> space = Space(pg.Dict(width=pg.oneof([8, 16]), act=pg.oneof(["relu", "gelu"])), name="tiny")
    >>> space.size, space.names
    (4, ('width', 'act'))
    >>> space.sample(random.Random(0)).choices
    {'width': 16, 'act': 'gelu'}

    Args:
        value: a symbolic value: usually a call to a model function with open arguments; plain lists and dicts are taken too.
        name: how errors and databases call it; the model function's name by default.
        version: a number of your own, stored with every arch.
        active_when: for flat spellings: decision-name prefix -> (decision, values): active only when that decision has one
            of these values.
        largest: decision name -> value that counts as its largest, where the default (magnitude) is not what you mean.
        smallest: the same for the smallest.

    Raises:
        SpaceError: the value cannot be compiled, or an option names something that is not there.
    """

    def __init__(
        self,
        value: Any,
        *,
        name: str | None = None,
        version: int = 1,
        active_when: Conditions | None = None,
        largest: Mapping[str, Any] | None = None,
        smallest: Mapping[str, Any] | None = None,
    ) -> None:
        self.value = _symbolic(value)
        self.name = name if name is not None else (type(value).__name__ if isinstance(value, pg.Functor) else "space")
        self.version = version
        self._options = (dict(active_when or {}), dict(largest or {}), dict(smallest or {}))
        compiled = compile_value(self.value)
        apply_conditions(compiled.decisions, self._options[0])
        self.decisions: tuple[Decision, ...] = tuple(compiled.decisions)
        self.names: tuple[str, ...] = tuple(decision.name for decision in self.decisions)
        self._index = {name: decision.index for name, decision in zip(self.names, self.decisions, strict=True)}
        self._node = compiled.node
        self._derived = compiled.derived
        self._forest = Forest([decision.point for decision in self.decisions])
        self._lookup = [_lookup(decision) for decision in self.decisions]
        self._top = self._preferred(self._options[1], "largest")
        self._bottom = self._preferred(self._options[2], "smallest")
        self._row_maps: dict[str, RowMap] = {}
        self._encoders: dict[str, Encoder] = {}

    # -- what it is --------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Exact number of distinct archs; float decisions count once."""
        return self._forest.size

    @cached_property
    def floats(self) -> int:
        """Number of float decisions."""
        return sum(decision.kind == "float" for decision in self.decisions)

    @cached_property
    def fingerprint(self) -> str:
        """32 hex characters over names, kinds, labels, bounds and activity: equal where genomes mean the same."""
        described = []
        for decision, entry in zip(self.decisions, self._described(), strict=True):
            point, group = decision.point, decision.point.group
            described.append(
                [
                    entry,
                    [repr(label) for label in decision.labels],
                    list(point.canonical),
                    [point.parent, sorted(point.allowed)],
                    [group.slots[0], group.distinct, group.sorted] if group else None,
                ]
            )
        text = json.dumps(described, sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def schema(self) -> dict[str, Any]:
        """What to store beside archs, so that their rows can be read when the space has changed; JSON-able."""
        return {
            "name": self.name,
            "version": self.version,
            "fingerprint": self.fingerprint,
            "decisions": self._described(),
        }

    def _described(self) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = []
        for decision in self.decisions:
            entry: dict[str, Any] = {"name": decision.name, "kind": decision.kind}
            if (range_ := decision.point.range) is not None:
                entry |= {"min": range_.low, "max": range_.high, "scale": range_.scale}
            else:
                entry["candidates"] = list(decision.labels)
            entries.append(entry)
        return entries

    def __repr__(self) -> str:
        return (
            f"Space({self.name!r}, version {self.version}, {len(self.decisions)} decisions, {_power(self.size)} archs)"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.value, self.name, self.version, *self._options)

    # -- archs -------------------------------------------------------------------------------------------------

    def arch(self, choices: Mapping[str, Any]) -> Arch:
        """The arch with these choices: decision name -> candidate, label, or float; inactive decisions left out.

        Raises:
            SpaceError: a name or value is not there, an active decision is missing, an inactive one given.
        """
        genome: list[Any] = []
        found = 0
        try:
            for name, lookup in zip(self.names, self._lookup, strict=True):
                if name in choices:
                    found += 1
                    genome.append(lookup[choices[name]])
                else:
                    genome.append(None)
        except (KeyError, TypeError):
            genome = [self._gene(d, choices[d.name]) if d.name in choices else None for d in self.decisions]
            found = sum(gene is not None for gene in genome)
        if found < len(choices):
            stranger = next(name for name in choices if name not in self._index)
            raise self._outside(choices, f"it has no decision {stranger!r}{suggest(str(stranger), self.names)}")
        if reason := self._fault(genome):
            raise self._outside(choices, reason)
        return Arch(self, tuple(genome))

    def from_genome(self, numbers: Sequence[Any]) -> Arch:
        """The arch of a genome: per decision the index of a candidate, a float, or None where it is inactive.

        Raises:
            SpaceError: it is not a genome of this space.
        """
        if len(numbers) != len(self.decisions):
            raise SpaceError(
                f"a genome of {len(numbers)} numbers does not fit space {self.name!r} of {len(self.decisions)} decisions"
            )
        genome = [None if x is None else self._number(d, x) for d, x in zip(self.decisions, numbers, strict=True)]
        if reason := self._fault(genome):
            raise SpaceError(f"genome {list(numbers)} is outside space {self.name!r}: {reason}")
        return Arch(self, tuple(genome))

    def repair(self, numbers: Sequence[Any]) -> Arch:
        """The arch of a full vector, a number for *every* decision: inactive ones are dropped, clashing slots moved.

        For optimisers that know no conditions and no `distinct`.

        Raises:
            SpaceError: a number is missing or is no candidate.
        """
        if len(numbers) != len(self.decisions) or any(number is None for number in numbers):
            raise SpaceError(f"space {self.name!r} needs a number for each of its {len(self.decisions)} decisions")
        full = [self._number(decision, number) for decision, number in zip(self.decisions, numbers, strict=True)]
        return Arch(self, tuple(self._forest.repair(full)))

    def why_not(self, choices: Mapping[str, Any]) -> str | None:
        """Why `choices` are no arch of this space, in one sentence; None when they are one."""
        try:
            self.arch(choices)
        except SpaceError as error:
            return str(error)
        return None

    def __contains__(self, choices: object) -> bool:
        if isinstance(choices, Arch):
            return choices.space.fingerprint == self.fingerprint
        return isinstance(choices, Mapping) and self.why_not(choices) is None

    def sample(self, rng: Random) -> Arch:
        """A random arch, uniform per decision."""
        return Arch(self, tuple(self._forest.sample(rng)))

    def mutate(self, arch: Arch, rng: Random, probability: float | None = None) -> Arch:
        """A different arch: one active decision changed, or each with `probability` but at least one.

        What becomes active is drawn.  Gives an equal arch only when the space has no other.
        """
        return Arch(self, tuple(self._forest.mutate(arch.genome, rng, probability)))

    def crossover(self, a: Arch, b: Arch, rng: Random) -> Arch:
        """An arch that takes each decision from `a` or `b`; slots that must be distinct or sorted from one of them."""
        return Arch(self, tuple(self._forest.crossover(a.genome, b.genome, rng)))

    def neighbours(self, arch: Arch) -> Iterator[Arch]:
        """Every arch that differs in one categorical decision; what that activates takes its first candidate."""
        return (Arch(self, tuple(genome)) for genome in self._forest.neighbours(arch.genome))

    def enumerate(self) -> Iterator[Arch]:
        """Every arch once, in lexicographic order.

        Raises:
            SpaceError: float decisions are open.
        """
        if self.floats:
            name = next(decision.name for decision in self.decisions if decision.kind == "float")
            raise SpaceError(f"space {self.name!r} cannot be enumerated: {name!r} is a float; use sample()")
        return (Arch(self, tuple(genome)) for genome in self._forest.enumerate())

    @cached_property
    def largest(self) -> Arch:
        """The arch with the largest candidate everywhere."""
        return Arch(self, tuple(self._forest.fill([None] * len(self.decisions), self._top)))

    @cached_property
    def smallest(self) -> Arch:
        """The arch with the smallest candidate everywhere."""
        return Arch(self, tuple(self._forest.fill([None] * len(self.decisions), self._bottom)))

    def covering(self) -> list[Arch]:
        """Archs in which every candidate of every decision occurs, everything else being largest; the largest first."""
        archs = [self.largest]
        covered = set(enumerate(self.largest.genome))
        for decision in self.decisions:
            for c in decision.point.distinct_candidates:
                if (decision.index, c) not in covered:
                    genome = self._forest.forced(self.largest.genome, decision.index, c, self._top)
                    covered.update(enumerate(genome))
                    archs.append(Arch(self, tuple(genome)))
        return archs

    # -- outside forms -----------------------------------------------------------------------------------------

    def features(self, archs: Sequence[Arch], kind: Kind = "onehot") -> Floats:
        """(n, d) numbers for a predictor.

        "onehot": a 0/1 column a candidate, a column scaled to [0, 1] a float; zeros where inactive.  "ordinal": a column a
        decision: rank of the candidate by magnitude, scaled to [0, 1]; -1 where inactive.
        """
        return self._encoder(kind)(archs)

    def feature_names(self, kind: Kind = "onehot") -> list[str]:
        """Names of the columns of `features`."""
        return list(self._encoder(kind).names)

    def _encoder(self, kind: Kind) -> Encoder:
        if kind not in self._encoders:
            self._encoders[kind] = Encoder(self.decisions, kind)
        return self._encoders[kind]

    def build(self, arch: Arch) -> Any:
        """The closed value; when it is a model function's call, what the function returns.

        Raises:
            SpaceError: the model function failed; its exception is the cause.
        """
        value = self._close(arch.genome)
        if not isinstance(value, pg.Functor):
            return value
        try:
            return value()
        except Exception as error:
            raise SpaceError(
                f"arch {arch.choices} of space {self.name!r} cannot be built: {type(error).__name__}: {error}"
            ) from error

    def to_dna(self, arch: Arch) -> pg.DNA:
        """The arch as PyGlove's DNA, with its spec."""
        genome = self._full(arch.genome)
        return pg.DNA.from_numbers(dna.to_numbers(self._node, genome), self._spec)

    def from_dna(self, value: pg.DNA) -> Arch:
        """The arch of a PyGlove DNA.

        Raises:
            SpaceError: the DNA is not of this space.
        """
        genome = dna.from_numbers(self._node, value.to_numbers(), len(self.decisions))
        active = self._forest.activity(genome)
        return self.from_genome([gene if on else None for gene, on in zip(genome, active, strict=True)])

    def from_row(self, numbers: Sequence[Any], schema: Mapping[str, Any] | None = None) -> Arch:
        """The arch of a stored row.

        Args:
            numbers: what `Arch.row` gave.
            schema: `schema()` of the space it was stored with.  Without it, or with this space's fingerprint, the row is
                trusted; otherwise it is mapped by decision names and labels.

        Raises:
            SpaceError: the row does not fit; names the decision.
        """
        if schema is None or schema.get("fingerprint") == self.fingerprint:
            return Arch(self, tuple(numbers))
        key = json.dumps(schema, sort_keys=True)
        if key not in self._row_maps:
            self._row_maps[key] = RowMap(self.decisions, schema)
        genome = self._row_maps[key].genome(numbers, self._forest.firsts)
        active = self._forest.activity(genome)
        return self.from_genome([gene if on else None for gene, on in zip(genome, active, strict=True)])

    def rows_to_archs(self, rows: Iterable[Sequence[Any]]) -> list[Arch]:
        """The archs of many rows of this very space, which are trusted."""
        return [Arch(self, genome) for genome in map(tuple, rows)]

    # -- inside ------------------------------------------------------------------------------------------------

    @cached_property
    def _spec(self) -> pg.DNASpec:
        return pg.dna_spec(self.value)

    def _choices(self, genome: Sequence[Any]) -> dict[str, Any]:
        return {
            d.name: d.labels[gene] if d.labels else gene
            for d, gene in zip(self.decisions, genome, strict=True)
            if gene is not None
        }

    def _full(self, genome: Sequence[Any]) -> list[Any]:
        """`genome` with the first candidate where `active_when` switched a decision off that the value still holds."""
        if not self._options[0]:
            return list(genome)
        return [first if gene is None else gene for gene, first in zip(genome, self._forest.firsts, strict=True)]

    def _close(self, genome: Sequence[Any]) -> Any:
        return self._node.close(self._full(genome))

    def _outside(self, choices: Mapping[str, Any], reason: str) -> SpaceError:
        return SpaceError(f"arch {short(dict(choices))} is outside space {self.name!r}: {reason}")

    def _gene(self, decision: Decision, value: Any) -> Any:
        """The gene of a value of a decision, or the value itself when it is none (`_fault` says why)."""
        if decision.kind == "float":
            return value + 0.0 if isinstance(value, int | float) and not isinstance(value, bool) else _Stranger(value)
        c = index_of(decision, value)
        return _Stranger(value) if c is None else c

    def _number(self, decision: Decision, number: Any) -> Any:
        if decision.kind == "float":
            return self._gene(decision, number)
        if isinstance(number, float) and number.is_integer():
            number = int(number)
        if isinstance(number, int) and 0 <= number < len(decision.labels):
            return decision.point.canonical[number]
        return _Stranger(number)

    def _fault(self, genome: Sequence[Any]) -> str | None:
        """Why a full-length list of genes is no genome, or None."""
        return next(self._faults(genome), None)

    def _faults(self, genome: Sequence[Any]) -> Iterator[str]:
        for decision, gene in zip(self.decisions, genome, strict=True):
            if isinstance(gene, _Stranger):
                yield f"{decision.name} is {_expected(decision)}, not {short(gene.value)}"
            elif decision.point.range and gene is not None:
                range_ = decision.point.range
                if not range_.low <= gene <= range_.high:
                    yield f"{decision.name} is {_expected(decision)}, not {gene}"
        for decision, gene, active in zip(self.decisions, genome, self._forest.activity(genome), strict=True):
            if active and gene is None:
                yield f"{decision.name} is missing; it is {_expected(decision)}"
            elif not active and gene is not None:
                yield f"{decision.name} is not active here; leave it out"
            elif active and (group := decision.point.group) and group.slots[0] == decision.index:
                values = [genome[slot] for slot in group.slots]
                if None not in values and (rule := group.fault(values)):
                    yield f"{decision.name.removesuffix('[0]')} {rule}"

    def _preferred(self, overrides: Mapping[str, Any], option: str) -> list[Any]:
        """For each point the value that is its extreme, as if everything were active."""
        top = option == "largest"
        preferred: list[Any] = []
        for decision in self.decisions:
            if decision.point.range:
                preferred.append(decision.point.range.high if top else decision.point.range.low)
            else:
                preferred.append(_ranked(decision, top)[0])
        for _, _, _, point, group in self._forest.units:
            if group:
                for slot, c in zip(group.slots, _best_slots(self.decisions[group.slots[0]], top), strict=True):
                    preferred[slot] = c
            del point
        for name, value in overrides.items():
            if name not in self._index:
                raise SpaceError(f"{option}= names {name!r}, which is no decision{suggest(name, self.names)}")
            decision = self.decisions[self._index[name]]
            gene = self._gene(decision, value)
            if isinstance(gene, _Stranger):
                raise SpaceError(f"{option}= gives {short(value)} for {name!r}, which is {_expected(decision)}")
            preferred[decision.index] = gene
        genome = self._forest.fill([None] * len(self.decisions), preferred)
        if reason := self._fault(genome):
            raise SpaceError(f"{option}= of space {self.name!r} is no arch: {reason}")
        return preferred


class _Stranger:
    """Stands in a genome for a value that is no candidate."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _Floats(dict[Any, Any]):
    """Lookup of a float decision: every float is itself; the range is checked later."""

    def __missing__(self, value: Any) -> float:
        if type(value) is float:
            return value + 0.0
        raise KeyError(value)


def _lookup(decision: Decision) -> dict[Any, Any]:
    """Label -> gene, where that is unambiguous; everything else takes the slow way."""
    if decision.kind == "float":
        return _Floats()
    labels = set(decision.labels)
    if len(labels) < len(decision.point.distinct_candidates):
        return {}  # 1 and True, say
    return dict(zip(decision.labels, decision.point.canonical, strict=True))


def _expected(decision: Decision) -> str:
    range_ = decision.point.range
    return f"a float from {range_.low} to {range_.high}" if range_ else f"one of {candidates_text(decision)}"


def _ranked(decision: Decision, top: bool) -> list[int]:
    """Different candidates, the most extreme first: ties go to the later when largest, to the earlier when smallest."""
    if top:
        return sorted(decision.point.distinct_candidates, key=lambda c: (decision.tops[c], c), reverse=True)
    return sorted(decision.point.distinct_candidates, key=lambda c: (decision.bottoms[c], c))


def _best_slots(decision: Decision, top: bool) -> list[int]:
    """The k most extreme candidates for the slots of a group, in the order of the candidates."""
    group = decision.point.group
    assert group is not None
    ranked = _ranked(decision, top)
    return sorted(ranked[: len(group.slots)]) if group.distinct else [ranked[0]] * len(group.slots)


def _symbolic(value: Any) -> Any:
    if isinstance(value, dict) and not isinstance(value, pg.Dict):
        return pg.Dict(value)
    if isinstance(value, list) and not isinstance(value, pg.List):
        return pg.List(value)
    return value


def _power(size: int) -> str:
    return str(size) if size < 10**6 else f"about 1e{len(str(size)) - 1}"


def _restore(value: Any, name: str, version: int, active_when: Any, largest: Any, smallest: Any) -> Space:
    return Space(value, name=name, version=version, active_when=active_when, largest=largest, smallest=smallest)


__all__ = ["Space", "nodes"]
