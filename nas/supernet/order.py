"""Putting the channels that matter first, before narrower subnets are cut from a trained network.

A subnet has the leading channels of each layer, so it should find the most important ones there.  Renumbering the
channels of an axis changes nothing as long as every tensor that has the axis is renumbered alike.  Which tensors those are an
elastic model says by the atoms of its axes, inside products and sums too; of other models it is read off skeletons: change
one decision, and see which dimensions of which tensors move together.

The importance of a channel is the sum of |w| over what reads it, or another score (`nas.supernet.scores`), and channels never
leave a bracket that is trained already (Cai et al. 2020, "Once-for-All").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from nas.checking import checked
from nas.errors import SupernetError, suggest
from nas.space import Arch
from nas.supernet import parts, ranking
from nas.supernet.atomic import Parts
from nas.supernet.fused import Layout
from nas.supernet.inputs import Inputs, convert
from nas.supernet.layouts import CentreCrop, Corner, KernelTransform, Shapes
from nas.supernet.passes import Units
from nas.supernet.ranking import Place
from nas.supernet.roles import input_dim
from nas.supernet.scores import Batches, Data, Score, Task, chosen, measured
from nas.supernet.skeleton import buffers_of, build_skeleton, parameters_of
from nas.supernet.states import along, check_separate
from nas.supernet.supernet import Supernet
from nas.supernet.union import CORNER

TOLERANCE = 1e-3
"""How far, relative to its largest number, the output may move: sums are taken in another order."""


@dataclass(frozen=True)
class Axis:
    """Channels that several tensors have in common.

    Attributes:
        length: number of channels in the supernet.
        places: every dimension of every tensor that runs along them.
        readers: those of them along which a layer sums over its inputs; all of them where no layer is known to.
        atom: its name in an elastic model, whose units are the channels; "" in other models.
    """

    length: int
    places: tuple[Place, ...]
    readers: tuple[Place, ...]
    atom: str = ""


def axes(supernet: Supernet) -> list[Axis]:
    """The elastic axes of `supernet` whose channels may be renumbered, in the order of its parameters.

    Of an elastic model they are the atoms that some arch has fewer of, but for those along which a convolution
    goes.  Of other models, not among them: kernels' height and width, axes that run through a fused dimension (heads inside a
    `qkv`), and axes that no layer reads or none writes; two axes of equal lengths in every arch are found as one, which is as
    right, if less free.
    """
    space, largest = supernet.space, supernet.space.largest
    whole = _shapes(supernet, largest)
    archs = [_shapes(supernet, arch) for arch in filter(supernet.has, space.representatives())]
    narrowed: dict[Place, set[tuple[int, int]]] = {}
    for index, shapes in enumerate(archs):
        for name, shape in shapes.items():
            if isinstance(supernet._shared.union.cuts.get(name), Parts):
                continue
            for dim, (part, full) in enumerate(zip(shape, whole.get(name, shape), strict=True)):
                if part != full:
                    narrowed.setdefault((name, dim), set()).add((index, part))
    groups: dict[tuple[int, frozenset[tuple[int, int]]], list[Place]] = {}
    for (name, dim), moves in narrowed.items():
        # A tensor that shallow archs lack says nothing about them, and in them every width is the largest.
        groups.setdefault((whole[name][dim], frozenset(moves)), []).append((name, dim))
    read = reads(supernet, largest)
    found = []
    for (length, _), places in groups.items():
        readers = tuple(place for place in places if place in read)
        # Written and read: what only reads is fed by a fused dimension of another length, or by the data.
        if 0 < len(readers) < len(places) and all(_free(supernet, *place) for place in places):
            found.append(Axis(length, tuple(places), readers))
    return [*found, *_atoms(supernet, read, archs)]


def _atoms(supernet: Supernet, reads: set[Place], archs: Sequence[Shapes]) -> Iterator[Axis]:
    """The atoms of elastic models that have another length in some of `archs`."""
    sizes: dict[str, set[int]] = {}
    for shapes in archs:
        for atom, size in shapes.sizes.items():
            sizes.setdefault(atom, set()).add(size)
    places: dict[str, list[Place]] = {}
    cuts = {name: cut for name, cut in supernet._shared.union.cuts.items() if isinstance(cut, Parts)}
    ordered = parts.ordered_in(build_skeleton(supernet.space, supernet.space.largest))
    for name, cut in cuts.items():
        for dim, axis in enumerate(cut.axes):
            for atom in dict.fromkeys(parts.atoms(axis)):
                if len(sizes[atom]) > 1 and atom not in ordered:
                    places.setdefault(atom, []).append((name, dim))
    for atom, found in places.items():
        readers = [place for place in found if place in reads]
        length = cuts[found[0][0]].whole[atom]
        weights = [place for place in found if place[0] in supernet._shared.union.trainable]
        yield Axis(length, tuple(found), tuple(readers or weights), atom)


def importance(supernet: Supernet, axis: Axis, readers: Sequence[str] = ()) -> Tensor:
    """(axis.length,) Σ|w| over the tensors that read each channel.

    Args:
        supernet: whose weights count.
        axis: of `axes`.
        readers: name patterns (`fnmatch`) of the tensors that count, on axes where one matches; all count elsewhere.
    """
    units, names = _units(supernet, [axis], readers)
    return ranking.by_magnitude(units.owned, units.whole, supernet._shared.tensor)[names[axis]]


@checked(SupernetError)
def importances(
    supernet: Supernet,
    *,
    by: str | Score | None = None,
    readers: Sequence[str] = (),
    batches: Batches | None = None,
    loss: Callable[..., Any] | None = None,
    task: Task | None = None,
) -> dict[Axis, Tensor]:
    """(axis.length,) score of each channel of every axis, by which `reorder` would put them in order.

    Args:
        supernet: is left as it is.
        by: as in `reorder`.
        readers: as in `importance`.
        batches: as in `reorder`.
        loss: as in `reorder`.
        task: as in `reorder`.

    Raises:
        SupernetError: a pattern matches no tensor; or data are missing, do not fit or give numbers that are not finite.
    """
    _check_patterns(supernet, readers)
    data = Data(batches, loss, task)
    return _scores(supernet, axes(supernet), readers, chosen(by, data), data)


def _scores(
    supernet: Supernet, found: Sequence[Axis], readers: Sequence[str], by: Score, data: Data
) -> dict[Axis, Tensor]:
    units, names = _units(supernet, found, readers)
    scores = measured(supernet, units, by, data)
    return {axis: scores[name] for axis, name in names.items()}


def _units(supernet: Supernet, found: Sequence[Axis], readers: Sequence[str]) -> tuple[Units, dict[Axis, str]]:
    """The units along the axes `found`, and what each axis is called there: its atom, or its first place."""
    union = supernet._shared.union
    called = {axis: axis.atom or "{}, dimension {}".format(*axis.places[0]) for axis in found}
    whole = {name: axis.length for axis, name in called.items()}
    sizes: dict[str, int] = dict(whole)
    along: dict[str, list[parts.Axis]] = {}
    for axis, name in called.items():
        for tensor, dim in axis.places:
            cut = union.cuts.get(tensor)
            if isinstance(cut, Parts):
                along[tensor] = list(cut.axes)
                sizes.update(cut.whole)
            else:
                lengths: list[parts.Axis] = [(size,) for size in supernet._shared.tensor(tensor).shape]
                along.setdefault(tensor, lengths)[dim] = (name,)
    counted = {
        name: [place for place in axis.readers if any(fnmatchcase(place[0], pattern) for pattern in readers)]
        or axis.readers
        for axis, name in called.items()
    }
    owned = ranking.shares(along, sizes, counted)
    return Units(whole, owned, along, sizes, counted), called


def _parts(supernet: Supernet, name: str) -> Parts:
    cut = supernet._shared.union.cuts[name]
    assert isinstance(cut, Parts), "places of an atom are of tensors that are cut by atoms"
    return cut


@checked(SupernetError)
def reorder(
    supernet: Supernet,
    *,
    by: str | Score | None = None,
    trained: Iterable[Arch] = (),
    readers: Sequence[str] = (),
    batches: Batches | None = None,
    loss: Callable[..., Any] | None = None,
    task: Task | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> dict[Axis, Tensor]:
    """Renumber the channels of every axis by falling importance, in place; the largest arch computes what it did.

    With `trained`, channels stay on their side of each length that one of these archs has, so that those archs keep their
    channels too.  Which archs that must be: one for every length that was trained.

    Args:
        supernet: with an `example`, by which the largest arch's output is compared.
        by: an importance score, or its name: "magnitude" (by default), "mean_activation" (by default with `batches`),
            "activations", "taylor", "fisher", "group_fisher" or "hesso"; see `nas.supernet.scores`.  Units that it cannot
            measure, such as activations inside layers of unknown types, count by their magnitude, and a warning says so.
        trained: archs whose channels stay theirs.
        readers: as in `importance`.
        batches: inputs of the model; with `loss` whatever that takes.
        loss: for scores by gradients: a function of the network, which takes inputs in the form of the example, and of a batch if
            there are `batches`, that gives a scalar tensor.
        task: in place of both: its training batches, of 1,024 samples in all, and its loss; or its calibration inputs.
        optimizer: its state of the supernet's parameters is renumbered with them, or starts anew where its form is not known.

    Returns:
        For each axis the old number of the channel that now has each number.  Axes on which a tensor in an attribute is, such
        as positions that are no buffer, are not renumbered.

    Raises:
        SupernetError: there is no example; a pattern matches no tensor; data are missing, do not fit or give numbers that are not
            finite; the optimizer is LBFGS; or the output would change, since the model treats channels differently by their
            number (groups, shuffles, slices).  The supernet is then as it was.
    """
    check_separate(optimizer)
    data = Data(batches, loss, task)
    score = chosen(by, data)
    _check_patterns(supernet, readers)
    _hold_buffers(supernet)
    if supernet.example is None:
        raise SupernetError("reorder compares outputs before and after; give the supernet an example=")
    inputs = random_inputs(supernet, supernet.example)
    before = _outputs(supernet, inputs)
    kept = [_shapes(supernet, arch) for arch in trained]
    orders: dict[Axis, Tensor] = {}
    fixed = _on_tables(supernet)
    found = [axis for axis in axes(supernet) if axis.atom not in fixed]
    scores = _scores(supernet, found, readers, score, data)
    for axis in found:
        if axis.atom:
            bounds = {shapes.sizes[axis.atom] for shapes in kept}
        else:
            bounds = {shapes[name][dim] for shapes in kept for name, dim in axis.places if name in shapes}
        orders[axis] = ranking.order(scores[axis], sorted(bounds - {axis.length}))
    _renumber(supernet, orders, optimizer)
    if not _equal(before, _outputs(supernet, inputs)):
        _renumber(supernet, {axis: order.argsort() for axis, order in orders.items()}, optimizer)
        raise SupernetError(
            f"channels of space {supernet.space.name!r} cannot be renumbered: its largest arch would compute something "
            "else, since the model tells channels apart by their number (groups, shuffles, slices); train it unsorted"
        )
    return orders


@torch.no_grad()
def _renumber(supernet: Supernet, orders: Mapping[Axis, Tensor], optimizer: torch.optim.Optimizer | None) -> None:
    """In place: views on the tensors, and whoever else holds them, see it."""
    for axis, order in orders.items():
        for name, dim in axis.places:
            tensor = supernet._shared.tensor(name)
            kept = [] if optimizer is None else along(optimizer, tensor, dim)
            index = order
            if axis.atom:
                cut = _parts(supernet, name)
                index = parts.permuted(cut.axes[dim], cut.whole, {axis.atom: order})
            for one in (tensor, *kept):
                one.copy_(one.index_select(dim, index.to(one.device)))


def _hold_buffers(supernet: Supernet) -> None:
    """Hold what elastic models compute for each unit of an atom: constructors would number it as before."""
    module = build_skeleton(supernet.space, supernet.space.largest)
    whole, buffers = parts.sizes_of(module), buffers_of(module)
    more = set()
    for name, axes in parts.axes_of(module).items():
        if name in buffers and name not in supernet._shared.buffers:
            table, key = buffers[name]
            for dim, axis in enumerate(axes):
                turned = {atom: torch.arange(whole[atom]).roll(1) for atom in parts.atoms(axis)}
                index = parts.permuted(axis, whole, turned).to(table[key].device)
                if not torch.equal(table[key].index_select(dim, index), table[key]):
                    more.add(name)
    if more:
        supernet.hold(more)


def _on_tables(supernet: Supernet) -> set[str]:
    """Atoms of tensors that modules keep in attributes: a supernet has none of these, so that nothing could renumber them."""
    module = build_skeleton(supernet.space, supernet.space.largest)
    known = {*buffers_of(module), *(name for entry in parameters_of(module) for name in entry.names)}
    tables = [axes for name, axes in parts.axes_of(module).items() if name not in known]
    return {atom for axes in tables for axis in axes for atom in parts.atoms(axis)}


def _shapes(supernet: Supernet, arch: Arch) -> Shapes:
    """Shape of everything that is learnt in `arch`, by canonical name, and the lengths of its atoms."""
    return supernet._shared.union.shapes_of(build_skeleton(supernet.space, arch))


def reads(supernet: Supernet, arch: Arch) -> set[Place]:
    """The dimensions along which a layer of `arch` sums over its inputs; a tied tensor is read if one of its layers reads it."""
    module = build_skeleton(supernet.space, arch)
    owners = dict(module.named_modules(remove_duplicate=False))
    found = set()
    for entry in parameters_of(module):
        for name in entry.names:
            prefix, _, leaf = name.rpartition(".")
            dim = input_dim(owners[prefix], leaf)
            if dim is not None:
                found.add((supernet._shared.union.ties[name], dim))
    return found


def _free(supernet: Supernet, name: str, dim: int) -> bool:
    """Whether the numbers along a dimension are names only: not places in a kernel, not several axes in one."""
    cut = supernet._shared.union.cuts.get(name, CORNER)
    if isinstance(cut, KernelTransform):
        return dim < 2
    if isinstance(cut, CentreCrop):
        return dim not in cut.dims
    if isinstance(cut, Layout):
        return [len(term) for term in cut.groups[dim]] == [1]
    return isinstance(cut, Corner)


def _check_patterns(supernet: Supernet, patterns: Sequence[str]) -> None:
    names = supernet._shared.union.ties
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise SupernetError(
                f"reader pattern {pattern!r} matches no parameter of space {supernet.space.name!r}{suggest(pattern, names)}"
            )


def random_inputs(supernet: Supernet, example: Inputs) -> Inputs:
    """Inputs like the example, on the supernet's device, with numbers in place of its zeros."""
    generator, device = torch.Generator().manual_seed(0), supernet._shared.device

    def draw(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor.to(device)
        return torch.randn(tensor.shape, generator=generator).to(device, tensor.dtype)

    found: Inputs = convert(example, draw)
    return found


@torch.no_grad()
def _outputs(supernet: Supernet, inputs: Inputs) -> list[Tensor]:
    """Every number that the largest arch gives, in eval mode."""
    training = supernet.training
    supernet.eval()
    try:
        output = supernet(inputs, supernet.space.largest)
    finally:
        supernet.train(training)
    tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    return [tensor.clone() for tensor in tensors]


def _equal(before: Sequence[Tensor], after: Sequence[Tensor]) -> bool:
    """Up to rounding, relative to the largest number of each."""
    return all(
        bool((old - new).abs().max() <= TOLERANCE * old.abs().max())
        for old, new in zip(before, after, strict=True)
        if old.numel()
    )
