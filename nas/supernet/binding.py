"""A subnet whose parameters are views on the supernet's: what training and evaluation call.

Gradients accumulate in place, in the supernet's own gradient: nothing of the supernet's size is allocated for a small subnet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nas.errors import LayoutError, SupernetError
from nas.supernet.inputs import Inputs, call
from nas.supernet.layouts import Cut, Shape
from nas.supernet.skeleton import Slot, buffers_of, parameters_of

if TYPE_CHECKING:
    from nas.supernet.supernet import Supernet


class Leaf:
    """A parameter that is a window on one of the supernet's, and whose gradient is added to that one's at once."""

    __slots__ = ("_pointer", "_whole", "cut", "home", "parameter", "shape")

    def __init__(self, home: Slot, cut: Cut, shape: Shape) -> None:
        self.home = home
        self.cut = cut
        self.shape = shape
        self._attach()

    def _attach(self) -> None:
        table, key = self.home
        whole: Tensor = table[key]
        self._whole, self._pointer = whole, whole.data_ptr()
        with torch.inference_mode(False), torch.no_grad():
            window = self.cut.window(whole.detach(), self.shape)
        self.parameter = nn.Parameter(window, requires_grad=whole.requires_grad)
        if whole.requires_grad:
            self.parameter.register_post_accumulate_grad_hook(self._deliver)  # type: ignore[no-untyped-call]

    def refresh(self) -> bool:
        """Follow the supernet's parameter if it was replaced, moved or frozen; True when it was."""
        table, key = self.home
        whole = table[key]
        if (
            whole is self._whole
            and whole.data_ptr() == self._pointer
            and whole.requires_grad == self.parameter.requires_grad
        ):
            return False
        self._attach()
        return True

    def _deliver(self, parameter: Tensor) -> None:
        """Add the window's gradient to the supernet's."""
        if torch.is_grad_enabled():
            raise SupernetError(
                "a bound subnet cannot keep the graph of its backward (create_graph=True); "
                "call supernet(inputs, arch) for second derivatives"
            )
        gradient, parameter.grad = parameter.grad, None
        whole = self._whole
        assert gradient is not None
        if whole.grad is None and gradient.shape == whole.shape:
            whole.grad = gradient
            return
        if whole.grad is None:
            whole.grad = torch.zeros_like(whole)
        self.cut.window(whole.grad, self.shape).add_(gradient)


class Binding:
    """The subnet of one arch, ready to be called; see `Supernet.bind`.

    Attributes:
        module: the model itself.  Its parameters are views on the supernet's storage, so it sees every update, and
            their gradients are added to the supernet's during backward.  Parameters that are no plain views (fused
            layouts, learned transforms) are computed anew at each call of the binding: call that, not the module.
    """

    def __init__(self, supernet: Supernet, module: nn.Module) -> None:
        self.module = module
        self._supernet = supernet
        self._leaves: list[tuple[Leaf, Sequence[Slot]]] = []
        self._computed: list[tuple[Cut, Shape, Leaf, dict[str, Leaf], list[Slot]]] = []
        for entry in parameters_of(module):
            self._take(entry.names, tuple(entry.shape), entry.slots)
        self._buffers = buffers_of(module)
        self._device: torch.device | None = None
        self._place()

    def _take(self, names: list[str], shape: Shape, slots: list[Slot]) -> None:
        """Put a leaf, or what is computed from one, where the module has its parameter `names`."""
        name = self._supernet.held(names, shape)
        home, cut = self._supernet.home(name), self._supernet.cut_of(name)
        try:
            leaf = Leaf(home, cut, shape)
        except LayoutError as error:
            raise LayoutError(f"parameter {name!r}: {error}") from error
        if leaf.parameter.shape == shape:
            self._leaves.append((leaf, tuple(slots)))
            _hang(leaf.parameter, slots)
            return
        helpers = {}
        for suffix in cut.needs(shape):
            helper = self._supernet.home(f"{name}_{suffix}")
            helpers[suffix] = Leaf(helper, self._supernet.cut_of(""), tuple(helper[0][helper[1]].shape))
        self._leaves.extend((part, ()) for part in (leaf, *helpers.values()))
        self._computed.append((cut, shape, leaf, helpers, slots))

    def _place(self) -> None:
        """Put buffers on the supernet's device, the learnt ones as views on the supernet's."""
        device = self._supernet.device
        held = self._supernet.buffer_homes
        for name, (table, key) in self._buffers.items():
            if name in held:
                whole = held[name][0][held[name][1]]
                table[key] = self._supernet.cut_of(name).window(whole, tuple(table[key].shape))
            elif table[key].device != device:
                table[key] = table[key].to(device)
        self._device = device

    def refresh(self) -> None:
        """Bring views, computed parameters and the training mode up to date with the supernet."""
        moved = False
        for leaf, slots in self._leaves:
            if leaf.refresh():
                moved = True
                _hang(leaf.parameter, slots)
        if moved:
            self._place()
        for cut, shape, leaf, helpers, homes in self._computed:
            matrices = {suffix: helper.parameter for suffix, helper in helpers.items()}
            _hang(cut.apply(leaf.parameter, shape, matrices), homes)
        if self.module.training != self._supernet.training:
            self.module.train(self._supernet.training)

    def __call__(self, inputs: Inputs, buffers: Mapping[str, Tensor] | None = None) -> Any:
        """Output of the subnet; `buffers` (from `Supernet.calibrate`) replace its own during the call."""
        self.refresh()
        if not buffers:
            return call(self.module, inputs)
        with self.buffers(buffers):
            return call(self.module, inputs)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` to the supernet's; the same as `loss.backward()`."""
        loss.backward()  # type: ignore[no-untyped-call]

    @contextmanager
    def buffers(self, buffers: Mapping[str, Tensor]) -> Iterator[None]:
        """The module with `buffers` in place of its own.

        Raises:
            SupernetError: the arch has no such buffer, or one of another shape.
        """
        for name, tensor in buffers.items():
            slot = self._buffers.get(name)
            if slot is None or slot[0][slot[1]].shape != tensor.shape:
                raise SupernetError(
                    f"buffer {name!r} of shape {tuple(tensor.shape)} is not one of this arch; calibrate the arch that is called"
                )
        saved = [(table, key, table[key]) for table, key in map(self._buffers.__getitem__, buffers)]
        try:
            for name, tensor in buffers.items():
                table, key = self._buffers[name]
                table[key] = tensor
            yield
        finally:
            for table, key, tensor in saved:
                table[key] = tensor


def _hang(tensor: Tensor, slots: Sequence[Slot]) -> None:
    for table, key in slots:
        table[key] = tensor
