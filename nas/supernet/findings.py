"""What is suspicious about a supernet: `nas.check`.

Errors would give numbers that do not mean what they seem to; a supernet refuses them when it is made.  Notes cost a search time
or memory, and may be meant: a decision that an evaluator reads and the model does not, parameters for training only, a flat space
in which choices of layers that are not there make no difference.  They are told here and nowhere else.

Archs are those that a supernet is made from, and neighbours of a few others, drawn from a generator of the check's own: what is
found depends on the space only, unless time runs out, which is said.
"""

from __future__ import annotations

import html
import itertools
import random
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from nas.checking import Positive, checked
from nas.errors import Infeasible, LayoutError, SupernetError
from nas.space import Arch
from nas.supernet.inputs import Inputs, call, few_samples
from nas.supernet.proof import differs, prove, roles
from nas.supernet.sameness import fingerprint
from nas.supernet.skeleton import build_skeleton, quiet

if TYPE_CHECKING:
    import pandas as pd

    from nas.supernet.supernet import Supernet

DRAWN = 3
"""Archs drawn at random beside the largest and the smallest, whose neighbours are looked at."""
WHOLE = 64
"""Of a space of this size or below, every arch is looked at."""
SHOWN = 3
"""Names in a sentence, at most."""

Kind = Literal["roles", "axes", "unused", "same", "no effect"]


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Attributes:
        kind: "roles", parameters of one name in unlike roles; "axes", units that are mixed; "unused", parameters that the
            output does not depend on in evaluation mode; "same", archs that build the same module; "no effect", a decision
            that changes nothing about the module.
        severity: "error" or "note".
        decisions: names of the decisions in question.
        archs: what is chosen in archs concerned, otherwise than in the largest.
        parameters: names of the parameters concerned.
        says: a sentence.
        fix: what to do.
    """

    kind: Kind
    severity: Literal["error", "note"]
    says: str
    fix: str
    decisions: tuple[str, ...] = ()
    archs: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.severity}: {self.says}" + (f"; {self.fix}" if self.fix else "")


@dataclass(frozen=True)
class Findings:
    """What `nas.check` found, and what it did not look at; `str` shows it."""

    findings: tuple[Finding, ...]
    left_out: tuple[str, ...] = ()

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Those that a supernet refuses when it is made."""
        return tuple(each for each in self.findings if each.severity == "error")

    @property
    def table(self) -> pd.DataFrame:
        """A row for each finding: kind, severity, decisions, archs, parameters, says, fix."""
        import pandas as pd

        columns = ("kind", "severity", "decisions", "archs", "parameters", "says", "fix")
        rows = [[getattr(each, column) for column in columns] for each in self.findings]
        listed = [[", ".join(one) if isinstance(one, tuple) else one for one in row] for row in rows]
        return pd.DataFrame(listed, columns=list(columns))

    def __str__(self) -> str:
        return "\n".join(
            [*map(str, self.findings or ["nothing found"]), *(f"not looked at: {one}" for one in self.left_out)]
        )

    def _repr_html_(self) -> str:
        rest = "".join(f"<p>not looked at: {html.escape(one)}</p>" for one in self.left_out)
        table = self.table.to_html(index=False) if self.findings else "<p>nothing found</p>"
        return f"{table}{rest}"


@checked(SupernetError)
def check(supernet: Supernet, *, example: Inputs | None = None, seconds: Positive = 10.0) -> Findings:
    """Look for what is suspicious: shared names in unlike roles, mixed units, and choices and parameters without effect.

    What a supernet refuses when it is made is looked at again, for one made with check=False or without an example.

    Args:
        supernet: left alone.
        example: inputs to call subnets with, instead of the supernet's own; without any, only modules are looked at.
        seconds: after which no further arch is looked at; 10 are enough for spaces whose archs are built in 10 ms.

    Returns:
        Findings, errors first.

    Raises:
        SupernetError: an argument is not what it should be.
    """
    inputs = supernet.example if example is None else example
    looking = _Looking(supernet, time.monotonic() + seconds)
    found = list(looking.roles())
    if inputs is None:
        looking.left_out.append("how subnets are called, and unused parameters: there is no example")
    else:
        inputs = few_samples(inputs)
        found += looking.axes(inputs) if not found else []
        found += looking.unused(inputs)
    found += looking.effects()
    return Findings(tuple(found), tuple(looking.left_out))


class _Looking:
    """One check; `left_out` says what was not looked at."""

    def __init__(self, supernet: Supernet, until: float) -> None:
        self.supernet, self.space, self.union = supernet, supernet.space, supernet._shared.union
        self.until = until
        self.left_out: list[str] = []
        self._seen: dict[Arch, str | None] = {}

    def _is_late(self) -> bool:
        return time.monotonic() > self.until

    def _short(self, arch: Arch) -> str:
        return differs(self.space.largest, arch) or "the largest"

    def roles(self) -> Iterator[Finding]:
        """The first; others follow from it, mostly."""
        for one in itertools.islice(roles(self.space, self.union), 1):
            choices = differs(self.space.largest, one.arch)
            says, _, fix = f"in archs with {choices}, {one.says}".partition("; ")
            yield Finding("roles", "error", says, fix, _decisions(choices), (choices,), one.parameters)

    def axes(self, inputs: Inputs) -> list[Finding]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are among the verdicts
            try:
                proof = prove(self.space, self.union, inputs)
            except LayoutError as error:
                says, _, fix = str(error).partition("; ")
                return [Finding("roles" if "gives the output" in says else "axes", "error", says, fix)]
        return [
            Finding("axes", "note", "; ".join(one.reasons), "", _decisions(one.choices), (one.choices,))
            for one in proof.verdicts
            if one.state == "mixed"
        ]

    # -- parameters

    def unused(self, inputs: Inputs) -> Iterator[Finding]:
        """Parameters that no output depends on, in no arch that a supernet is made from."""
        left = {name for name in self.union.shapes if name not in self.union.buffers}
        for arch, shapes in self.union.archs:
            if left.isdisjoint(shapes):
                continue
            if self._is_late():
                self.left_out.append("unused parameters: no time left")
                return
            used = self._used(arch, inputs)
            if used is None:
                self.left_out.append(
                    f"unused parameters: the network of {self._short(arch)} gives nothing differentiable"
                )
                return
            left -= used
        if left:
            names = tuple(sorted(left))
            yield Finding(
                "unused",
                "note",
                f"in evaluation mode no output depends on {_listed(names)} in any of {len(self.union.archs)} archs",
                "remove what is never called from the model, unless it is there for training only",
                parameters=names,
            )

    def _used(self, arch: Arch, inputs: Inputs) -> set[str] | None:
        """Canonical names of parameters that the output depends on; None where that cannot be told."""
        try:
            with quiet(0), warnings.catch_warnings(), torch.enable_grad():
                warnings.simplefilter("ignore")
                module = self.supernet.extract(arch)
                named = {
                    name: one.requires_grad_()
                    for name, one in module.named_parameters()
                    if one.is_floating_point() and name in self.union.ties
                }
                leaves = [one for one in tree_leaves(call(module, inputs)) if isinstance(one, Tensor)]
                total = sum(one.sum() for one in leaves if one.requires_grad)
                if not isinstance(total, Tensor):
                    return None
                gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
        except Exception:  # of any kind: it is the model's own code, which may need more than an example
            return None
        return {self.union.ties[name] for name, one in zip(named, gradients, strict=True) if one is not None}

    # -- decisions

    def effects(self) -> Iterator[Finding]:
        """Decisions that change nothing about the module, and other archs that build the same one."""
        idle = self._idle()
        for name in idle:
            yield Finding(
                "no effect",
                "note",
                f"decision {name!r} changes nothing about the module, whatever else is chosen",
                "remove it from the space, or let the model read it, unless an evaluator does",
                decisions=(name,),
            )
        if self.space.size <= WHOLE:
            for arch in self.space.enumerate():
                if self._is_late():
                    self.left_out.append("whether more archs build the same module: no time left")
                    break
                self._of(arch)
        groups: dict[str, list[Arch]] = defaultdict(list)
        for arch, print_ in self._seen.items():
            if print_ is not None:
                groups[print_].append(arch)
        yield from self._same([group for group in groups.values() if len(group) > 1], set(idle))

    def _idle(self) -> list[str]:
        """Decisions that were tried in every context and changed nothing."""
        tried: dict[str, bool] = {}
        generator = random.Random(0)
        contexts = [self.space.largest, self.space.smallest, *(self.space.sample(generator) for _ in range(DRAWN))]
        for context in dict.fromkeys(contexts):
            here = self._of(context)
            for other in self.space.neighbours(context) if here is not None else ():
                name = _first_difference(context, other)
                if tried.get(name):
                    continue
                if self._is_late():
                    self.left_out.append("effects of decisions: no time left")
                    return []
                there = self._of(other)
                tried[name] = there is None or there != here
        return [name for name, changes in tried.items() if not changes]

    def _of(self, arch: Arch) -> str | None:
        """Fingerprint of the module; None of one that cannot be built."""
        if arch not in self._seen:
            try:
                self._seen[arch] = fingerprint(build_skeleton(self.space, arch))
            except Infeasible:
                self._seen[arch] = None
        return self._seen[arch]

    def _same(self, groups: Sequence[Sequence[Arch]], idle: set[str]) -> Iterator[Finding]:
        """One finding for each set of decisions that does not matter in some archs."""
        found: dict[tuple[str, ...], list[tuple[Arch, Arch]]] = defaultdict(list)
        for first, *others in groups:
            for other in others:
                names = {*first.choices, *other.choices}
                unlike = (name for name in names if first.choices.get(name, ...) != other.choices.get(name, ...))
                decisions = tuple(sorted(name for name in unlike if name not in idle))
                if decisions:
                    found[decisions].append((first, other))
        for decisions, pairs in sorted(found.items(), key=lambda one: (len(one[0]), one[0])):
            archs = tuple(self._short(arch) for arch in pairs[0])
            more = f" (and {len(pairs) - 1} more pairs that differ in {_listed(decisions)})" if len(pairs) > 1 else ""
            yield Finding(
                "same",
                "note",
                f"the archs of {archs[0]} and of {archs[1]} build the same module{more}",
                "a search evaluates it more than once; make what does not matter conditional, or forbid it with a rule",
                decisions=decisions,
                archs=archs,
            )


def _first_difference(one: Arch, other: Arch) -> str:
    """The decision in which a neighbour differs; what that activates comes after it."""
    theirs = other.choices
    return next(name for name, value in one.choices.items() if theirs.get(name, ...) != value)


def _decisions(choices: str) -> tuple[str, ...]:
    return tuple(one.split("=")[0] for one in choices.split(", "))


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:SHOWN]))
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
