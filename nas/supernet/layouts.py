"""How a subnet's parameter is cut from the supernet's parameter of the same name.

The rule is the *leading corner*; a `Cut` declared for a parameter is the exception:

- `Layout("(qkv heads dim) in", qkv=3, dim=64)` for parameters that fuse several axes into one (`nas.supernet.fused`),
- `CentreCrop((2, 3))` for convolution kernels that shrink around their centre,
- `KernelTransform((7, 5, 3))` for the same with learned matrices (Cai et al. 2020, "Once-for-All").

Every cut is one or more strided *windows* on the supernet's parameter, plus, for learned transforms, a function of them.
Forward, gradients, extraction and initialisation all go through `windows` and `join`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from nas.checking import checked
from nas.errors import LayoutError, suggest
from nas.supernet.parts import Shape, Sizes
from nas.supernet.selection import Selection

KNOWN = 256
"""Selections that a cut keeps for reuse; they are small, and archs may have thousands."""


class Shapes(dict[str, Shape]):
    """Shape of each tensor of an arch that a supernet holds, by canonical name.

    Attributes:
        sizes: lengths of the arch's atoms; {} for models that are not made of atoms.
    """

    def __init__(self, shapes: Mapping[str, Shape] | None = None, sizes: Sizes | None = None) -> None:
        super().__init__(shapes or {})
        self.sizes: Sizes = sizes or {}


class Cut(ABC):
    """How the part of shape `shape` is taken from a whole parameter.

    A subclass that has another way to say it registers itself under its `kind`, which checkpoints store.
    """

    kind: ClassVar[str]
    kinds: ClassVar[dict[str, type[Cut]]] = {}

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if hasattr(cls, "kind"):
            Cut.kinds[cls.kind] = cls

    @abstractmethod
    def window(self, whole: Tensor, shape: Shape) -> Tensor:
        """Strided view of `whole` on the elements that the part of shape `shape` is made of.

        The view has the part's elements in the part's order; it may have more axes than the part (a fused axis taken apart).

        Raises:
            LayoutError: the shapes do not fit the cut.
        """

    def windows(self, whole: Tensor, shape: Shape) -> tuple[Tensor, ...]:
        """Every window that the part is made of: one, except where an axis is several parts, each cut on its own."""
        return (self.window(whole, shape),)

    def sources(self, whole: Tensor, shape: Shape) -> tuple[Tensor, ...]:
        """Views on `whole` that the part is computed from: its windows, or larger ones that have them, where that is faster."""
        return self.windows(whole, shape)

    def source(self, whole: Tensor, shape: Shape, index: int) -> Tensor:
        """The view with this number among `sources`."""
        return self.sources(whole, shape)[index]

    def apply(self, window: Tensor, shape: Shape, helpers: Mapping[str, Tensor]) -> Tensor:
        """The part of shape `shape`, as a differentiable function of its window and of the cut's own parameters."""
        del helpers
        return window if window.shape == shape else window.reshape(shape)

    def join(self, sources: Sequence[Tensor], whole: Shape, shape: Shape, helpers: Mapping[str, Tensor]) -> Tensor:
        """The part of shape `shape` of a parameter of shape `whole`, as a differentiable function of its `sources`."""
        del whole
        return self.apply(sources[0], shape, helpers)

    def split(self, part: Tensor, whole: Shape) -> tuple[Tensor, ...]:
        """What each window on a parameter of shape `whole` has of `part`, without the cut's function."""
        del whole
        return (part,)

    def placed(self, name: str, whole: Mapping[str, Shape], part: Mapping[str, Shape]) -> Cut:
        """This cut for the parameter `name` of an arch, whose shapes are `part`; those of the supernet are `whole`."""
        del name, whole, part
        return self

    def check(self, shape: Shape) -> None:
        """Refuse a supernet's parameter of shape `shape`, where the cut alone says that it does not fit.

        Raises:
            LayoutError: so it does.
        """
        del shape

    def helpers(self, shape: Shape) -> dict[str, Tensor]:
        """Initial values of the cut's own trainable parameters for a whole of shape `shape`, by suffix."""
        del shape
        return {}

    def needs(self, shape: Shape) -> tuple[str, ...]:
        """Suffixes of the helpers that a part of shape `shape` is computed with."""
        del shape
        return ()

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """JSON-able arguments, with `kind`."""

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Cut:
        """The cut that `to_json` described.

        Raises:
            LayoutError: its kind is unknown here.
        """
        arguments = dict(data)
        kind = arguments.pop("kind", None)
        if kind not in Cut.kinds:
            raise LayoutError(
                f"cut of kind {kind!r} is unknown; import the module that defines it first{suggest(str(kind), Cut.kinds)}"
            )
        return Cut.kinds[kind].from_arguments(arguments)

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Cut:
        """The cut of this kind with arguments of a JSON file."""
        return cls(**arguments)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cut) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        arguments = {key: value for key, value in self.to_json().items() if key != "kind"}
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


class Corner(Cut):
    """The leading corner: the first rows, columns, channels.  The rule where nothing else is declared."""

    kind = "corner"

    def window(self, whole: Tensor, shape: Shape) -> Tensor:
        """`whole[:shape[0], :shape[1], …]`."""
        if whole.shape == shape:
            return whole
        return whole[tuple([slice(length) for length in shape])]

    def to_json(self) -> dict[str, Any]:
        """No arguments."""
        return {"kind": self.kind}


class Selected(Cut):
    """A cut by axes, each of which is cut on its own: products and sums of what has a length in the whole and in the part."""

    @abstractmethod
    def selection(self, whole: Shape, shape: Shape) -> Selection:
        """What the part of shape `shape` keeps of a parameter of shape `whole`.

        Raises:
            LayoutError: the shapes do not fit the cut.
        """

    def window(self, whole: Tensor, shape: Shape) -> Tensor:
        """The window, with axes taken apart where they are cut; see `windows`."""
        selection = self.selection(whole.shape, shape)
        if len(selection) > 1:
            raise LayoutError(f"{self._shown}: {tuple(shape)} is made of {len(selection)} windows; ask for windows()")
        return selection.window(whole)

    def windows(self, whole: Tensor, shape: Shape) -> tuple[Tensor, ...]:
        """A window for every term of a sum that is cut, in the order in which the part of shape `shape` has them."""
        return self.selection(whole.shape, shape).windows(whole)

    def sources(self, whole: Tensor, shape: Shape) -> tuple[Tensor, ...]:
        """The windows, or where they are many one view that holds them all."""
        selection = self.selection(whole.shape, shape)
        return (selection.hull(whole),) if selection.gathers else selection.windows(whole)

    def source(self, whole: Tensor, shape: Shape, index: int) -> Tensor:
        """The view with this number among `sources`, without the others."""
        selection = self.selection(whole.shape, shape)
        return selection.hull(whole) if selection.gathers else selection.window(whole, index)

    def join(self, sources: Sequence[Tensor], whole: Shape, shape: Shape, helpers: Mapping[str, Tensor]) -> Tensor:
        """The windows one after the other, along each axis that is a sum."""
        del helpers
        selection = self.selection(whole, shape)
        return selection.gather(sources[0]) if selection.gathers else selection.join(sources)

    def split(self, part: Tensor, whole: Shape) -> tuple[Tensor, ...]:
        """What each window on a parameter of shape `whole` has of `part`."""
        return self.selection(whole, part.shape).split(part)

    @property
    def _shown(self) -> str:
        """What errors call it."""
        return repr(self)


class CentreCrop(Cut):
    """The centre along `dims`, the leading corner along the others: convolution kernels that shrink to their centre.

    >>> CentreCrop((2, 3)).window(torch.zeros(8, 4, 7, 7), (8, 4, 3, 3)).shape
    torch.Size([8, 4, 3, 3])
    """

    kind = "centre_crop"

    @checked(LayoutError)
    def __init__(self, dims: Sequence[int]) -> None:
        self.dims = tuple(dims)
        if not self.dims or any(not isinstance(dim, int) or dim < 0 for dim in self.dims):
            raise LayoutError(
                f"CentreCrop dims {dims!r} are not axis numbers from 0 upwards; a Conv2d kernel has (2, 3)"
            )

    def window(self, whole: Tensor, shape: Shape) -> Tensor:
        """The crop of `whole` to `shape`."""
        if whole.shape == shape:
            return whole
        return whole[tuple([self._slice(dim, whole.shape, shape) for dim in range(len(shape))])]

    def _slice(self, dim: int, whole: Shape, shape: Shape) -> slice:
        if dim not in self.dims:
            return slice(shape[dim])
        margin = whole[dim] - shape[dim]
        if margin % 2:
            raise LayoutError(
                f"{self}: length {shape[dim]} has no centre in length {whole[dim]}; make both odd or both even"
            )
        return slice(margin // 2, margin // 2 + shape[dim])

    def to_json(self) -> dict[str, Any]:
        """`dims`."""
        return {"kind": self.kind, "dims": list(self.dims)}


class KernelTransform(Cut):
    """Kernels that shrink around their centre through learned matrices, one for each step of `sizes`.

    The 5×5 kernel is `M₅ · (centre 5×5 of the 7×7 kernel)`, the 3×3 is `M₃ · (centre 3×3 of that 5×5)`, with M (k² × k²)
    shared by all channels of the layer and the identity at first.  The matrices are parameters of the supernet, named
    after the weight (`conv.weight_7to5`), trained and saved with it.  Cai et al. 2020, "Once-for-All".

    Args:
        sizes: kernel lengths from the largest down, of one parity.  All axes from the third on are kernel axes.
    """

    kind = "kernel_transform"

    @checked(LayoutError)
    def __init__(self, sizes: Sequence[int] = (7, 5, 3)) -> None:
        self.sizes = tuple(sizes)
        falling = all(
            big > small > 0 and (big - small) % 2 == 0 for big, small in zip(self.sizes, self.sizes[1:], strict=False)
        )
        if len(self.sizes) < 2 or not falling:
            raise LayoutError(f"KernelTransform sizes {sizes!r} do not fall in even steps; give them as in (7, 5, 3)")

    def window(self, whole: Tensor, shape: Shape) -> Tensor:
        """The whole kernels of the leading channels: the transform starts from them whatever the part's size."""
        lengths = set(shape[2:])
        if len(shape) < 3 or len(lengths) != 1 or not lengths <= set(self.sizes):
            raise LayoutError(f"{self}: a kernel of shape {shape} is not one of its sizes")
        if set(whole.shape[2:]) != {self.sizes[0]}:
            raise LayoutError(f"{self}: the largest kernel is {tuple(whole.shape[2:])}; begin sizes with its length")
        return whole[: shape[0], : shape[1]]

    def apply(self, window: Tensor, shape: Shape, helpers: Mapping[str, Tensor]) -> Tensor:
        """Crop and multiply down to the length of `shape`."""
        kernel = window
        for suffix, length in zip(self.needs(shape), self.sizes[1:], strict=False):
            margin = (kernel.shape[2] - length) // 2
            for axis in range(2, len(shape)):
                kernel = kernel.narrow(axis, margin, length)
            # (out, in, k, k) -> (out, in, k·k) · Mᵀ -> (out, in, k, k)
            kernel = functional.linear(kernel.flatten(2), helpers[suffix]).reshape(kernel.shape)
        return kernel

    def helpers(self, shape: Shape) -> dict[str, Tensor]:
        """Identity matrices for every step of `sizes`."""
        axes = len(shape) - 2
        return {
            suffix: torch.eye(length**axes) for suffix, length in zip(self._suffixes(), self.sizes[1:], strict=True)
        }

    def needs(self, shape: Shape) -> tuple[str, ...]:
        """The matrices from the largest size down to that of `shape`."""
        return self._suffixes()[: self.sizes.index(shape[2])]

    def _suffixes(self) -> tuple[str, ...]:
        return tuple(f"{big}to{small}" for big, small in zip(self.sizes, self.sizes[1:], strict=False))

    def to_json(self) -> dict[str, Any]:
        """`sizes`."""
        return {"kind": self.kind, "sizes": list(self.sizes)}
