"""The parts that a model is made of, with the shapes that they are called with, found by running it without weights.

A part is a leaf module (a kernel), or a module of a class that the caller names (a block).  What a model does between its
parts, an addition or a reshape, belongs to none: blocks take it along.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nas.errors import PredictorError
from nas.supernet.inputs import Inputs, batch_size, call, convert, some

if TYPE_CHECKING:
    from nas.space import Arch

_FREE = (nn.Identity, nn.Dropout)
UNFIT = (RuntimeError, NotImplementedError, ValueError, TypeError, IndexError, KeyError)
"""What a module raises that does not take its inputs."""


@dataclass(frozen=True)
class Part:
    """A module that runs on one input shape.

    Args:
        key: says what it is and what it is called with; equal keys take equal time.
        family: what parts it may be compared with: "conv2d k3", "conv2d k3 depthwise", "linear".
        macs: multiply-accumulates of one sample, of convolutions and linear layers in it.
        inputs: elements that come in, of one sample.
        outputs: elements that go out, of one sample.
        weights: parameters.
        module: the module itself, without weights where it was found in a skeleton.
        shapes: of its input tensors, the batch included.
        channels_last: its first input is laid out so in memory; other kernels run then.
        whole: number types of its input tensors that are whole numbers, by their place.
        among: bytes of the weights of the model that it was found in.
    """

    key: str
    family: str
    macs: int
    inputs: int
    outputs: int
    weights: int
    module: nn.Module = field(compare=False, repr=False)
    shapes: tuple[tuple[int, ...], ...] = ()
    channels_last: bool = False
    whole: Mapping[int, torch.dtype] = field(default_factory=dict, compare=False)
    among: int = field(default=0, compare=False)


def parts(module: nn.Module, example: Inputs, blocks: Collection[str] = ()) -> list[Part]:
    """Every part of `module` in the order in which it runs; one that runs twice is there twice.

    Args:
        module: is run once, without gradients, in the mode that it is in.
        example: inputs that it takes.
        blocks: class names of modules that are one part each, whatever they contain.

    Raises:
        PredictorError: the module does not run on the example, or without calling its modules.
    """
    found: list[Part] = []
    samples = batch_size(example)
    with _watched(module, blocks, lambda part, args, output: found.append(_part(part, args, output, samples))):
        try:
            with torch.no_grad():
                call(module, example)
        except UNFIT as error:
            raise PredictorError(
                f"parts of {type(module).__name__} cannot be found, because it does not run on the example: {error}"
            ) from error
    if not found and any(True for _ in module.parameters()):
        raise PredictorError(
            f"{type(module).__name__} calls none of its modules, so that it has no parts; a LookUp of operators=True needs none"
        )
    return found


def realised(part: Part) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The part's module with weights, and inputs in the shapes and layout that it is called with; whole numbers are zeros.

    Raises:
        PredictorError: it does not run on these alone, as where it is called with keywords.
    """
    module = part.module.to_empty(device="cpu").eval()
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.fill_(1)
    inputs = [
        torch.zeros(shape, dtype=part.whole[place]) if place in part.whole else torch.randn(shape)
        for place, shape in enumerate(part.shapes)
    ]
    if part.channels_last:
        inputs[0] = inputs[0].contiguous(memory_format=torch.channels_last)
    try:
        with torch.no_grad():
            module(*inputs)
    except UNFIT as error:
        raise PredictorError(
            f"part {part.key} does not run by itself on its positional tensors ({error}); a LookUp of operators=True needs no "
            "modules"
        ) from error
    return module, tuple(inputs)


def parts_of(arch: Arch, example: Inputs, blocks: Collection[str] = ()) -> list[Part]:
    """Parts of the model that an arch describes, for one sample: on the meta device where it runs there, else for real."""
    example = some(example, slice(1))
    with torch.device("cpu"):
        module: nn.Module = _built(arch)
    try:
        return parts(_on_meta(module).eval(), convert(example, lambda tensor: tensor.to("meta")), blocks)
    except PredictorError:
        return parts(arch.space.build(arch).eval(), example, blocks)


def _built(arch: Arch) -> nn.Module:
    from nas.supernet.skeleton import parameters_on_meta, quiet

    with quiet(), parameters_on_meta():
        module = arch.space.build(arch)
    if not isinstance(module, nn.Module):
        raise PredictorError(f"space {arch.space.name!r} builds a {type(module).__name__}, no module; it has no parts")
    return module


def _on_meta(module: nn.Module) -> nn.Module:
    """Buffers too, and the tensors that a module keeps as plain attributes."""
    module.to("meta")
    for owner in module.modules():
        for key, value in vars(owner).items():
            if isinstance(value, Tensor):
                vars(owner)[key] = value.to("meta")
    return module


@contextmanager
def _watched(module: nn.Module, blocks: Collection[str], note: Callable[[nn.Module, Any, Any], None]) -> Iterator[None]:
    handles = [
        one.register_forward_hook(lambda part, args, output: note(part, args, output)) for one in _units(module, blocks)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _units(module: nn.Module, blocks: Collection[str]) -> Iterator[nn.Module]:
    """Blocks and, outside of them, leaves."""
    seen: set[int] = set()

    def walk(one: nn.Module) -> Iterator[nn.Module]:
        if id(one) in seen:
            return
        seen.add(id(one))
        children = list(one.children())
        if type(one).__name__ in blocks or (not children and not isinstance(one, _FREE)):
            yield one
            return
        for child in children:
            yield from walk(child)

    yield from walk(module)


def _part(module: nn.Module, args: tuple[Any, ...], output: Any, samples: int) -> Part:
    tensors = [value for value in args if isinstance(value, Tensor)]
    shapes = tuple(tuple(tensor.shape) for tensor in tensors)
    inner = list(_units(module, ())) if list(module.children()) else [module]
    out = output if isinstance(output, Tensor) else None
    last = bool(tensors) and _is_channels_last(tensors[0])
    weights = sum(parameter.numel() for parameter in module.parameters())
    return Part(
        key=_key(module, shapes, samples) + (" channels last" if last else ""),
        family=_family(module),
        macs=_macs(module, out, samples) if inner == [module] else 0,
        inputs=sum(tensor.numel() for tensor in tensors) // samples,
        outputs=0 if out is None else out.numel() // samples,
        weights=weights,
        module=module,
        shapes=shapes,
        channels_last=last,
        whole={place: one.dtype for place, one in enumerate(tensors) if not one.is_floating_point()},
    )


def _is_channels_last(tensor: Tensor) -> bool:
    """And not laid out both ways, as an image of one pixel is."""
    return (
        tensor.dim() == 4
        and tensor.is_contiguous(memory_format=torch.channels_last)
        and not tensor.is_contiguous(memory_format=torch.contiguous_format)
    )


def _key(module: nn.Module, shapes: tuple[tuple[int, ...], ...], samples: int) -> str:
    first = shapes[0] if shapes else ()  # the samples, unless the model keeps something else there
    size = "x".join(map(str, first[1:] if first[:1] == (samples,) else first)) if shapes else "nothing"
    if isinstance(module, nn.Conv2d):
        k, s = "x".join(map(str, dict.fromkeys(module.kernel_size))), module.stride[0]
        groups = f", groups={module.groups}" if module.groups > 1 else ""
        stride = f", stride={s}" if s > 1 else ""
        bias = ", bias" if module.bias is not None else ""
        return f"conv2d(in={module.in_channels}, out={module.out_channels}, k={k}{stride}{groups}{bias}, at={size})"
    if isinstance(module, nn.Linear):
        return f"linear(in={module.in_features}, out={module.out_features}, at={size})"
    name = type(module).__name__
    if list(module.children()):
        digest = hashlib.blake2b(repr(module).encode(), digest_size=4).hexdigest()
        return f"{name}(at={size}, {digest})"
    extra = module.extra_repr()
    return f"{name}({extra + ', ' if extra else ''}at={size})"


def _family(module: nn.Module) -> str:
    if isinstance(module, nn.Conv2d):
        depthwise = " depthwise" if module.groups > 1 and module.groups == module.in_channels else ""
        return f"conv2d k{module.kernel_size[0]}{depthwise}"
    return "linear" if isinstance(module, nn.Linear) else type(module).__name__


def _macs(module: nn.Module, output: Tensor | None, samples: int) -> int:
    if output is None:
        return 0
    elements = output.numel() // samples
    if isinstance(module, nn.Conv2d):
        kernel = module.kernel_size[0] * module.kernel_size[1]
        return elements * kernel * module.in_channels // module.groups
    return elements * module.in_features if isinstance(module, nn.Linear) else 0
