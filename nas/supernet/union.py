"""What a supernet holds: every parameter that some arch of the space has, as large as the largest of them has it.

The archs looked at are `space.representatives()`: each candidate of each decision at least once, everything else at its largest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from nas.errors import Infeasible, LayoutError, SupernetError, suggest
from nas.space import Arch, Space
from nas.supernet import low_rank, maps, parts
from nas.supernet.atomic import Atoms
from nas.supernet.constructor import drawn
from nas.supernet.known import Channels, channels_of, grouped_layouts, known_layout
from nas.supernet.layouts import Corner, Cut, Shapes
from nas.supernet.outline import Outline, outline
from nas.supernet.parts import Shape
from nas.supernet.skeleton import (
    STATE,
    buffers_of,
    build,
    build_skeleton,
    check_sizes,
    parameters_of,
    quiet,
    statistics_of,
)
from nas.supernet.unbuildable import without_unbuildable

CORNER = Corner()


@dataclass
class Union:
    """Names, shapes and ties of everything that a supernet holds.

    Attributes:
        ties: canonical name of every parameter name; the same for names that are one parameter.
        shapes: largest shape of every canonical parameter name and learnt buffer.
        trainable: `requires_grad` of every canonical parameter name.
        buffers: names of the learnt buffers: running statistics, buffers that a cut is declared for, and those that the
            constructor draws at random or computes from the initial weights.
        indices: names of buffers of indices that the constructor draws, which every arch has of its own.
        numbers: paths of plain attributes, single numbers and texts, that the constructor draws or computes likewise.
        cuts: canonical name -> cut, where it is not the leading corner.
        archs: the archs looked at, largest first, with the shape of each of their tensors and the lengths of their atoms.
        outlines: of each of `archs`, what its modules are.
        factored: layers that are two factors in some arch -> whether their weights are (inputs, outputs).
        mapped: modules in whose place there is a linear map in some arch.
    """

    ties: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    dtypes: dict[str, torch.dtype] = field(default_factory=dict)
    trainable: dict[str, bool] = field(default_factory=dict)
    buffers: set[str] = field(default_factory=set)
    numbers: set[str] = field(default_factory=set)
    indices: set[str] = field(default_factory=set)
    cuts: dict[str, Cut] = field(default_factory=dict)
    archs: list[tuple[Arch, Shapes]] = field(default_factory=list)
    outlines: list[Outline] = field(default_factory=list)
    factored: dict[str, bool] = field(default_factory=dict)
    mapped: set[str] = field(default_factory=set)

    def cut(self, name: str, shapes: Mapping[str, Shape]) -> Cut:
        """The cut of canonical name `name` in an arch whose tensors have `shapes`."""
        return self.cuts.get(name, CORNER).placed(name, self.shapes, shapes)

    def shapes_of(self, module: nn.Module) -> Shapes:
        """Shape of everything in `module` that is held, by canonical name, and the lengths of its atoms."""
        shapes = {
            self.ties[entry.names[0]]: tuple(entry.shape)
            for entry in parameters_of(module)
            if entry.names[0] in self.ties
        }
        buffers = {name: tuple(table[key].shape) for name, (table, key) in buffers_of(module).items()}
        held = {name: shape for name, shape in buffers.items() if name in self.buffers}
        return Shapes(shapes | held, parts.sizes_of(module))

    def helpers(self) -> dict[str, Tensor]:
        """Initial values of the cuts' own parameters, by name."""
        return {
            f"{name}_{suffix}": value
            for name, cut in self.cuts.items()
            for suffix, value in cut.helpers(self.shapes[name]).items()
        }


def survey(space: Space, layouts: Mapping[str, Cut]) -> tuple[Space, Union]:
    """The union over the covering archs of `space`, and the space: without archs that cannot be built, if one was met.

    Raises:
        SpaceError: no arch can be built.
        SupernetError: archs disagree about a name (axes, type, ties), or a declared layout decides about none.
        LayoutError: a layout does not fit its parameter.
    """
    try:
        return space, _survey(space, layouts)
    except Infeasible:
        space = without_unbuildable(space)
        return space, _survey(space, layouts)


def _survey(space: Space, layouts: Mapping[str, Cut]) -> Union:
    union = Union()
    declared, atoms = _Declared(layouts), Atoms()
    buffers: list[dict[str, Tensor]] = []
    convolutions: list[dict[str, Channels]] = []
    persistent: set[str] = set()
    supposed: set[str] = set()
    for arch in _looked_at(space):
        module = build_skeleton(space, arch)
        check_sizes(space, module)
        owners = dict(module.named_modules(remove_duplicate=False))
        shapes = Shapes()
        entries = parameters_of(module)
        names = [_tie(union, entry.names) for entry in entries]
        shapes.sizes = atoms.add(module, union.ties)
        for entry, name in zip(entries, names, strict=True):
            if name in shapes:
                raise _tied_apart(name, entry.names[0])
            _grow(union, name, entry.tensor)
            union.trainable[name] = entry.tensor.requires_grad
            shapes[name] = tuple(entry.shape)
            if name not in union.cuts:
                known = None if atoms.inside(name) else known_layout(name, owners)
                union.cuts[name] = declared.parameter(entry.names) or known or CORNER
                if union.cuts[name] is known:
                    supposed.add(name)
        convolutions.append(channels_of(module))
        found = drawn(space, arch, module, lambda name: declared.buffer(name) is not None)
        union.numbers.update(found.numbers)
        union.indices |= found.indices
        union.buffers |= found.buffers | statistics_of(module)
        buffers.append(_without_values(module))
        union.buffers |= {name for name in buffers[-1] if declared.buffer(name) is not None}
        persistent |= module.state_dict().keys() - union.ties.keys()
        union.archs.append((arch, shapes))
        union.outlines.append(outline(entries, owners))
        union.factored |= parts.factored_in(module)
        union.mapped |= parts.mapped_in(module).keys()
    union.buffers |= {name for name in persistent if atoms.vary(name, [shapes.sizes for _, shapes in union.archs])}
    for (_, shapes), held in zip(union.archs, buffers, strict=True):  # what is data in one arch is data in all
        for name in [name for name in held if name in union.buffers]:
            _grow(union, name, held[name])
            shapes[name] = tuple(held[name].shape)
            union.cuts[name] = declared.buffer(name) or _beside(union, name, shapes) or CORNER
    for name, layout in grouped_layouts(convolutions, [shapes for _, shapes in union.archs]).items():
        if union.cuts[name] == CORNER and name not in declared.names and not atoms.inside(name):
            union.cuts[name] = layout
    _cut_by_atoms(union, atoms, union.shapes.keys(), [shapes for _, shapes in union.archs], declared.names)
    # A corner that somebody declared stays on record: it is meant, whatever is proven of it.
    union.cuts = {name: cut for name, cut in union.cuts.items() if cut != CORNER or name in declared.names}
    declared.check(space, union)
    _check_cuts(union, supposed)
    return union


def _cut_by_atoms(
    union: Union,
    atoms: Atoms,
    names: Set[str],
    archs: Sequence[Mapping[str, Shape]],
    declared: Set[str] = frozenset(),
) -> None:
    """Cut those of the tensors `names` that are in elastic models by their axes.

    Args:
        union: what holds them.
        atoms: of the archs looked at.
        names: of tensors.
        archs: shapes of the archs looked at.
        declared: names of tensors that a cut was declared for.

    Raises:
        LayoutError: one has no axes and is not whole, or another cut is declared for it.
    """
    for name in filter(atoms.inside, sorted(names)):
        cut = atoms.cut(name)
        if name in declared and union.cuts[name] != cut:
            raise LayoutError(
                f"parameter {name!r} is one of an elastic model, which knows how it is cut; declare no layout for it"
            )
        if cut is None:
            found = sorted({shapes[name] for shapes in archs if name in shapes})
            if len(found) > 1:
                raise LayoutError(
                    f"parameter {name!r} of an elastic model has shapes {' and '.join(map(str, found))} and no axes; "
                    "give it the axes that it has"
                )
            continue
        union.cuts[name] = cut
        union.shapes[name] = cut.shape  # no arch need have the most of every atom


def _without_values(module: nn.Module) -> dict[str, Tensor]:
    """The buffers of `module` on the meta device."""
    return {name: table[key].to("meta") for name, (table, key) in buffers_of(module).items()}


def _beside(union: Union, name: str, shapes: Mapping[str, Shape]) -> Cut | None:
    """The cut of the weight beside the buffer `name`, if it is as long: statistics are of the channels that it scales."""
    weight = f"{name.rpartition('.')[0]}.weight".lstrip(".")
    return union.cuts.get(weight) if shapes.get(weight) == shapes[name] else None


class _Declared:
    """The declared layouts: the first pattern that matches a name decides, and each must decide about something.

    A pattern that matches parameters is about parameters only: `"*.attention.*"` does not make data of a mask.
    """

    def __init__(self, layouts: Mapping[str, Cut]) -> None:
        self._layouts = layouts
        self.names: set[str] = set()  # of tensors, canonical or not
        self._parameters: set[str] = set()
        self._buffers: set[str] = set()

    def parameter(self, names: list[str]) -> Cut | None:
        """The cut declared for the parameter with these names."""
        pattern = self._first(names)
        if pattern is None:
            return None
        self._parameters.add(pattern)
        self.names.update(names)
        return self._layouts[pattern]

    def buffer(self, name: str) -> Cut | None:
        """The cut declared for the buffer `name`."""
        pattern = self._first([name])
        if pattern is None or pattern in self._parameters:
            return None
        self._buffers.add(pattern)
        self.names.add(name)
        return self._layouts[pattern]

    def _first(self, names: list[str]) -> str | None:
        return next((pattern for pattern in self._layouts if any(fnmatchcase(name, pattern) for name in names)), None)

    def check(self, space: Space, union: Union) -> None:
        """Refuse a pattern without effect."""
        for pattern in self._layouts:
            if pattern not in self._parameters | self._buffers:
                raise SupernetError(
                    f"layout pattern {pattern!r} decides about no parameter of space {space.name!r} "
                    f"(the first that matches does){suggest(pattern, union.ties)}"
                )


def _looked_at(space: Space) -> Iterator[Arch]:
    """Largest first, each once; the others are worked out when the largest was looked at: they may be millions."""
    yield space.largest
    yield from dict.fromkeys(arch for arch in [*space.representatives(), space.smallest] if arch != space.largest)


def _tie(union: Union, names: list[str]) -> str:
    """Canonical name of the parameter with these names; what was seen tied stays tied."""
    known = list(dict.fromkeys(union.ties[name] for name in names if name in union.ties))
    canonical = known[0] if known else names[0]
    if len(known) > 1:
        raise _tied_apart(*known[:2])
    for name in names:
        union.ties[name] = canonical
    return canonical


def _tied_apart(first: str, second: str) -> SupernetError:
    return SupernetError(
        f"parameters {first!r} and {second!r} are one parameter in some archs and two in others; "
        "a supernet needs them the same everywhere"
    )


def _grow(union: Union, name: str, tensor: Tensor) -> None:
    """Enlarge what is held under `name` to hold `tensor`."""
    shape = tuple(tensor.shape)
    known = union.shapes.get(name, shape)
    if len(known) != len(shape):
        raise SupernetError(
            f"parameter {name!r} has shape {known} in one arch and {shape} in another; give the two modules different names"
        )
    if union.dtypes.setdefault(name, tensor.dtype) != tensor.dtype:
        raise SupernetError(
            f"parameter {name!r} is {union.dtypes[name]} in one arch and {tensor.dtype} in another; use one type"
        )
    union.shapes[name] = tuple(map(max, known, shape))


def _check_cuts(union: Union, supposed: Set[str]) -> None:
    """Try each cut on the shapes of each arch: errors belong here, with the parameter's name.

    What was only `supposed`, from a layer's name, and does not fit is the corner after all, which is proved like any other.
    """
    for name, cut in list(union.cuts.items()):
        whole = torch.empty(union.shapes[name], device="meta")
        for _, shapes in union.archs:
            if name in shapes:
                try:
                    cut.placed(name, union.shapes, shapes).windows(whole, shapes[name])
                except LayoutError as error:
                    if name not in supposed:
                        raise LayoutError(f"parameter {name!r}: {error}") from error
                    del union.cuts[name]
                    break


def initialise(space: Space, union: Union, seed: int) -> dict[str, Tensor]:
    """Initial values of everything in `union`, as the model's own constructor draws them.

    The largest arch is built first and fills what it has.  Then the other archs looked at fill what is still empty, each
    in turn.  A corner that no single arch has (the largest width of one and the largest length of another) is drawn
    from the values around it: ones stay ones, zeros zeros, and a normal stays that normal.  Factors of a layer follow from
    its weight (`low_rank.fill`), maps are the identity (`maps.reset`), and both are left empty.
    """
    values = {name: torch.empty(shape, dtype=union.dtypes[name]) for name, shape in union.shapes.items()}
    follow = {name for layer in union.factored for name in low_rank.followers(layer)}
    follow |= {name for module in union.mapped for name in maps.tensors(module)}
    empty = {name: torch.ones(shape, dtype=torch.bool) for name, shape in union.shapes.items() if name not in follow}
    with quiet(seed):
        for arch, shapes in union.archs:
            if not empty:
                break
            missing = (_windows(union, name, empty[name], shapes) for name in shapes if name in empty)
            if any(window.any() for windows in missing for window in windows):
                _fill(union, values, empty, build(space, arch))
        _fill_corners(values, empty)
    return values


def with_buffers(space: Space, union: Union, names: Set[str]) -> tuple[Union, dict[str, Tensor]]:
    """A union that holds the buffers `names` as well, and their values as the constructors compute them.

    Raises:
        SupernetError: no arch looked at has one of them, or they disagree about it.
    """
    more = replace(
        union,
        shapes=dict(union.shapes),
        dtypes=dict(union.dtypes),
        cuts=dict(union.cuts),
        buffers=union.buffers | names,
    )
    found, atoms = [], Atoms()
    for arch in _looked_at(space):
        try:
            module = build_skeleton(space, arch)
        except Infeasible:
            continue
        held = {name: table[key] for name, (table, key) in buffers_of(module).items() if name in names}
        found.append((held, more.shapes_of(module)))
        atoms.add(module, more.ties)
        for name, tensor in held.items():
            _grow(more, name, tensor)
    if lacking := sorted(names - more.shapes.keys()):
        raise SupernetError(
            f"buffer {lacking[0]!r} is not held: no covering arch of space {space.name!r} has it; "
            "make the space's largest arch, or a candidate, have it"
        )
    _cut_by_atoms(more, atoms, names, [shapes for _, shapes in found])
    values = {name: torch.empty(more.shapes[name], dtype=more.dtypes[name]) for name in names}
    empty = {name: torch.ones(value.shape, dtype=torch.bool) for name, value in values.items()}
    for held, shapes in found:
        _copy(more, values, empty, held, shapes)
    with quiet(STATE):
        _fill_corners(values, empty)
    return more, values


def _fill_corners(values: Mapping[str, Tensor], empty: Mapping[str, Tensor]) -> None:
    """What no arch has is drawn from the values around it."""
    for name, mask in empty.items():
        known = values[name][~mask]
        values[name][mask] = known[torch.randint(len(known), (int(mask.sum()),))]


def _windows(union: Union, name: str, whole: Tensor, shapes: Mapping[str, Shape]) -> tuple[Tensor, ...]:
    return union.cut(name, shapes).windows(whole, shapes[name])


def _fill(union: Union, values: Mapping[str, Tensor], empty: dict[str, Tensor], module: nn.Module) -> None:
    """Copy what `module` has and `values` lacks; forget the masks that are full."""
    tensors = {union.ties[entry.names[0]]: entry.tensor.detach() for entry in parameters_of(module)}
    tensors |= {name: table[key] for name, (table, key) in buffers_of(module).items() if name in union.buffers}
    _copy(union, values, empty, tensors, union.shapes_of(module))


def _copy(
    union: Union,
    values: Mapping[str, Tensor],
    empty: dict[str, Tensor],
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, Shape],
) -> None:
    """Copy `tensors` of an arch whose tensors have `shapes` to where `values` lacks them."""
    for name, tensor in tensors.items():
        if name not in empty:
            continue
        masks = _windows(union, name, empty[name], shapes)
        if sum(mask.numel() for mask in masks) != tensor.numel():
            continue  # a smaller kernel of a learned transform: the larger one fills it
        pieces = union.cut(name, shapes).split(tensor, union.shapes[name])
        for mask, target, piece in zip(masks, _windows(union, name, values[name], shapes), pieces, strict=True):
            target.copy_(torch.where(mask, piece.reshape(mask.shape), target))
            mask.zero_()
        if not empty[name].any():
            del empty[name]
