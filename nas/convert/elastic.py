"""`nas.elastic`: from a model to a search space of its own parts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from torch import nn

from nas.checking import Range, checked
from nas.convert.converting import Conversion, Options, convert, convert_graph, nothing_elastic, timed
from nas.convert.factoring import Factoring, with_ranks
from nas.convert.including import Origin, including
from nas.convert.mapping import with_maps
from nas.convert.model import conditions, value
from nas.convert.plan import LINEAR, Plan
from nas.convert.projecting import projected
from nas.convert.proofs import CLASSES, RENUMBERED, ZEROS, Proofs, prove
from nas.convert.report import Fixed, Proof, Report, describe
from nas.convert.spelling import keep, spelled
from nas.convert.template import Template
from nas.errors import NasError, SpaceError, SupernetError, brief
from nas.space import Arch, Space
from nas.space.restricting import Rule
from nas.supernet import costs
from nas.supernet.inputs import Inputs
from nas.supernet.skeleton import build, build_skeleton, parameters_of


class ElasticSpace(Space):
    """The space of a model's own widths, heads and depth; `nas.elastic` makes one.

    Its archs are resized copies of the model, of the model's own class.  The largest is the original.

    Args:
        template: gives the model.
        plan: what decisions there are, and what they change.
        report: what the conversion found.
        name: of the space; the model's class by default.
        version: a number of your own, stored with every arch.
    """

    def __init__(
        self, template: Template, plan: Plan, report: Report | None = None, *, name: str | None = None, version: int = 1
    ) -> None:
        skeleton = template.skeleton()
        super().__init__(
            value(template, plan),
            name=name if name is not None else template.cls.__name__,
            version=version,
            active_when=conditions(skeleton, plan),
        )
        self.template, self.plan = template, plan
        self.report = describe(skeleton, plan) if report is None else report
        self.is_checked = bool(self.report.proofs)
        self.unproved = tuple(f"{what}, since {why}" for what, why in self.report.skipped.items())
        self.origins: tuple[Origin, ...] = ()

    def representatives(self) -> list[Arch]:
        """The largest arch, the narrowest that leaves out nothing, and that of the largest ranks: the plan says the rest."""
        whole = {keep(unit.name) for unit in self.plan.units} | {spelled(depth.name) for depth in self.plan.depths}
        ranks = {spelled(name) for name in self.plan.ranks}
        narrow = {one.name: min(one.candidates) for one in self.decisions if one.name not in whole}
        low = {one.name: sorted(one.candidates)[-2] for one in self.decisions if one.name in ranks}
        lines = [dict.fromkeys(map(keep, names), LINEAR) for names in _levels(self.plan)]
        archs = [self.largest, *(self._with(changes) for changes in (narrow, low, *lines) if changes)]
        return list(dict.fromkeys(filter(self.allows, archs)))

    def _with(self, changes: Mapping[str, Any]) -> Arch:
        """The largest arch but for these choices."""
        largest = zip(self.decisions, self.largest.genome, strict=True)
        genes = [one.candidates.index(changes[one.name]) if one.name in changes else gene or 0 for one, gene in largest]
        return self.repair(genes)

    def restricted(self, allows: Rule) -> ElasticSpace:
        """This space without the archs that `allows` refuses, where only building tells."""
        rules = (*self.rules, allows)
        return _restored((self.template, self.plan, self.report), self.name, self.version, rules, self.origins)

    def including(self, smaller: Space) -> Space:
        """This space with the choices of a smaller one of the same class, and its archs: rows of it are followed.

        Args:
            smaller: of a model with narrower layers, or fewer blocks; other spaces change nothing.

        Raises:
            SpaceError: the smaller model is none of this space's archs, whatever is chosen.
        """
        return including(self, smaller) if isinstance(smaller, ElasticSpace) else self

    def from_row(self, numbers: Sequence[Any], schema: Mapping[str, Any] | None = None) -> Arch:
        """As `Space.from_row`; rows of spaces that this one includes are followed."""
        known = schema is None or self.has_fingerprint(schema.get("fingerprint"))
        origin = None if known else next((one for one in self.origins if one.knows(schema or {})), None)
        return super().from_row(numbers, schema) if origin is None else origin.arch(self, numbers, schema or {})

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, ((self.template, self.plan, self.report), self.name, self.version, self.rules, self.origins)


def _levels(plan: Plan) -> list[list[str]]:
    """Names of units whose place a linear map may take: those inside of no other one, then those inside of these, and so on."""
    levels: dict[int, list[str]] = {}
    names = [unit.name for unit in plan.mappable]
    for name in names:
        levels.setdefault(sum(name.startswith(f"{other}.") for other in names), []).append(name)
    return [levels[level] for level in sorted(levels)]


def _restored(
    made_of: tuple[Any, Any, Any], name: str, version: int, rules: tuple[Any, ...], origins: tuple[Origin, ...] = ()
) -> ElasticSpace:
    space = ElasticSpace(*made_of, name=name, version=version)
    space.rules, space.origins = rules, origins
    return space


@checked(SpaceError)
def elastic(
    model: nn.Module,
    example: Inputs,
    *,
    width: Sequence[float] = (0.25, 1.0),
    granule: Annotated[int, Range(least=1)] = 8,
    depth: bool = True,
    heads: bool = True,
    head_dim: bool = False,
    rank: bool | Sequence[float] = False,
    linear: bool = False,
    share: Literal["none", "block", "all"] = "none",
    mode: Literal["class", "free"] = "class",
    soft: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    build: Any = None,
    check: bool = True,
    name: str | None = None,
) -> ElasticSpace:
    """The search space of a model's own widths, heads and depth: no line of model code.

    The model is run once, on tensors without values, and every operation says which axes belong together.  What is not known
    to allow a smaller size stays whole, and `report` says why.  Archs are of the model's own class; the largest is the model.

        space = nas.elastic(model, example)
        net = nas.Supernet(space, example=example, weights=model)
        print(space.report)

    Args:
        model: any module; it is left as it is.
        example: inputs that it takes: a tensor, a tuple of positional arguments, or a mapping of keyword arguments.
        width: least and largest share of a width that may be chosen, beside the whole.
        granule: widths are multiples of it, where there is room for that.
        depth: offer to leave out residual blocks.
        heads: decide how many heads, or groups of heads, there are.
        head_dim: decide how wide a head is instead.
        rank: let linear layers and convolutions with kernels of one pixel be two factors, and decide about the width between
            them: True for a quarter, a half and three quarters of the rank at which two factors take as many operations, or ranks
            (16, 32), or shares of the full rank (0.25, 0.5).  Those that save nothing are not offered; the full rank is the layer
            as it is.  In archs that are narrower, a layer is two factors where that saves operations.  Factors begin as the best
            approximation of the weights; `nas.factorize` makes it the best of the outputs on data.
        linear: offer a linear map in the place of a residual block, too, where that has fewer weights; `nas.fit_linear` fits all
            of them, and a supernet refuses networks with one before.
        share: one decision for the same part of all blocks ("block"), for all of a kind ("all"), or one for each ("none").
        mode: "class" takes the equalities between sizes for granted that the class does; "free" does not, and archs may then be
            captured graphs instead of the class.
        soft: cut under means and maxima over channels, too, where a narrower network is another one than the masked network.
        include: name patterns (`fnmatch`) of modules or tensors whose own widths and depth may be elastic (what reads a width
            is cut with it); everything by default.
        exclude: name patterns of those that stay whole, with everything that has to be as wide.
        build: a call that builds the model (`nas.model(Net)(…)`), with which other processes need no copy of it and
            `nas extract` writes a network that loads by itself; found out for models with a Hugging Face config.
        check: prove that what is cut is cut rightly, on random weights; without it, and of parameters on the meta device that are
            too many to be given values, the report and checkpoints say that nothing was proved, and why.
        name: of the space; the model's class by default.

    Returns:
        A `nas.Space` with `report` and `plan`.

    Raises:
        SpaceError: the model cannot be captured, copied or built again; nothing in it is elastic; an option is wrong; or no layer
            can have one of the ranks.
    """
    options = Options(
        _shares(width), granule, depth, heads, head_dim, share, mode, soft, tuple(include), tuple(exclude)
    )
    classes = linear or rank is not False
    if classes and mode == "free":
        raise SpaceError(
            f"{'linear=' if linear else 'rank='} puts layers in the place of others, and archs of mode='free' are captured "
            "graphs; give one of them"
        )
    start = time.perf_counter()
    template = Template.of(model, build)
    copied = time.perf_counter() - start
    found, because, proved = _converted(model, example, options, check=check, classes=classes)
    plan = proved.plan if proved is not None else found.plan
    ranked: Factoring | None = None
    if rank is not False:
        with timed(found.seconds, "ranks"):
            ranked = with_ranks(
                model,
                plan,
                example,
                rank,
                wanted=options.wants,
                calls=found.captured.calls,
                granule=granule,
                share=share,
                check=check,
            )
        plan = ranked.plan
    maps: list[str] = []
    if linear:
        plan, maps = with_maps(found, plan)
    if not plan.decisions and not plan.units:
        raise nothing_elastic(found)
    kept, notes = found.kept(), list[str]()
    proofs: tuple[Proof, ...] = ()
    fixed: tuple[Fixed, ...] = ()
    if proved is not None:
        kept += found.failed(found.plan, proved.frozen)
        proofs = tuple(Proof(each.what, each.worst, each.count) for each in proved.findings)
        units = {unit.name for unit in found.plan.units}
        fixed = tuple(Fixed(name, why) for name, why in proved.frozen.items() if name in units)
        notes = [f"{name} stays whole: {why}" for name, why in proved.frozen.items() if name not in units]
        notes += [f"{name}: {why}" for name, why in proved.unshown.items() if plan.atoms[name].decision]
        notes += proved.notes
    notes += maps
    if ranked is not None:
        notes += ranked.notes()
        proofs += (ranked.proof,) if ranked.proof is not None else ()
    if plan.graph:
        template.capture_with(found, found.reference(plan, samples=True))
    report = describe(
        model,
        plan,
        kept=kept,
        execution="graph" if plan.graph else "class",
        because=because,
        proofs=proofs,
        seconds={"template": copied, **found.seconds},
        notes=notes,
        fixed=fixed,
        skipped=_skipped(options, proved),
    )
    space, rule = ElasticSpace(template, plan, report, name=name), projected(model, plan)
    return space if rule is None else space.restricted(rule)


def _skipped(options: Options, proved: Proofs | None) -> dict[str, str]:
    """Proofs that were not made though they were asked for -> why."""
    if proved is None:
        return {}
    if proved.skipped:
        return dict.fromkeys((RENUMBERED, ZEROS, CLASSES), proved.skipped)
    return {ZEROS: UNMASKED} if options.soft else {}


UNMASKED = "soft=True cuts under means and maxima, where a narrower network is another one than the masked network"
MUCH = 4 / 3
"""Times as many parameters that the class must leave, at half of all widths, for archs to be graphs."""


def _converted(
    model: nn.Module, example: Inputs, options: Options, *, check: bool, classes: bool
) -> tuple[Conversion, str, Proofs | None]:
    """The conversion by the class, or by the graph where the class leaves much less elastic; why it is the graph; and proofs.

    With `classes` it is that by the class in any case.
    """
    if options.mode == "free":
        found = convert_graph(model, example, options)
        return found, "mode='free' was asked for", _proved(found, check=check)
    found = convert(model, example, options)
    proved = _proved(found, check=check) if found.plan.decisions or found.plan.units else None
    why = _shortfall(found, proved)
    if not why or classes:
        return found, "", proved
    plan = proved.plan if proved is not None else found.plan
    try:
        graph = convert_graph(model, example, options)
    except SpaceError:  # as for inputs whose first axis is no batch
        if plan.decisions:
            return found, "", proved
        graph = convert_graph(model, example, options, samples=False)
        why = f"{why}; it takes inputs of the example's sizes alone"
    if plan.decisions and found.left(plan) < MUCH * graph.left(graph.plan):
        return found, "", proved
    graph.seconds = {stage: found.seconds.get(stage, 0.0) + took for stage, took in graph.seconds.items()}
    return graph, why, _proved(graph, check=check)


def _proved(found: Conversion, *, check: bool) -> Proofs | None:
    if not check:
        return None
    plan = found.plan
    with timed(found.seconds, "proofs"):
        try:
            return prove(
                found.model,
                plan,
                found.example,
                found.reference(plan),
                zeros=not found.options.soft,
                classes=not plan.graph,
            )
        except NasError:
            raise
        except Exception as error:  # of the user's code: it keeps something of the weights that it had before, for one
            raise SpaceError(
                f"{type(found.model).__name__} fails on other weights ({type(error).__name__}: {brief(error, 200)}), so that "
                "nothing of it can be proved; let it compute in forward what follows from its parameters, or give check=False"
            ) from error


def _shortfall(found: Conversion, proved: Proofs | None) -> str:
    """What the class keeps whole, though the graph of the model need not; "" if nothing."""
    row = found.arithmetic()
    if row is not None:
        where = f"{row.op} in {row.module or 'the model'}"
        return f"the class keeps {row.size} units of {row.tensor} by how it computes sizes ({where})"
    failed = next(((name, why) for name, why in (proved.frozen if proved else {}).items() if "class" in why), None)
    return f"the class did not take another size of {failed[0]} ({failed[1]})" if failed else ""


def _shares(width: Sequence[float]) -> tuple[float, float]:
    if len(width) != 2 or not 0 < width[0] <= width[1] <= 1:
        raise SpaceError(
            f"width={tuple(width)} is the least and the largest share of a width, such as (0.25, 1.0); both are above 0 and at "
            "most 1"
        )
    return float(width[0]), float(width[1])


def cost(space: Space, arch: Arch, example: Inputs | None) -> tuple[int, int | None]:
    """Parameters, and multiply-accumulates of one sample of `example`, without a supernet; None where it has no samples."""
    skeleton = build_skeleton(space, arch)
    params = sum(entry.tensor.numel() for entry in parameters_of(skeleton))
    if example is None:
        return params, None
    try:
        return params, costs.macs(skeleton, lambda: build(space, arch), example)
    except SupernetError:  # tensors of several lengths, of which no axis is said to be the batch's
        return params, None
