"""Which layouts would unmix what a corner mixes: a few usual ones, each tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from nas.errors import LayoutError
from nas.supernet.comparing import Difference, Place
from nas.supernet.fused import Layout
from nas.supernet.parts import Shape
from nas.supernet.probing import Probe
from nas.supernet.union import Union

Cure = Mapping[str, Layout]
"""Layouts to declare, by name."""

ROUNDS = 4
"""Layers cured one after the other, at most."""

MOST_PARTS = 64


def cures(union: Union, mixed: Difference, small: Probe, attempt: Callable[[Union], list[Difference]]) -> Cure | None:
    """Layouts with which nothing is mixed any more, at least at the layer of `mixed`; None if no usual ones do that.

    Args:
        union: what is cut now.
        mixed: the first layer that gets mixed units.
        small: a probe of the subnet.
        attempt: what is mixed with another union.
    """
    found: dict[str, Layout] = {}
    for _ in range(ROUNDS):
        for candidate in _candidates(union, mixed, small):
            trial = replace(union, cuts={**union.cuts, **candidate})
            try:
                left = attempt(trial)
            except (LayoutError, RuntimeError):
                continue
            if all((each.key, each.reader) != (mixed.key, mixed.reader) for each in left):
                found |= candidate
                break
        else:
            return found or None
        if not left:
            return found
        union, mixed = trial, left[0]
    return found


def _candidates(union: Union, mixed: Difference, small: Probe) -> Iterator[dict[str, Layout]]:
    """Likely ones first: parts of the longer side, a sum of what writes, parts of both sides."""
    reader = [place for place in (mixed.reader,) if place is not None and _elastic(union, small.shapes, place)]
    writers = [place for place in mixed.writers if _elastic(union, small.shapes, place)]
    if mixed.reader is not None and reader:
        summed = _sum(union, small.shapes, mixed.reader, mixed.writers)
        if summed is not None:
            yield from _layouts(union, small, [(mixed.reader, summed)])
    several = [writers, reader, [*writers, *reader], *([one] for one in writers if len(writers) > 1)]
    for places in several:
        if not places:
            continue
        lengths = [(union.shapes[name][dim], small.shapes[name][dim]) for name, dim in places]
        for parts in range(2, MOST_PARTS + 1):
            if all(whole % parts == 0 and part % parts == 0 for whole, part in lengths):
                yield from _layouts(union, small, [(place, ("(parts {})", {"parts": parts})) for place in places])


def _elastic(union: Union, shapes: Mapping[str, Shape], place: Place) -> bool:
    if place.name not in shapes or place.name in union.cuts:
        return False
    return shapes[place.name][place.dim] != union.shapes[place.name][place.dim]


Axis = tuple[str, dict[str, int | str]]
"""A dimension of a pattern, with `{}` for its elastic axis, and the sizes in it."""


def _sum(union: Union, shapes: Mapping[str, Shape], reader: Place, writers: Sequence[Place]) -> Axis | None:
    """The reader's axis as what was written, one after the other, where that is as long."""
    if len(writers) < 2:
        return None
    for lengths in (union.shapes, shapes):
        if sum(lengths[name][dim] for name, dim in writers) != lengths[reader.name][reader.dim]:
            return None
    terms, sizes = [], {}
    for index, (name, dim) in enumerate(writers):
        terms.append(f"part{index}")
        sizes[f"part{index}"] = f"{name}[{dim}]"
    return f"({' + '.join(terms)})", dict(sizes)


def _layouts(union: Union, small: Probe, axes: Sequence[tuple[Place, Axis]]) -> Iterator[dict[str, Layout]]:
    """The layouts of parameters some of whose dimensions are `axes`, with what else of their layers runs along them."""
    chosen: dict[str, dict[int, Axis]] = {}
    for place, axis in axes:
        chosen.setdefault(place.name, {})[place.dim] = axis
        prefix, length = place.name.rpartition(".")[0], union.shapes[place.name][place.dim]
        writes = len(union.shapes[place.name]) == 1 or not (place.dim and "weight" in place.name)
        for name, shape in union.shapes.items():
            beside = name.rpartition(".")[0] == prefix and name != place.name
            if beside and writes and shape == (length,) and name in small.shapes and name not in union.cuts:
                chosen.setdefault(name, {})[0] = axis
    yield {name: _layout(len(union.shapes[name]), dims) for name, dims in chosen.items()}


def _layout(dims: int, axes: Mapping[int, Axis]) -> Layout:
    names = ["out", "in", *(f"k{dim}" for dim in range(2, dims))][:dims] if dims > 1 else ["out"]
    sizes: dict[str, int | str] = {}
    for dim, (pattern, given) in axes.items():
        parts = "parts" if len(axes) == 1 else f"parts{dim}"  # the same name in two dimensions would be the same axis
        names[dim] = pattern.format(names[dim]).replace("parts", parts)
        sizes |= {key.replace("parts", parts): value for key, value in given.items()}
    return Layout(" ".join(names), **sizes)
