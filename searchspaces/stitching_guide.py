"""Paths through models whose forward cannot be recorded: it runs as it is, and is entered and left at its blocks.

Transformers' models, and others that decide by values and shapes, compute masks, rotary tables and caches around their blocks.
Each leg of a path therefore runs its anchor's own forward on the path's inputs.  Blocks before the one that is entered pass on
what they are given, the entered one takes what was stitched, and behind the last the forward ends.  What is called in
no leg (a front's head, an end's embeddings) is taken out of the path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nas.errors import SpaceError, SupernetError
from nas.supernet.inputs import Inputs, arguments

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Guide:
    """What is known of an anchor's forward from running it.

    Attributes:
        blocks: paths of the blocks, in the order in which they run.
        stages: number of blocks of each stage.
        enters: shape of what each block takes.
        leaves: shape of what each block gives.
        events: (is it the end of a call?, path) of all modules in the order of their calls.
        fills: modules before the blocks whose outputs nothing uses but the blocks: embeddings.
        closed: blocks that cannot be entered, because what earlier blocks give is used behind them as well.
        besides: block -> shapes of what it gives besides its tensor, where it gives a tuple; None for what is no tensor.
    """

    blocks: tuple[str, ...]
    stages: tuple[int, ...]
    enters: tuple[Shape, ...]
    leaves: tuple[Shape, ...]
    events: tuple[tuple[bool, str], ...]
    fills: tuple[str, ...]
    closed: frozenset[int]
    besides: Mapping[str, tuple[Shape | None, ...]]

    def others(self, block: str) -> tuple[None, ...] | None:
        """What stands in the tuple besides, of a block that is not run; None where it gives no tuple."""
        return (None,) * len(self.besides[block]) if block in self.besides else None


@dataclass(frozen=True)
class Span:
    """A leg of a path: from block `enter` of an anchor, or its inputs, to behind block `leave`, or its output."""

    anchor: int
    enter: int | None
    leave: int | None


def _settings(module: nn.Module) -> dict[str, Any]:
    """Plain public attributes."""
    plain = (str, int, float, bool, type(None))
    return {name: value for name, value in vars(module).items() if name[0] != "_" and isinstance(value, plain)}


class Outline(nn.Module):
    """What stays of a module that is taken out: its settings and, by its parameters' names, empty tensors of their types.

    A forward may ask a block what mask it wants, or an embedding for its type, without calling it.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.__dict__.update(_settings(module))
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.dim():
                empty = torch.empty((0,) * parameter.dim(), dtype=parameter.dtype)
                self.register_buffer(name, empty, persistent=False)
        for name, child in module._modules.items():
            self._modules[name] = None if child is None else Outline(child)


Others = tuple[Any, ...] | None


def _joined(value: Any, others: Others) -> Any:
    """As a block gives it: alone, or first in a tuple."""
    return value if others is None else (value, *others)


class Pass(Outline):
    """In place of a block that no leg runs: gives its first argument, and what stands besides."""

    def __init__(self, block: nn.Module, others: Others) -> None:
        super().__init__(block)
        self.others = others

    def forward(self, x: Any, *_args: Any, **_kwargs: Any) -> Any:
        """As it came."""
        return _joined(x, self.others)


class Absent(Outline):
    """In place of a module that no leg of the path calls."""

    def forward(self, *_args: Any, **_kwargs: Any) -> Any:
        """Refuses.

        Raises:
            SupernetError: always.
        """
        raise SupernetError(
            "a stitched path came to a module that is not a part of it, because the example of its space did not lead "
            "there; give the space an example that does"
        )


class Instead(nn.Module):
    """For one call in place of `module`, of which only the call is another: gives `value`, or without one its first argument."""

    def __init__(self, module: nn.Module, value: Tensor | None = None, others: Others = None) -> None:
        super().__init__()
        self.__dict__.update(_settings(module))
        self._parameters, self._buffers, self._modules = module._parameters, module._buffers, module._modules
        self.value, self.others = value, others

    def forward(self, x: Any = None, *_args: Any, **_kwargs: Any) -> Any:
        """What is given instead."""
        return _joined(x if self.value is None else self.value, self.others)


class _Left(Exception):
    """Ends a forward behind the block that a leg leaves."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


class Guided(nn.Module):
    """A path whose legs are their anchors' own forwards."""

    def __init__(
        self, spans: Sequence[Span], guides: Mapping[int, Guide], modules: Mapping[int, nn.Module], hops: Sequence[str]
    ) -> None:
        super().__init__()
        self.spans, self.guides, self.hops = tuple(spans), dict(guides), tuple(hops)
        for number, module in modules.items():
            runs = {path for span in spans if span.anchor == number for path in _runs(guides[number], span)}
            _prune(module, "", guides[number], runs)
        self.anchors = nn.ModuleDict({str(number): module for number, module in modules.items()})

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the forward of the last anchor, on the same inputs."""
        if kwargs.get("past_key_values") is not None:
            raise SupernetError(
                "a stitched path keeps no keys and values between calls; give it the whole text, without past_key_values"
            )
        value: Any = None
        for place, span in enumerate(self.spans):
            if place:
                value = self.get_submodule(f"stitches.{self.hops[place - 1]}")(value)
            value = _walk(self.anchors[str(span.anchor)], self.guides[span.anchor], span, value, (args, kwargs))
        return value


def _walk(
    module: nn.Module, guide: Guide, span: Span, value: Any, inputs: tuple[tuple[Any, ...], dict[str, Any]]
) -> Any:
    """One leg: what its last block gives, or the model's output."""
    others: dict[str, nn.Module] = {}
    if span.enter is not None:
        others = {
            path: Instead(module.get_submodule(path), others=guide.others(path)) for path in guide.blocks[: span.enter]
        }
        others |= {path: Instead(module.get_submodule(path), value) for path in guide.fills}
    with _swapped(module, others):
        handles = []
        if span.enter is not None:
            block = module.get_submodule(guide.blocks[span.enter])
            handles.append(block.register_forward_pre_hook(lambda _, given: (value, *given[1:])))
        if span.leave is not None:
            handles.append(module.get_submodule(guide.blocks[span.leave]).register_forward_hook(_leave))
        try:
            return module(*inputs[0], **inputs[1])
        except _Left as left:
            return left.value
        finally:
            for handle in handles:
                handle.remove()


def _leave(_module: nn.Module, _given: Any, output: Any) -> None:
    raise _Left(output[0] if isinstance(output, tuple) else output)


@contextmanager
def _swapped(root: nn.Module, others: Mapping[str, nn.Module]) -> Iterator[None]:
    """`root` with other modules at some paths."""
    saved: list[tuple[dict[str, nn.Module | None], str, nn.Module | None]] = []
    try:
        for path, other in others.items():
            owner, _, leaf = path.rpartition(".")
            table = root.get_submodule(owner)._modules
            saved.append((table, leaf, table[leaf]))
            table[leaf] = other
        yield
    finally:
        for table, leaf, module in reversed(saved):
            table[leaf] = module


def _within(path: str, roots: Sequence[str]) -> bool:
    return any(path == root or path.startswith(f"{root}.") for root in roots)


def _runs(guide: Guide, span: Span) -> set[str]:
    """Modules that a leg calls."""
    stop = len(guide.events) if span.leave is None else guide.events.index((True, guide.blocks[span.leave]))
    called = {path for end, path in guide.events[:stop] if not end}
    if span.enter is None:
        return called
    gone = (*guide.blocks[: span.enter], *guide.fills)
    return {path for path in called if not _within(path, gone)}


def _prune(module: nn.Module, prefix: str, guide: Guide, runs: set[str]) -> None:
    """Take out what the path does not call, of all that the whole model calls."""
    known = {path for _, path in guide.events}
    for name, child in list(module._modules.items()):
        path = f"{prefix}{name}"
        if child is None:
            continue
        if path in guide.blocks:
            if path not in runs:
                module._modules[name] = Pass(child, guide.others(path))
        elif any(block.startswith(f"{path}.") for block in guide.blocks):
            _prune(child, f"{path}.", guide, runs)
        elif any(_within(one, [path]) for one in known) and not any(_within(one, [path]) for one in runs):
            module._modules[name] = Absent(child)


# -- finding out


def guide(probe: nn.Module, stages: Sequence[Sequence[str]], example: Inputs, anchor: int) -> Guide:
    """The guide of an anchor, by running `probe`, a copy of it that runs.

    Raises:
        SpaceError: it does not run on the example, or runs blocks in another way than each once in order, tensor to tensor.
    """
    blocks = tuple(path for stage in stages for path in stage)
    watch = _Watch(probe, blocks, anchor)
    try:
        plain = _run(probe, example)
    except SpaceError:
        raise
    except Exception as error:
        raise SpaceError(f"anchor {anchor}, a {type(probe).__name__}, does not run on the example: {error}") from error
    finally:
        watch.stop()
    order = [path for end, path in watch.events if not end and path in blocks]
    if order != list(blocks):
        raise SpaceError(
            f"the forward of anchor {anchor} runs its blocks {order}, and stitching needs each once in the order {list(blocks)}"
        )
    found = Guide(
        blocks=blocks,
        stages=tuple(map(len, stages)),
        enters=tuple(watch.taken[path] for path in blocks),
        leaves=tuple(watch.given[path] for path in blocks),
        events=tuple(watch.events),
        fills=(),
        closed=frozenset(),
        besides=watch.besides,
    )
    poison = _Poison(probe, found, example, clean=not _spoilt(plain))
    fills = tuple(path for path in _candidates(found, watch.outputs) if poison.passes(0, [path]))
    closed = frozenset(enter for enter in range(1, len(blocks)) if not poison.passes(enter, fills))
    return replace(found, fills=fills, closed=closed)


def _run(module: nn.Module, example: Inputs) -> Any:
    positional, keywords = arguments(example)
    with torch.no_grad():
        return module(*positional, **keywords)


class _Watch:
    """Sees every call of a module and the shapes around blocks."""

    def __init__(self, module: nn.Module, blocks: Sequence[str], anchor: int) -> None:
        self.events: list[tuple[bool, str]] = []
        self.taken: dict[str, Shape] = {}
        self.given: dict[str, Shape] = {}
        self.outputs: dict[str, Shape | None] = {}
        self.besides: dict[str, tuple[Shape | None, ...]] = {}
        self._blocks, self._anchor = blocks, anchor
        self._handles = []
        for path, each in module.named_modules(remove_duplicate=False):
            if path:
                self._handles.append(each.register_forward_pre_hook(self._enter(path)))
                self._handles.append(each.register_forward_hook(self._leave(path)))

    def stop(self) -> None:
        """No longer."""
        for handle in self._handles:
            handle.remove()

    def _enter(self, path: str) -> Callable[..., None]:
        return lambda _module, _given: self.events.append((False, path))

    def _leave(self, path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
            self.events.append((True, path))
            self.outputs[path] = tuple(output.shape) if isinstance(output, Tensor) else None
            if path in self._blocks:
                if isinstance(output, tuple) and output:
                    output, *others = output
                    self.besides[path] = tuple(tuple(x.shape) if isinstance(x, Tensor) else None for x in others)
                if not given or not isinstance(given[0], Tensor) or not isinstance(output, Tensor):
                    raise SpaceError(
                        f"block {path!r} of anchor {self._anchor} gives a {type(output).__name__}; a block that can be "
                        "stitched takes a tensor as its first argument and gives one, alone or first in a tuple"
                    )
                self.taken[path], self.given[path] = tuple(given[0].shape), tuple(output.shape)

        return hook


def _candidates(guide: Guide, outputs: Mapping[str, Shape | None]) -> list[str]:
    """Outermost modules called before the blocks that give what the first block takes, as far as shapes tell."""
    start = guide.events.index((False, guide.blocks[0]))
    found: list[str] = []
    for _, path in (event for event in guide.events[:start] if not event[0]):
        holds_blocks = any(block.startswith(f"{path}.") for block in guide.blocks)
        if not holds_blocks and not _within(path, found):
            found.append(path)
    return [path for path in found if outputs.get(path) == guide.enters[0]]


class _Poison:
    """Whether what blocks and embeddings before an entered block give is used anywhere else: NaN would show."""

    def __init__(self, probe: nn.Module, guide: Guide, example: Inputs, *, clean: bool) -> None:
        self._probe, self._guide, self._example, self._clean = probe, guide, example, clean

    def _others(self, block: str) -> Others:
        """NaN for every other tensor that a block gives."""
        besides = self._guide.besides.get(block)
        return None if besides is None else tuple(None if shape is None else _nan(shape) for shape in besides)

    def passes(self, enter: int, fills: Sequence[str]) -> bool:
        """Is the output without NaN when `fills` and all blocks before `enter` give nothing but NaN?"""
        guide = self._guide
        if not self._clean:  # the model gives NaN by itself: no telling, so nothing is taken out and nothing refused
            return not fills
        shapes = dict.fromkeys(fills, guide.enters[0])
        shapes |= dict(zip(guide.blocks[:enter], guide.leaves[:enter], strict=True))
        spoilt = {  # on outlines: who reads a weight of what is taken out fails here
            path: Instead(Outline(self._probe.get_submodule(path)), _nan(shape), self._others(path))
            for path, shape in shapes.items()
        }
        block = self._probe.get_submodule(guide.blocks[enter])
        zeros = torch.zeros(guide.enters[enter])
        handle = block.register_forward_pre_hook(lambda _, given: (zeros.to(given[0].dtype), *given[1:]))
        try:
            with _swapped(self._probe, spoilt):
                return not _spoilt(_run(self._probe, self._example))
        except Exception:
            # A forward that reads more of a module than its output cannot do without that module.
            return False
        finally:
            handle.remove()


def _nan(shape: Shape) -> Tensor:
    return torch.full(shape, torch.nan)


def _spoilt(output: Any) -> bool:
    """Is there a NaN in a model's output?"""
    if isinstance(output, Tensor):
        return output.is_floating_point() and bool(output.isnan().any())
    if isinstance(output, Mapping):
        return any(map(_spoilt, output.values()))
    return isinstance(output, (tuple, list)) and any(map(_spoilt, output))
