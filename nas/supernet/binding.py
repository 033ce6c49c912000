"""A subnet whose parameters are views on the supernet's: what training and evaluation call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import getitem, is_
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nas.errors import LayoutError, SupernetError
from nas.supernet.inputs import Inputs, call
from nas.supernet.layouts import Cut
from nas.supernet.parts import Shape
from nas.supernet.shared import Shared
from nas.supernet.skeleton import Slot, buffers_of, parameters_of
from nas.supernet.union import CORNER

if TYPE_CHECKING:
    from nas.supernet.watching import Seen, Watch


class Delivery:
    """Adds the gradient of a window to that of the whole: the hook of a leaf's parameter.

    It knows nothing of the parameter, which holds it: the garbage collector does not see through hooks, and such a circle would
    stay for ever.  It outlives the leaf, since a backward may come after its binding has gone.
    """

    __slots__ = ("cut", "index", "shape", "whole")

    def __init__(self, whole: Tensor, cut: Cut, shape: Shape, index: int) -> None:
        self.whole, self.cut, self.shape, self.index = whole, cut, shape, index

    def __call__(self, parameter: Tensor) -> None:
        """Takes the parameter's gradient away from it."""
        if torch.is_grad_enabled():
            raise SupernetError(
                "a bound subnet cannot keep the graph of its backward (create_graph=True); "
                "call supernet(inputs, arch) for second derivatives"
            )
        gradient, parameter.grad = parameter.grad, None
        whole = self.whole
        assert gradient is not None
        if whole.grad is None:
            if gradient.shape == whole.shape and gradient.stride() == whole.stride():
                whole.grad = gradient  # the largest arch's own: neither zeroed nor added
                return
            whole.grad = torch.zeros_like(whole)
        self.window(whole.grad).add_(gradient)

    def window(self, whole: Tensor) -> Tensor:
        """The part of `whole` that the parameter is."""
        return self.cut.source(whole, self.shape, self.index)


class Leaf:
    """A parameter that is a window on one of the supernet's, and whose gradient is added to that one's at once.

    The addition is a hook of the backward pass, so that any `loss.backward()` reaches the supernet, whatever happened to its
    `.grad` meanwhile (set to None, replaced), and nothing of the supernet's size is allocated for a small subnet.
    """

    __slots__ = ("cut", "home", "index", "parameter", "shape", "whole")

    def __init__(self, home: Slot, cut: Cut, shape: Shape, index: int = 0) -> None:
        self.home = home
        self.cut = cut
        self.shape = shape
        self.index = index  # of the view, among the cut's sources
        self.attach()

    def attach(self) -> None:
        """Make the parameter anew, on what hangs at home now."""
        table, key = self.home
        whole: Tensor = table[key]
        self.whole = whole
        delivery = Delivery(whole, self.cut, self.shape, self.index)
        self.parameter = nn.Parameter(delivery.window(whole.detach()), requires_grad=whole.requires_grad)
        if whole.requires_grad:
            self.parameter.register_post_accumulate_grad_hook(delivery)  # type: ignore[no-untyped-call]


class Places:
    """Tells whether any parameter of the supernet was replaced, moved or frozen since.

    Asked before every call of a subnet, so it goes through plain lists without a line of Python for each.
    """

    def __init__(self, leaves: Sequence[Leaf]) -> None:
        self._tables = [leaf.home[0] for leaf in leaves]
        self._keys = [leaf.home[1] for leaf in leaves]
        self._wholes = [leaf.whole for leaf in leaves]
        self._pointers = [whole.data_ptr() for whole in self._wholes]
        self._trainable = [whole.requires_grad for whole in self._wholes]

    def changed(self) -> bool:
        """Is there one?  Without gradients only storage matters; every tensor looked at is one more to fetch from memory."""
        if list(map(Tensor.data_ptr, map(getitem, self._tables, self._keys))) != self._pointers:
            return True
        if not torch.is_grad_enabled():
            return False
        wholes = self._wholes
        if not all(map(is_, map(getitem, self._tables, self._keys), wholes)):
            return True
        return [whole.requires_grad for whole in wholes] != self._trainable


class Computed:
    """A parameter that is no plain view: computed from its leaves, and the cut's own parameters, before each call."""

    __slots__ = ("helpers", "leaves", "slots")

    def __init__(self, leaves: Sequence[Leaf], helpers: Mapping[str, Leaf], slots: Sequence[Slot]) -> None:
        self.leaves = leaves
        self.helpers = helpers
        self.slots = slots

    def refresh(self) -> None:
        """Compute it."""
        leaf, windows = self.leaves[0], [leaf.parameter for leaf in self.leaves]
        helpers = {suffix: helper.parameter for suffix, helper in self.helpers.items()}
        hang(leaf.cut.join(windows, leaf.whole.shape, leaf.shape, helpers), self.slots)


class _Copied:
    """A learnt buffer that a subnet has a copy of, since its part of the supernet's is no plain view."""

    __slots__ = ("_state", "_version", "_whole", "tensor")

    def __init__(self, tensor: Tensor, whole: Tensor, trained: int) -> None:
        self.tensor = tensor
        self._version = tensor._version
        self._whole, self._state = whole, (whole._version, trained)

    @property
    def written(self) -> bool:
        """Was it written to since, as far as torch counts that?  It does not where layers update running statistics."""
        return self.tensor._version != self._version

    def is_of(self, whole: Tensor, trained: int) -> bool:
        """Is `whole` what it was copied from, and not written to since?"""
        return whole is self._whole and (whole._version, trained) == self._state


def _share(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


class Binding:
    """The subnet of one arch, ready to be called; see `Supernet.bind`.

    Attributes:
        module: the model itself.  Its parameters are views on the supernet's storage, so it sees every update, and
            their gradients are added to the supernet's during backward.  Parameters that are no plain views (fused
            layouts, learned transforms) are computed anew at each call of the binding: call that, not the module.
        entries: names (several when tied) and shape of each of its parameters.
        watch: of its calls; None where nobody watches.
        compiled: the module as `torch.compile` gives it, which is called in training mode; None calls the module.
        shapes: of everything in it that the supernet holds, by canonical name.
        fitted: whether its linear maps were looked at, and are no longer the identity.
    """

    def __init__(self, shared: Shared, module: nn.Module, root: nn.Module) -> None:
        self.module = module
        self.watch: Watch | None = None
        self.fitted = False
        self.compiled: nn.Module | None = None
        self._shared = shared
        self._root = root  # whose training mode counts
        self._leaves: list[tuple[Leaf, Sequence[Slot]]] = []
        self._computed: list[Computed] = []
        self._copied: dict[str, _Copied] = {}  # learnt buffers that are no plain views
        self._buffers = buffers_of(module)
        parameters = parameters_of(module)
        self.entries: list[tuple[list[str], Shape]] = [(entry.names, tuple(entry.shape)) for entry in parameters]
        self.shapes = shared.union.shapes_of(module)
        with torch.inference_mode(False), torch.no_grad():
            for (names, shape), entry in zip(self.entries, parameters, strict=True):
                self._take(names, shape, entry.slots)
            self.place()
        self._places = Places([leaf for leaf, _ in self._leaves])

    def _take(self, names: list[str], shape: Shape, slots: Sequence[Slot]) -> None:
        """Put a leaf, or what is computed from one, where the module has its parameter `names`."""
        name = self._shared.name_of(names, shape)
        home = self._shared.homes[name]
        try:
            cut = self._shared.union.cut(name, self.shapes)
            leaves = [Leaf(home, cut, shape)]
            count = len(cut.sources(leaves[0].whole, shape))
            leaves += [Leaf(home, cut, shape, index) for index in range(1, count)]
        except LayoutError as error:
            raise LayoutError(f"parameter {name!r}: {error}") from error
        if leaves[0].parameter.shape == shape:
            self._leaves.append((leaves[0], slots))
            hang(leaves[0].parameter, slots)
            return
        helpers = {suffix: self._helper(f"{name}_{suffix}") for suffix in cut.needs(shape)}
        self._leaves.extend((part, ()) for part in (*leaves, *helpers.values()))
        self._computed.append(Computed(leaves, helpers, slots))

    def _helper(self, name: str) -> Leaf:
        return Leaf(self._shared.homes[name], CORNER, self._shared.tensor(name).shape)

    @torch.no_grad()
    def place(self) -> None:
        """Put buffers where the weights are, the learnt ones as views, or as copies where no view has them."""
        self._generation = self._shared.generation
        with torch.inference_mode(False):
            for name, (table, key) in self._buffers.items():
                table[key] = self._shared.buffer(name, table[key], self.shapes)
                if name in self._shared.buffers and not _share(table[key], self._shared.tensor(name)):
                    self._copied[name] = _Copied(table[key], self._shared.tensor(name), self._shared.trained)

    def refresh(self) -> None:
        """Bring views, computed parameters and the training mode up to date with the supernet."""
        if self._places.changed():
            self._attach()
        elif self._generation != self._shared.generation:
            self.place()
        elif self._copied:
            self._copy()
        for computed in self._computed:
            computed.refresh()
        if self.module.training != self._root.training:
            self.module.train(self._root.training)

    def _attach(self) -> None:
        """Make all views anew: a parameter of the supernet was replaced, moved, frozen or thawed."""
        with torch.inference_mode(False), torch.no_grad():
            for leaf, slots in self._leaves:
                leaf.attach()
                hang(leaf.parameter, slots)
            self.place()
        self._places = Places([leaf for leaf, _ in self._leaves])

    def __call__(self, inputs: Inputs, buffers: Mapping[str, Tensor] | None = None) -> Any:
        """Output of the subnet; `buffers` (from `Supernet.calibrate`) replace its own during the call.

        Raises:
            SupernetError: `buffers` are of another arch.
        """
        self.refresh()
        if not buffers:
            return self._call(inputs)
        with self.buffers(buffers):
            return self._call(inputs)

    def _call(self, inputs: Inputs) -> Any:
        seen = self._before(inputs)
        compiled = self.compiled if self.module.training else None
        output = call(self.module if compiled is None else compiled, inputs)
        self._after(seen, inputs)
        return output

    @contextmanager
    def watched(self, inputs: Inputs) -> Iterator[None]:
        """Inside the module is called with `inputs`, or parts of it are, one after the other."""
        seen = self._before(inputs)
        yield
        self._after(seen, inputs)

    def _before(self, inputs: Inputs) -> Seen | None:
        return self.watch.before(inputs) if self.watch is not None else None

    def _after(self, seen: Seen | None, inputs: Inputs) -> None:
        self._shared.trained += self.module.training
        if self._copied:
            self._give_back()
        if self.watch is not None:
            self.watch.after(seen, inputs)

    @torch.no_grad()
    def _copy(self) -> None:
        """Copy learnt buffers again that are no views, where the supernet's have changed."""
        with torch.inference_mode(False):
            for name, copied in self._copied.items():
                whole = self._shared.tensor(name)
                if not copied.is_of(whole, self._shared.trained):
                    table, key = self._buffers[name]
                    table[key] = self._shared.buffer(name, table[key], self.shapes)
                    self._copied[name] = _Copied(table[key], whole, self._shared.trained)

    @torch.no_grad()
    def _give_back(self) -> None:
        """Write to the supernet what a call left in copies of its buffers."""
        with torch.inference_mode(False):
            for name, copied in self._copied.items():
                table, key = self._buffers[name]
                if table[key] is copied.tensor and (self.module.training or copied.written):
                    self._shared.write(name, copied.tensor, self.shapes)
                    self._copied[name] = _Copied(copied.tensor, self._shared.tensor(name), self._shared.trained)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` to the supernet's; the same as `loss.backward()`."""
        loss.backward()  # type: ignore[no-untyped-call]

    @contextmanager
    def buffers(self, buffers: Mapping[str, Tensor]) -> Iterator[None]:
        """The module with `buffers` in place of its own.

        Raises:
            SupernetError: the arch has no such buffer, or one of another shape.
        """
        saved = replace_buffers(self._buffers, buffers)
        try:
            yield
        finally:
            for (table, key), tensor in saved:
                table[key] = tensor

    def copies(self, held: bool = False) -> dict[str, Tensor]:
        """A copy of every buffer, or of those that the supernet holds."""
        names = self._shared.buffers if held else self._buffers
        return {name: t[key].detach().clone() for name, (t, key) in self._buffers.items() if name in names}

    def take_buffers(self, other: Binding) -> None:
        """Have the buffers of `other`, a binding of the same arch."""
        replace_buffers(self._buffers, other.copies())


def replace_buffers(slots: Mapping[str, Slot], buffers: Mapping[str, Tensor]) -> list[tuple[Slot, Tensor]]:
    """Hang `buffers` in `slots`; what hung there before.

    Raises:
        SupernetError: there is no slot for one of them, or for one of another shape; nothing is replaced then.
    """
    for name, tensor in buffers.items():
        slot = slots.get(name)
        if slot is None or slot[0][slot[1]].shape != tensor.shape:
            raise SupernetError(
                f"buffer {name!r} of shape {tuple(tensor.shape)} is not one of this arch; give what calibrate gave for it"
            )
    saved = [(slots[name], slots[name][0][slots[name][1]]) for name in buffers]
    for name, tensor in buffers.items():
        table, key = slots[name]
        table[key] = tensor
    return saved


def hang(tensor: Tensor, slots: Sequence[Slot]) -> None:
    """Put `tensor` in every slot."""
    for table, key in slots:
        table[key] = tensor
