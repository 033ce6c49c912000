"""How parameters of an elastic model are cut: by the atoms of their axes, whose lengths the arch says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from nas.errors import LayoutError, suggest
from nas.supernet import parts
from nas.supernet.layouts import KNOWN, Selected, Shapes
from nas.supernet.parts import Axis, Shape, Sizes
from nas.supernet.selection import Selection


class Parts(Selected):
    """Axes made of atoms; of each atom the first units are kept, as many as the arch has.

    A shape does not tell how a sum is divided (30 = 10 + 20 = 15 + 15), so the cut has to be `placed` in an arch, whose
    `Shapes` have the lengths of its atoms.

    Args:
        axes: of each dimension.
        whole: length of every atom in the supernet.

    Raises:
        LayoutError: an atom has no length, or one that is not positive.
    """

    kind = "parts"

    def __init__(self, axes: Sequence[Axis], whole: Sizes) -> None:
        self.axes = tuple(axes)
        atoms = list(dict.fromkeys(atom for axis in self.axes for atom in parts.atoms(axis)))
        self.whole = {atom: _size(atom, whole) for atom in atoms}
        self.shape: Shape = tuple(parts.length(axis, self.whole) for axis in self.axes)
        self._known: dict[tuple[int, ...], Placed] = {}

    def placed(self, name: str, whole: Mapping[str, Shape], part: Mapping[str, Shape]) -> Placed:
        """This cut in an arch, whose `part` are `Shapes`.

        Raises:
            LayoutError: an atom has no length there, or a larger one than in the supernet.
        """
        del name, whole
        sizes = part.sizes if isinstance(part, Shapes) else {}
        try:
            key = tuple([sizes[atom] for atom in self.whole])
        except KeyError as error:
            raise LayoutError(
                f"atom {error.args[0]!r} has no length in this arch{suggest(error.args[0], sizes)}; "
                "give the length of each atom of an axis"
            ) from None
        known = self._known.get(key)
        if known is None:
            if len(self._known) == KNOWN:
                self._known.clear()
            known = self._known[key] = Placed(self, dict(zip(self.whole, key, strict=True)))
        return known

    def check(self, shape: Shape) -> None:
        """Lengths of axes are those of `shape`."""
        if shape != self.shape:
            raise LayoutError(f"its shape is {shape}, and the lengths of its atoms make it {self.shape}")

    def selection(self, whole: Shape, shape: Shape) -> Selection:
        """Only of the whole: what a smaller part is made of depends on the arch."""
        if not self.shape == whole == shape:
            raise LayoutError(f"{self!r}: a part of shape {tuple(shape)} may be any; place the cut in an arch first")
        return Selection(self.axes, self.whole, self.whole)

    def to_json(self) -> dict[str, Any]:
        """`axes` and `whole`."""
        return {"kind": self.kind, "axes": [parts.to_json(axis) for axis in self.axes], "whole": dict(self.whole)}

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Parts:
        """The cut of a JSON file, which may say anything.

        Raises:
            LayoutError: it describes none.
        """
        axes, whole = arguments.get("axes"), arguments.get("whole")
        if arguments.keys() != {"axes", "whole"} or not isinstance(axes, list) or not isinstance(whole, dict):
            raise LayoutError(f"a cut of kind 'parts' has axes and whole, not {sorted(map(str, arguments))}")
        return Parts([parts.from_json(axis) for axis in axes], whole)


class Placed(Selected):
    """`Parts` in an arch whose atoms have the lengths `sizes`."""

    def __init__(self, cut: Parts, sizes: Sizes) -> None:
        self.cut = cut
        for atom, whole in cut.whole.items():
            if _size(atom, sizes) > whole:
                raise LayoutError(
                    f"atom {atom!r} is {sizes[atom]} long in this arch and {whole} in the supernet; "
                    "make the space's largest arch have the largest of every atom"
                )
        self._selection = Selection(cut.axes, cut.whole, sizes)

    def selection(self, whole: Shape, shape: Shape) -> Selection:
        """What the arch keeps."""
        found = self._selection
        if found.shape != shape or found.whole != whole:
            raise LayoutError(
                f"its shape is {tuple(shape)} of {tuple(whole)}, and the lengths of its atoms make it "
                f"{found.shape} of {found.whole}; give the built module the axes and lengths that it has"
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """As the cut that is placed."""
        return self.cut.to_json()


class Atoms:
    """What the built modules of several archs say of their atoms; see `parts.mark`.

    Attributes:
        axes: of every tensor that has some, by canonical name.
        sizes: largest length of each atom.
    """

    def __init__(self) -> None:
        self.axes: dict[str, tuple[Axis, ...]] = {}
        self.sizes: dict[str, int] = {}
        self._inside: set[str] = set()

    def add(self, module: nn.Module, ties: Mapping[str, str]) -> Sizes:
        """Take up an arch; the lengths of its atoms.

        Args:
            module: the built arch.
            ties: canonical name of every parameter name.

        Raises:
            LayoutError: it has other axes than an arch before.
        """
        self._inside.update(parts.elastic_in(module))
        for alias, axes in parts.axes_of(module).items():
            name = ties.get(alias, alias)
            if self.axes.setdefault(name, axes) != axes:
                raise LayoutError(
                    f"parameter {name!r} has axes {self.axes[name]} in one arch and {axes} in another; "
                    "give it the same in all archs, and only the lengths of atoms others"
                )
        sizes = parts.sizes_of(module)
        for atom, size in sizes.items():
            self.sizes[atom] = max(size, self.sizes.get(atom, size))
        return sizes

    def inside(self, name: str) -> bool:
        """Is the tensor `name` one of an elastic model, which is cut by its axes or is whole?"""
        return name in self.axes or name.startswith(tuple(self._inside))

    def vary(self, name: str, archs: Sequence[Sizes]) -> bool:
        """Has the tensor `name` another size in some of `archs`?"""
        every = {atom for axis in self.axes.get(name, ()) for atom in parts.atoms(axis)}
        return any(len({sizes[atom] for sizes in archs if atom in sizes}) > 1 for atom in every)

    def cut(self, name: str) -> Parts | None:
        """How the tensor `name` is cut; None if it has no axes.

        Raises:
            LayoutError: nobody says how long one of its atoms is.
        """
        if name not in self.axes:
            return None
        try:
            return Parts(self.axes[name], self.sizes)
        except LayoutError as error:
            raise LayoutError(f"parameter {name!r}: {error}") from error


def _size(atom: str, sizes: Sizes) -> int:
    if atom not in sizes:
        raise LayoutError(f"atom {atom!r} has no length{suggest(atom, sizes)}; give the length of each atom of an axis")
    size = sizes[atom]
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise LayoutError(f"atom {atom!r} has length {size!r}, which is no positive whole number")
    return size
