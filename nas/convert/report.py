"""What a conversion found: what is elastic, what stays whole and why, and how it was proved.

print(space.report)             # text
space.report.table              # a DataFrame, a row for each decision, unit and axis that stays whole
space.report.html               # a page of its own, which notebooks show; `nas elastic JOB --html FILE` writes it
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from torch import nn

from nas.convert.plan import Plan
from nas.convert.resize import named_axes
from nas.convert.spelling import keep, spelled
from nas.supernet import parts
from nas.supernet.skeleton import parameters_of

if TYPE_CHECKING:
    import pandas as pd

Reason: TypeAlias = Literal[
    "model output",
    "model input",
    "vocabulary",
    "softmax",
    "mean",
    "attention keys",
    "kernel",
    "constant",
    "joined with a rigid axis",
    "class arithmetic",
    "unknown op",
    "proof failed",
    "excluded",
    "unused",
    "small",
]

EXPLAINED: Mapping[str, str] = {
    "model output": "is what the model gives, whose form is not to change",
    "model input": "is what the model is given",
    "vocabulary": "is looked up by index",
    "softmax": "is normalised over, where zeros count",
    "mean": "is averaged over, or its maximum is taken, where zeros count; soft=True cuts it all the same",
    "attention keys": "is what attention is normalised over, where zeros count",
    "kernel": "is a place in a kernel or an image",
    "constant": "meets a constant",
    "joined with a rigid axis": "has to be as long as another axis that stays whole",
    "class arithmetic": "is computed by the class in a way that leaves no smaller size",
    "unknown op": "goes through an operation that no rule is known for, or none that fits its shapes",
    "proof failed": "was cut, and the model then computed something else",
    "excluded": "was to stay whole",
    "unused": "is not used for the example",
    "small": "has no smaller size within width= and granule=",
}
MOST_ROWS = 40
"""Rows of each kind that the text has; the table has all."""


@dataclass(frozen=True)
class Kept:
    """An axis, or several for one cause, that stays whole.

    Attributes:
        tensor: one of the parameters that it is an axis of.
        size: its length.
        reason: the first cause.
        op: operation that asked for it; "" where none did.
        module: path of the module that called it.
        params: numbers in parameters that would otherwise be cut.
    """

    tensor: str
    size: int
    reason: str
    op: str = ""
    module: str = ""
    params: int = 0


@dataclass(frozen=True)
class Fixed:
    """A module that could be thought of as a unit of depth, and why it cannot be left out."""

    name: str
    why: str


@dataclass(frozen=True)
class Proof:
    """Something that was proved by computing it twice.

    Attributes:
        what: in words: "every atom renumbered", …
        error: the largest difference, relative to the largest value.
        count: of comparisons.
    """

    what: str
    error: float
    count: int = 1


@dataclass(frozen=True)
class Part:
    """Parameters of one module, by what becomes of them.

    Attributes:
        module: its path.
        least: numbers that every arch has, of parameters that a decision cuts.
        elastic: numbers that archs need not have.
        held: numbers in parameters of which an axis stays whole that could be thought of as elastic.
        whole: all others.
    """

    module: str
    least: int
    elastic: int
    held: int
    whole: int

    @property
    def params(self) -> int:
        """All of them."""
        return self.least + self.elastic + self.held + self.whole


@dataclass(frozen=True)
class Row:
    """A decision, with the numbers that it governs."""

    name: str
    kind: str
    size: int
    choices: tuple[int, ...]
    params: int


@dataclass(frozen=True)
class Report:
    """See the module's text; `describe` makes one.

    Attributes:
        model: name of its class.
        params: numbers in all parameters, tied ones once.
        rows: decisions.
        units: modules that can be left out, each by a decision of its own -> numbers in their parameters.
        kept: what stays whole, the largest first.
        fixed: modules that look like units, and cannot be left out.
        parts: of the model, from its front to its back.
        execution: "class" or "graph": what archs are made of.
        because: why it is the graph.
        proofs: what was computed twice; none with check=False.
        seconds: of each stage.
        notes: further sentences.
        skipped: proofs that were not made though they were asked for -> why.
    """

    model: str
    params: int
    rows: tuple[Row, ...]
    units: Mapping[str, int]
    kept: tuple[Kept, ...] = ()
    fixed: tuple[Fixed, ...] = ()
    parts: tuple[Part, ...] = ()
    execution: Literal["class", "graph"] = "class"
    because: str = ""
    proofs: tuple[Proof, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def elastic(self) -> int:
        """Numbers that the smallest arch has not, units that are left out not counted."""
        return sum(part.elastic for part in self.parts)

    def __str__(self) -> str:
        return "\n".join(
            [self._head(), *self._decided(), *self._left_out(), *self._whole(), *self._proved(), *self.notes]
        )

    def _head(self) -> str:
        share = f"{self.elastic:,} of {self.params:,} parameters are elastic ({_percent(self.elastic, self.params)})"
        told = (
            f"{self.model}: {_count(len(self.rows), 'decision')}, {_count(len(self.units), 'unit')} of depth; {share}"
        )
        return told + (f"; archs are captured graphs, because {self.because}" if self.execution == "graph" else "")

    def _decided(self) -> list[str]:
        rows = [
            (row.name, row.kind, str(row.size), ", ".join(map(str, row.choices)), f"{row.params:,}")
            for row in self.rows
        ]
        return _listed("decisions", ("name", "kind", "size", "choices", "parameters"), rows, "<<><>")

    def _left_out(self) -> list[str]:
        rows = [(keep(name), f"{params:,}") for name, params in self.units.items()]
        never = [(spelled(each.name), each.why) for each in self.fixed]
        return [
            *_listed("depth", ("name", "parameters"), rows, "<>"),
            *_listed("not to be left out", ("name", "because"), never, "<<"),
        ]

    def _whole(self) -> list[str]:
        """A row for each reason and operation, the one that keeps most first."""
        groups: dict[tuple[str, str], list[Kept]] = {}
        for each in self.kept:
            groups.setdefault((each.reason, each.op), []).append(each)
        rows = []
        for (reason, op), all_of in groups.items():
            first, more = all_of[0], f" and {len(all_of) - 1} more" if len(all_of) > 1 else ""
            sizes = sorted({each.size for each in all_of})
            size = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]}-{sizes[-1]}"
            place = f"{op} in {first.module}" if op and first.module else op or first.module
            because = f"{place}{more}".strip()
            params = sum(each.params for each in all_of)
            rows.append((reason, size, first.tensor, because, f"{params:,}", _percent(params, self.params)))
        told = _listed("whole", ("reason", "size", "of", "because of", "parameters", "share"), rows, "<><<>>")
        reasons = dict.fromkeys(reason for reason, _ in groups)
        return [*told, *(f"  {reason}: {EXPLAINED[reason]}" for reason in reasons if reason in EXPLAINED)]

    def _proved(self) -> list[str]:
        rows = [(proof.what, str(proof.count), f"{proof.error:.1e}") for proof in self.proofs]
        found = _listed("proved", ("what", "times", "largest difference"), rows, "<>>")
        if not rows:
            found = ["", "not proved" if self.skipped else "not proved (check=False)"]
        found += [f"not proved: {what}, since {why}" for what, why in self.skipped.items()]
        if self.seconds:
            stages = ", ".join(f"{stage} {took:.2g}" for stage, took in self.seconds.items())
            found += ["", f"seconds: {stages}; {sum(self.seconds.values()):.2g} in all"]
        return found

    @property
    def table(self) -> pd.DataFrame:
        """A row for each decision, unit and axis that stays whole; `is` says which."""
        import pandas as pd

        told = [
            *(
                {"is": "elastic", "name": r.name, "kind": r.kind, "size": r.size, "choices": r.choices, "params": r.params}
                for r in self.rows
            ),
            *({"is": "unit", "name": keep(name), "params": params} for name, params in self.units.items()),
            *(
                {"is": "whole", "name": k.tensor, "kind": k.reason, "size": k.size, "params": k.params, "op": k.op,
                 "module": k.module}
                for k in self.kept
            ),
            *({"is": "no unit", "name": spelled(each.name), "kind": each.why} for each in self.fixed),
        ]  # fmt: skip
        columns = ["is", "name", "kind", "size", "choices", "params", "share", "op", "module"]
        found = pd.DataFrame(told, columns=columns)
        found["share"] = found["params"] / max(self.params, 1)
        return found.astype({"size": "Int64", "params": "Int64"})

    @property
    def html(self) -> str:
        """A page that needs no other file."""
        head = f"<meta charset=utf-8><title>{_safe(self.model)}</title>"
        return f"<!doctype html>\n<html lang=en>{head}{self._repr_html_()}\n</html>\n"

    def _repr_html_(self) -> str:
        return f"<div class=nas-elastic>{_STYLE}{self._picture()}<pre>{_safe(str(self))}</pre></div>"

    def _picture(self) -> str:
        """Horizontal bars, one for each module."""
        longest = max((part.params for part in self.parts), default=1) or 1
        colours = {"least": "#1f6f8b", "elastic": "#8fc7d9", "held": "#e0a458", "whole": "#b9b9b9"}
        said = {
            "least": "elastic, in every arch",
            "elastic": "elastic, can be cut away",
            "held": "stays whole for a reason below",
            "whole": "nothing to cut",
        }
        legend = "".join(
            f"<span><i style='background:{colour}'></i>{said[key]}</span>" for key, colour in colours.items()
        )
        bars = []
        for part in self.parts:
            pieces = "".join(
                f"<i style='background:{colour};width:{100 * count / longest:.3f}%' title='{count:,} {said[key]}'></i>"
                for key, colour in colours.items()
                if (count := getattr(part, key))
            )
            cut = _percent(part.elastic, part.params)
            bars.append(
                f"<tr><td>{_safe(part.module or 'the model')}<td class=bar>{pieces}<td>{part.params:,}<td>{cut}</tr>"
            )
        head = "<tr><th>module<th class=bar><th>parameters<th>can be cut away</tr>"
        return f"<p>{legend}</p><table>{head}{''.join(bars)}</table>"


_STYLE = """<style>
.nas-elastic{font:13px sans-serif;max-width:75em}.nas-elastic table{border-collapse:collapse;width:100%}
.nas-elastic td,.nas-elastic th{padding:1px 6px;text-align:right;white-space:nowrap}
.nas-elastic td:first-child,.nas-elastic th:first-child{text-align:left}
.nas-elastic .bar{width:60%;text-align:left;font-size:0}.nas-elastic .bar i{display:inline-block;height:13px}
.nas-elastic p span{margin-right:1.5em}.nas-elastic p i{display:inline-block;width:1em;height:1em;margin-right:.4em}
.nas-elastic pre{overflow-x:auto}</style>"""


def describe(
    module: nn.Module,
    plan: Plan,
    *,
    kept: Iterable[Kept] = (),
    fixed: Iterable[Fixed] = (),
    execution: Literal["class", "graph"] = "class",
    because: str = "",
    proofs: Iterable[Proof] = (),
    seconds: Mapping[str, float] | None = None,
    notes: Iterable[str] = (),
    skipped: Mapping[str, str] | None = None,
) -> Report:
    """The report about `module`, of what its plan says and what the analysis found besides.

    Args:
        module: the original; its parameters may be on the meta device.
        plan: of it.
        kept: what stays whole.
        fixed: modules that cannot be left out.
        execution: what archs are made of.
        because: why they are graphs.
        proofs: what was computed twice.
        seconds: of each stage.
        notes: further sentences.
        skipped: proofs that were not made though they were asked for -> why.
    """
    axes = named_axes(module, plan)
    governed: dict[str, int] = {}
    for entry in parameters_of(module):
        for name in _deciding(plan, axes.get(entry.names[0], ())):
            governed[name] = governed.get(name, 0) + entry.tensor.numel()
    for each in plan.factors:
        decision = plan.atoms[each.atom].decision
        weight = module.get_parameter(f"{each.layer}.weight")
        if decision is not None:
            governed[decision] = governed.get(decision, 0) + weight.numel()
    held = sorted(kept, key=lambda each: -each.params)
    units = {unit.name: sum(p.numel() for p in module.get_submodule(unit.name).parameters()) for unit in plan.units}
    return Report(
        type(module).__name__,
        sum(entry.tensor.numel() for entry in parameters_of(module)),
        (
            *(Row(spelled(d.name), d.kind, d.size, d.choices, governed.get(d.name, 0)) for d in plan.decisions),
            *(
                Row(spelled(d.name), "depth", len(d.order), d.choices, sum(units[name] for name in d.order))
                for d in plan.depths
            ),
        ),
        {unit.name: units[unit.name] for unit in plan.alone},
        tuple(held),
        tuple(fixed),
        tuple(_parts(module, plan, axes, {each.tensor for each in held})),
        execution,
        because,
        tuple(proofs),
        dict(seconds or {}),
        tuple(notes),
        dict(skipped or {}),
    )


def _deciding(plan: Plan, axes: Sequence[parts.Axis]) -> list[str]:
    """Decisions that cut one of the axes, each once."""
    found = (plan.atoms[atom].decision for axis in axes for atom in parts.atoms(axis))
    return list(dict.fromkeys(name for name in found if name is not None))


def _parts(module: nn.Module, plan: Plan, axes: Mapping[str, Sequence[parts.Axis]], held: set[str]) -> list[Part]:
    """Parameters by module, at the depth of blocks, in the model's order."""
    smallest = plan.sizes({decision.name: min(decision.choices) for decision in plan.decisions})
    ranks = {f"{each.layer}.weight": smallest[each.atom] for each in plan.factors}
    found: dict[str, list[int]] = {}
    for entry in parameters_of(module):
        name, count = entry.names[0], entry.tensor.numel()
        own = axes.get(name, ())
        counts = found.setdefault(_block(name), [0, 0, 0, 0])
        rank = ranks.get(name)
        if _deciding(plan, own) or rank is not None:
            lengths = [parts.length(axis, smallest) for axis in own] or list(entry.shape)
            least = math.prod(lengths)
            if rank is not None:  # a layer that is two factors has their numbers
                least = min(least, rank * (lengths[0] + lengths[1]))
            counts[0] += least
            counts[1] += count - least
        else:
            is_held = bool(held & set(entry.names)) or any(True for axis in own for _ in parts.atoms(axis))
            counts[2 if is_held else 3] += count
    return [Part(name, *counts) for name, counts in found.items()]


def _block(tensor: str) -> str:
    """Path of the block, or the top module, that a tensor is in: up to the first number."""
    path = tensor.split(".")[:-1]
    number = next((place for place, key in enumerate(path) if key.isdigit()), None)
    return ".".join(path[: number + 1] if number is not None else path[:2])


def _listed(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> list[str]:
    """Lines of a table; nothing where it has no rows."""
    if not rows:
        return []
    shown = [columns, *rows[:MOST_ROWS]]
    widths = [max(len(row[place]) for row in shown) for place in range(len(columns))]
    lines = [
        "  " + "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, align, widths, strict=True)).rstrip()
        for row in shown
    ]
    more = [f"  and {len(rows) - MOST_ROWS} more in the table"] if len(rows) > MOST_ROWS else []
    return ["", title, *lines, *more]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.1f} %"


def _safe(text: str) -> str:
    return html.escape(text)
