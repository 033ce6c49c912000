"""`Space`: a symbolic value with open choices, compiled once into flat tables."""

from __future__ import annotations

import gc
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from random import Random
from typing import Any

import pyglove as pg

from nas.checking import checked, is_number, plain_scalar
from nas.errors import Infeasible, SpaceError
from nas.space import dna, nodes
from nas.space.activity import Conditions, apply_conditions
from nas.space.arch import Arch
from nas.space.checking import Checker
from nas.space.compiling import Decision, compile_value
from nas.space.describing import Description
from nas.space.extremes import covering, preferred
from nas.space.features import Encoder, Floats, Kind
from nas.space.forest import Forest
from nas.space.labels import is_scalar, short
from nas.space.model import uncalled
from nas.space.restricting import COUNTABLE, LOOKS, TRIES, Genome, Rule, drawn, nearest, ranks_of
from nas.space.rows import RowMap, differences
from nas.space.scalars import with_plain_scalars
from nas.space.template import Keys
from nas.text import facts


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
            Numbers of numpy's become Python's of the same value (`np.float32(0.1)` is 0.10000000149011612).
        name: how errors and databases call it; the model function's name by default.
        version: a number of your own, stored with every arch.
        active_when: for flat spellings: decision-name prefix -> (decision, values): active only when that decision has one
            of these values.
        largest: decision name -> value that counts as its largest, where the default (magnitude) is not what you mean.
        smallest: the same for the smallest.
        where: a function of an arch's choices (inactive decisions left out) that says whether it is one: `lambda c: c["width"] %
            c["heads"] == 0`.  What it refuses is not drawn, listed, counted or proposed.

    Raises:
        SpaceError: the value cannot be compiled, or an option names something that is not there.
    """

    @checked(SpaceError)
    def __init__(
        self,
        value: Any,
        *,
        name: str | None = None,
        version: int = 1,
        active_when: Conditions | None = None,
        largest: Mapping[str, Any] | None = None,
        smallest: Mapping[str, Any] | None = None,
        where: Callable[[dict[str, Any]], bool] | None = None,
    ) -> None:
        self.value = with_plain_scalars(_symbolic(value))
        self.name = name if name is not None else (type(value).__name__ if isinstance(value, pg.Functor) else "space")
        self.version = version
        self._options = (dict(active_when or {}), dict(largest or {}), dict(smallest or {}), where)
        self.rules: tuple[Rule, ...] = ()  # what `restricted` was given, beside `where`
        compiled = compile_value(self.value)
        apply_conditions(compiled.decisions, self._options[0])
        self.decisions: tuple[Decision, ...] = tuple(compiled.decisions)
        self.names: tuple[str, ...] = tuple(decision.name for decision in self.decisions)
        self._node = compiled.node
        self._derived = compiled.derived
        self._direct = None if compiled.derived else nodes.direct_call(compiled.node)
        self._forest = Forest([decision.point for decision in self.decisions])
        self._checker = Checker(self.decisions, self._forest)
        self._top = preferred(self._checker, self._options[1], "largest")
        self._bottom = preferred(self._checker, self._options[2], "smallest")
        self._row_maps: dict[str, RowMap] = {}
        self._encoders: dict[str, Encoder] = {}

    # -- what it is --------------------------------------------------------------------------------------------

    @cached_property
    def size(self) -> int:
        """Exact number of distinct archs; float decisions count once.

        With `where` it is exact up to 20,000 archs without it, and beyond that the number without it.
        """
        whole = self._forest.size
        if not self._is_ruled or self.floats or whole > COUNTABLE:
            return whole
        return sum(1 for _ in self.enumerate())

    @property
    def shown_size(self) -> str:
        """`size` in a few characters: exact below a million, then its power of ten.  Python writes no number of any length."""
        return str(self.size) if self.size < 10**6 else f"about 1e{int(math.log10(self.size))}"

    @cached_property
    def floats(self) -> int:
        """Number of float decisions."""
        return sum(decision.kind == "float" for decision in self.decisions)

    @property
    def plain(self) -> tuple[int, ...] | None:
        """Number of candidates of each decision where all are independent choices, none equal, and no rule forbids archs."""
        return None if self._is_ruled else self._forest.plain

    @cached_property
    def fingerprint(self) -> str:
        """32 hex characters over decisions, candidates, fixed parts and activity: equal where genomes mean the same archs."""
        return _digest([self._structure(), self._description.tree])

    @cached_property
    def code(self) -> dict[str, dict[str, str]]:
        """What the user's classes and functions in it do, by name, for `nas.identity.recoded`: no part of the fingerprint."""
        return self._description.code()

    @cached_property
    def labels_fingerprint(self) -> str:
        """What version 0.1 recorded as the fingerprint: decisions, labels and activity, and nothing of what is fixed."""
        return _digest(self._structure())

    def has_fingerprint(self, recorded: Any) -> bool:
        """Whether something recorded is of this space, as far as that was recorded.

        Version 0.1 recorded it without what is fixed.  A file that was started, run as a job or imported is another module each
        time: its model functions are the same ones whichever of these names was recorded.
        """
        return recorded in (self.fingerprint, self.labels_fingerprint) or recorded in self._fingerprints_elsewhere

    def restated(self, recorded: Any) -> Any:
        """Recorded JSON with this space's fingerprint wherever it has one that `has_fingerprint` takes for it."""
        if isinstance(recorded, Mapping):
            return {name: self.restated(item) for name, item in recorded.items()}
        if isinstance(recorded, list):
            return [self.restated(item) for item in recorded]
        is_one = isinstance(recorded, str) and len(recorded) == len(self.fingerprint) and self.has_fingerprint(recorded)
        return self.fingerprint if is_one else recorded

    @cached_property
    def _fingerprints_elsewhere(self) -> frozenset[str]:
        structure = self._structure()
        return frozenset(_digest([structure, tree]) for tree in self._description.elsewhere())

    def _structure(self) -> list[Any]:
        described = []
        for decision, entry in zip(self.decisions, self._described(), strict=True):
            point, group = decision.point, decision.point.group
            described.append(
                [
                    entry,
                    list(point.canonical),
                    [point.parent, sorted(point.allowed)],
                    [group.slots[0], group.distinct, group.sorted] if group else None,
                ]
            )
        return described

    @cached_property
    def _description(self) -> Description:
        return Description(self._node)

    @cached_property
    def _key_of(self) -> Keys:
        return Keys(self._description.tree)

    def schema(self) -> dict[str, Any]:
        """What to store beside archs, so that their rows can be read when the space has changed; JSON-able.

        `value` is the whole space as `nas.space.template` describes it, `sources` digests of the user's own classes in it.
        """
        return {
            "name": self.name,
            "version": self.version,
            "fingerprint": self.fingerprint,
            "decisions": self._described(),
            "value": self._description.tree,
            "sources": self._description.sources(),
            # What a decision that `active_when` switches off is built with.
            **({"firsts": list(self._forest.firsts)} if self._options[0] else {}),
        }

    def changes(self, schema: Mapping[str, Any]) -> list[str]:
        """How this space differs from the one with a stored schema, a phrase for each difference.

        Raises:
            SpaceError: `schema` is none.
        """
        return differences(schema, self.schema())

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
        return f"Space({self.name!r}, version {self.version}, {len(self.decisions)} decisions, {self.shown_size} archs)"

    def _repr_html_(self) -> str:
        shown = {decision.name: _candidates(decision) for decision in self.decisions[:_SHOWN]}
        if len(self.decisions) > _SHOWN:
            shown["…"] = f"{len(self.decisions) - _SHOWN} decisions more"
        return facts(f"{self.name}: {self.shown_size} archs, {len(self.decisions)} decisions", shown)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.value, self.name, self.version, self._options, self.rules)

    # -- archs -------------------------------------------------------------------------------------------------

    def arch(self, choices: Mapping[str, Any]) -> Arch:
        """The arch with these choices: decision name -> candidate, label, or float; inactive decisions left out.

        Raises:
            SpaceError: a name or value is not there, an active decision is missing, an inactive one given.
        """
        if not isinstance(choices, Mapping):
            raise SpaceError(f"an arch of space {self.name!r} is given by a dict of choices, not {short(choices)}")
        try:
            arch = Arch(self, tuple(self._checker.from_choices(choices)))
        except SpaceError as error:
            raise SpaceError(f"arch {_shown(choices)} is outside space {self.name!r}: {error}") from None
        if not self._is_where(arch):
            raise SpaceError(f"arch {_shown(choices)} is outside space {self.name!r}: its where= refuses it")
        return arch

    def from_genome(self, numbers: Sequence[Any]) -> Arch:
        """The arch of a genome: per decision the index of a candidate, a float, or None where it is inactive.

        Raises:
            SpaceError: it is not a genome of this space.
        """
        try:
            return Arch(self, tuple(self._checker.from_numbers(numbers)))
        except SpaceError as error:
            raise SpaceError(f"genome {_shown(list(numbers))} is outside space {self.name!r}: {error}") from None

    def repair(self, numbers: Sequence[Any]) -> Arch:
        """The arch of a full vector, a number for *every* decision, for optimisers that know no conditions and no `distinct`.

        Inactive numbers are dropped, those beyond the bounds clipped, fractions of an index cut off, and of slots that must
        differ the later ones take the first unused candidates.

        Raises:
            SpaceError: a number is missing, or NaN.
        """
        plain = [plain_scalar(number) for number in numbers]
        if len(plain) != len(self.decisions) or not all(is_number(n) and not math.isnan(n) for n in plain):
            raise SpaceError(f"space {self.name!r} needs a number for each of its {len(self.decisions)} decisions")
        genes = [
            min(max(number, d.point.range.low), d.point.range.high) + 0.0
            if d.point.range
            else d.point.canonical[int(min(max(number, 0), len(d.labels) - 1))]
            for d, number in zip(self.decisions, plain, strict=True)
        ]
        return Arch(self, tuple(self._forest.repair(genes)))

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

    def allows(self, arch: Arch) -> bool:
        """Whether no rule forbids an arch of this space: `where`, or that of `restricted`."""
        return self._is_where(arch) and all(rule(arch) for rule in self.rules)

    @property
    def _is_ruled(self) -> bool:
        return bool(self.rules) or self._options[3] is not None

    def restricted(self, allows: Rule) -> Space:
        """This space without the archs that `allows` refuses, where only building tells; archs of one are archs of the other.

        Args:
            allows: a function of an arch, of this or the new space; it must pickle where the space travels to other processes.
        """
        return _restore(self.value, self.name, self.version, self._options, (*self.rules, allows))

    def including(self, smaller: Space) -> Space:
        """This space with the choices of a smaller one, too, where what is open in it is more than its value says; itself."""
        del smaller
        return self

    def _is_where(self, arch: Arch) -> bool:
        where = self._options[3]
        if where is None:
            return True
        try:
            return bool(where(arch.choices))
        except Exception as error:
            raise SpaceError(
                f"where= of space {self.name!r} failed on arch {_shown(arch.choices)} ({type(error).__name__}: {error}); "
                "inactive decisions are left out of the choices"
            ) from error

    def _drawn(self, draw: Callable[[], Genome]) -> Arch:
        """What `draw` gives, drawn again while a rule forbids it.

        Raises:
            SpaceError: 1,000 times.
        """
        if not self._is_ruled:
            return Arch(self, tuple(draw()))
        return drawn(lambda: Arch(self, tuple(draw())), self.allows, f"space {self.name!r}")

    def sample(self, rng: Random) -> Arch:
        """A random arch, uniform per decision, among those that no rule forbids.

        Raises:
            SpaceError: none of 1,000 is allowed.
        """
        return self._drawn(lambda: self._forest.sample(rng))

    def mutate(self, arch: Arch, rng: Random, probability: float | None = None) -> Arch:
        """A different arch: one active decision changed, or each with `probability` but at least one.

        What becomes active is drawn.  Gives an equal arch only when the space has no other.

        Raises:
            SpaceError: `probability` is no probability.
        """
        if probability is not None and not 0.0 <= probability <= 1.0:
            raise SpaceError(f"mutation probability {probability} is not within 0 and 1")
        genome = self._own(arch)
        if not self._is_ruled:
            return Arch(self, tuple(self._forest.mutate(genome, rng, probability)))
        for _ in range(TRIES):
            mutant = Arch(self, tuple(self._forest.mutate(genome, rng, probability)))
            if self.allows(mutant):
                return mutant
        return self.sample(rng)

    def regrow(self, arch: Arch, rng: Random) -> Arch:
        """A different arch: one active decision, uniformly chosen, is sampled anew with all decisions that hang on it.

        `mutate` keeps what hangs on a changed decision wherever both candidates have it; in a grammar, where every production has
        the same children, that is nearly everything.  Gives an equal arch only when the space has no other.
        """
        genome = self._own(arch)
        if not self._is_ruled:
            return Arch(self, tuple(self._forest.regrow(genome, rng)))
        for _ in range(TRIES):
            grown = Arch(self, tuple(self._forest.regrow(genome, rng)))
            if self.allows(grown):
                return grown
        return self.sample(rng)

    def crossover(self, a: Arch, b: Arch, rng: Random) -> Arch:
        """An arch that takes each decision from `a` or `b`; slots that must be distinct or sorted from one of them."""
        first, second = self._own(a), self._own(b)
        for _ in range(TRIES if self._is_ruled else 1):
            child = Arch(self, tuple(self._forest.crossover(first, second, rng)))
            if self.allows(child):
                return child
        return a

    def neighbours(self, arch: Arch) -> Iterator[Arch]:
        """Every arch that differs in one categorical decision; what that activates takes its first candidate."""
        near = (Arch(self, tuple(genome)) for genome in self._forest.neighbours(self._own(arch)))
        return filter(self.allows, near)

    def default(self, decision: int) -> Any:
        """What a decision takes that becomes active when the largest archs are made: candidate or float."""
        return self._top[decision]

    def replaced(self, arch: Arch, decision: int, gene: Any) -> Arch | None:
        """The arch with another candidate (or float) in one decision; what that activates has its largest candidate.

        Where `arch` does not have the decision, those that control it change, too; where slots must be distinct or sorted, other
        slots.

        Args:
            arch: of this space.
            decision: index of the decision.
            gene: index of the candidate, or a float.

        Returns:
            None when no arch has it or a rule forbids it.
        """
        genome = self._forest.forced(self._own(arch), decision, gene, self._top)
        found = None if genome is None else Arch(self, tuple(genome))
        return found if found is not None and self.allows(found) else None

    def enumerate(self) -> Iterator[Arch]:
        """Every arch once, in lexicographic order.

        Raises:
            SpaceError: float decisions are open.
        """
        if self.floats:
            name = next(decision.name for decision in self.decisions if decision.kind == "float")
            raise SpaceError(f"space {self.name!r} cannot be enumerated: {name!r} is a float; use sample()")
        return filter(self.allows, (Arch(self, tuple(genome)) for genome in self._forest.enumerate()))

    @cached_property
    def largest(self) -> Arch:
        """The arch with the largest candidate everywhere; where a rule forbids it, the fewest steps down from it.

        Raises:
            SpaceError: no allowed arch was found near it.
        """
        return self._extreme(self._top, top=True)

    @cached_property
    def smallest(self) -> Arch:
        """The arch with the smallest candidate everywhere; where a rule forbids it, the fewest steps up from it.

        Raises:
            SpaceError: no allowed arch was found near it.
        """
        return self._extreme(self._bottom, top=False)

    def _extreme(self, preferred: Sequence[Any], *, top: bool) -> Arch:
        found = self._nearest(self._forest.fill([None] * len(self.decisions), preferred), preferred, top=top)
        if found is None:
            raise SpaceError(
                f"none of the {LOOKS:,} archs of space {self.name!r} that were looked at is allowed; loosen where=, or write the "
                "choices so that more are"
            )
        return Arch(self, tuple(found))

    def _nearest(
        self, start: Sequence[Any], preferred: Sequence[Any], *, top: bool, fixed: int | None = None
    ) -> Genome | None:
        """The allowed genome closest to an extreme; `start` itself where there is no rule."""
        if not self._is_ruled:
            return list(start)
        ranks = ranks_of(self.decisions, preferred, top=top)
        return nearest(
            start, ranks, self._forest, preferred, lambda one: self.allows(Arch(self, tuple(one))), fixed=fixed
        )

    def covering(self) -> list[Arch]:
        """Archs in which every candidate of every decision occurs, everything else being largest; the largest first.

        Candidates that no allowed arch was found with are left out.
        """

        def settle(genome: Genome, p: int) -> Genome | None:
            return self._nearest(genome, self._top, top=True, fixed=p)

        genomes = covering(self.decisions, self._checker, self.largest.genome, self._top, settle)
        return [Arch(self, tuple(genome)) for genome in genomes]

    def representatives(self) -> list[Arch]:
        """Archs from which a supernet learns what it holds: the `covering` ones, of a space that tells nothing else of itself."""
        return self.covering()

    # -- outside forms -----------------------------------------------------------------------------------------

    def features(self, archs: Sequence[Arch], kind: Kind = "onehot") -> Floats:
        """(n, d) numbers for a predictor.

        "onehot": a 0/1 column a candidate, a column scaled to [0, 1] a float; zeros where inactive.  "ordinal": a column a
        decision: rank of the candidate by magnitude, scaled to [0, 1]; -1 where inactive.
        """
        return self._encoder(kind)([self._own(arch) for arch in archs])

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
            Infeasible: as the model function raised it.
        """
        genome = self._own(arch)
        try:
            if self._direct is not None:
                return self._direct(self._full(genome))
            value = self._close(genome)
            return value() if isinstance(value, pg.Functor) else value
        except Infeasible:
            raise
        except Exception as error:
            raise SpaceError(
                f"arch {_shown(arch.choices)} of space {self.name!r} cannot be built: {type(error).__name__}: {error}"
                f"{uncalled(error)}"
            ) from error

    @cached_property
    def dna_spec(self) -> pg.DNASpec:
        """PyGlove's specification of the space, made when it is first asked for: 0.1-0.4 s for 40 decisions."""
        return pg.dna_spec(self.value)

    def to_dna(self, arch: Arch) -> pg.DNA:
        """The arch as PyGlove's DNA, with its spec."""
        genome = self._full(self._own(arch))
        return pg.DNA.from_numbers(dna.to_numbers(self._node, genome), self.dna_spec)

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
                trusted; otherwise it is found by what it closes to.

        Raises:
            SpaceError: the row does not fit; names the decision.
        """
        if schema is None or schema.get("fingerprint") == self.fingerprint:
            return Arch(self, tuple(numbers))
        key = schema.get("fingerprint") or json.dumps(schema, sort_keys=True)
        if key not in self._row_maps:
            self._row_maps[key] = RowMap(self.decisions, schema, self.schema())
        genome = self._row_maps[key].genome(numbers)
        active = self._forest.activity(genome)
        return self.from_genome([gene if on else None for gene, on in zip(genome, active, strict=True)])

    def rows_to_archs(self, rows: Iterable[Sequence[Any]]) -> list[Arch]:
        """The archs of many rows of this very space, which are trusted."""
        # 100,000 archs are 100,000 objects for the garbage collector, which would walk them again and again (5 times slower).
        collecting = gc.isenabled()
        gc.disable()
        try:
            return [Arch(self, genome) for genome in map(tuple, rows)]
        finally:
            if collecting:
                gc.enable()

    # -- inside ------------------------------------------------------------------------------------------------

    def _own(self, arch: Arch) -> tuple[Any, ...]:
        """The genome of an arch of this space, or of one with the same fingerprint.

        Raises:
            SpaceError: it is of another space.
        """
        if arch._space is not self and arch._space.fingerprint != self.fingerprint:
            raise SpaceError(
                f"{arch!r} is of space {arch._space.name!r}, not of {self.name!r}; make it with this space"
            )
        return arch._genome

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
        value = self._node.close(self._full(genome))
        # References to other parts of the value can only be followed once those are closed.
        return pg.template(value).decode(pg.DNA(None)) if self._derived else value


def _symbolic(value: Any) -> Any:
    try:
        if isinstance(value, dict) and not isinstance(value, pg.Dict):
            return pg.Dict(value)
        if isinstance(value, list) and not isinstance(value, pg.List):
            return pg.List(value)
    except (KeyError, TypeError, ValueError) as error:
        raise SpaceError(f"PyGlove takes no such value of a space ({type(error).__name__}: {error})") from None
    return value


def _shown(value: Any) -> str:
    """A value as Python writes it, cut to a length that fits a message."""
    if isinstance(value, Mapping):
        items = (f"{key!r}: {item!r}" if is_scalar(item) else f"{key!r}: {short(item)}" for key, item in value.items())
        text = "{" + ", ".join(items) + "}"
    else:
        text = repr(value)
    return text if len(text) <= 300 else text[:297] + "..."


def _digest(described: Any) -> str:
    text = json.dumps(described, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _restore(
    value: Any, name: str, version: int, options: tuple[Any, Any, Any, Any], rules: tuple[Rule, ...] = ()
) -> Space:
    active_when, largest, smallest, where = options
    space = Space(
        value, name=name, version=version, active_when=active_when, largest=largest, smallest=smallest, where=where
    )
    space.rules = rules
    return space


_SHOWN = 40  # decisions of a space in a notebook


def _candidates(decision: Decision) -> str:
    range_ = decision.point.range
    if range_ is not None:
        return f"{range_.low:g} to {range_.high:g}"
    labels = [str(label) for label in decision.labels]
    return ", ".join(labels[:12]) + (f", … ({len(labels)})" if len(labels) > 12 else "")
