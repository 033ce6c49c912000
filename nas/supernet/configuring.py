"""A Hugging Face configuration that says what a narrower or shorter module is, where one can.

Fields are found by trying: a field is scaled as an axis of the module was, the class is built on the meta device, and what
brings more tensors to the module's shapes is kept.  A configuration holds for all blocks alike, so that archs with other
sizes in each block have none.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nas.supernet.skeleton import parameters_on_meta, quiet

Shapes = Mapping[str, tuple[int, ...]]
MOST_BUILDS = 100
"""Modules that are built on the meta device before it is given up."""
BEAM = 3
"""Configurations that are followed at once: four heads of half the width have the shapes of two heads."""


@dataclass(frozen=True)
class _Try:
    """A configuration, what its class builds, and how far that is from the module."""

    config: Any
    built: nn.Module
    shapes: int
    """Tensors of another shape, or in one of both only."""
    numbers: int
    """Numbers that layers keep and that are others in the module."""


def fitting(module: nn.Module) -> Any | None:
    """The configuration of which the module's class builds tensors of the names and shapes of `module`; None if none is found.

    Of several, one whose layers keep the numbers that those of `module` keep.
    """
    config: Any = getattr(module, "config", None)
    if config is None or not hasattr(type(config), "from_dict"):
        return None
    first = _tried(module, config)
    if first is None or not _alike(first.built, module):
        return None
    beam, done, budget = [first], [] if first.shapes else [first], MOST_BUILDS
    while beam and budget > 0 and not (done and not done[0].numbers):
        found = []
        for one in beam:
            for candidate in _candidates(one, module):
                budget -= 1
                tried = _tried(module, candidate)
                if tried is not None and tried.shapes < one.shapes:
                    found.append(tried)
        found.sort(key=lambda one: one.shapes + one.numbers)
        done = sorted([*done, *(one for one in found if not one.shapes)], key=lambda one: one.numbers)
        beam = _distinct([one for one in found if one.shapes])[:BEAM]
    return done[0].config if done else None


def _alike(built: nn.Module, module: nn.Module) -> bool:
    """Whether blocks of a list that the class builds alike are alike in `module`, or left out."""
    ours = dict(module.named_modules())
    for name, blocks in built.named_modules():
        theirs = ours.get(name)
        if isinstance(blocks, nn.ModuleList) and isinstance(theirs, nn.ModuleList):
            kinds: dict[str, set[str]] = {}
            for block, other in zip(blocks, theirs, strict=False):
                shapes = _shapes(other)
                if shapes:
                    kinds.setdefault(str(_shapes(block)), set()).add(str(shapes))
            if any(len(kind) > 1 for kind in kinds.values()):
                return False
    return True


def _distinct(tries: list[_Try]) -> list[_Try]:
    """Each configuration once: fields may be changed in any order."""
    return list({str(one.config.to_dict()): one for one in tries}.values())


def _tried(module: nn.Module, config: Any) -> _Try | None:
    """None where the class takes no such configuration."""
    try:
        with quiet(0), torch.no_grad(), parameters_on_meta():
            built: nn.Module = type(module)(copy.deepcopy(config))
    except Exception:  # of any kind: whatever a class says to sizes that do not fit each other
        return None
    have, wanted = _shapes(built), _shapes(module)
    shapes = sum(have.get(name) != wanted.get(name) for name in have.keys() | wanted.keys())
    theirs = dict(built.named_modules())
    numbers = sum(
        type(value) in (int, float) and name in theirs and vars(theirs[name]).get(key, value) != value
        for name, owner in module.named_modules()
        for key, value in vars(owner).items()
    )
    return _Try(config, built, shapes, numbers)


@contextmanager
def fitted(module: nn.Module) -> Iterator[None]:
    """Inside, the module has the configuration that fits it, if there is one."""
    holder: Any = module
    config = fitting(module)
    before = getattr(holder, "config", None)
    if config is not None:
        holder.config = config
    try:
        yield
    finally:
        if config is not None:
            holder.config = before


def _shapes(module: nn.Module) -> Shapes:
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters(remove_duplicate=False)}


def _candidates(one: _Try, module: nn.Module) -> Iterator[Any]:
    """Configurations with one number changed."""
    have, wanted = _shapes(one.built), _shapes(module)
    scales = {
        (old, new)
        for name in have.keys() & wanted.keys()
        if len(have[name]) == len(wanted[name])
        for old, new in zip(have[name], wanted[name], strict=True)
        if old != new
    }
    depths = set(_depths(one.built, module))
    told = one.config.to_dict()
    for path, value in _numbers(told):
        scaled = {value * new // old for old, new in scales if _related(value, old) and value * new % old == 0}
        shorter = {new for old, new in depths if old == value}
        for other in sorted((scaled | shorter) - {value, 0}):
            changed = copy.deepcopy(told)
            inner = changed
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = other
            try:
                configuration = type(one.config).from_dict(changed)
            except (
                Exception
            ):  # of any kind: a configuration refuses numbers that do not go together, and is then none of ours
                continue
            yield configuration


def _related(value: int, length: int) -> bool:
    return length % value == 0 or value % length == 0


def _numbers(told: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """Whole numbers above one, with their place."""
    for key, value in told.items():
        if isinstance(value, int) and not isinstance(value, bool) and value > 1:
            yield (*path, key), value
        elif isinstance(value, dict) and all(isinstance(name, str) for name in value):
            yield from _numbers(value, (*path, key))


def _depths(found: nn.Module, module: nn.Module) -> Iterator[tuple[int, int]]:
    """(length, shorter length) of lists of blocks of which the last are left out."""
    ours = dict(module.named_modules())
    for name, blocks in found.named_modules():
        theirs = ours.get(name)
        if isinstance(blocks, nn.ModuleList) and isinstance(theirs, nn.ModuleList) and len(blocks) == len(theirs):
            there = [any(True for _ in block.parameters()) for block in theirs]
            kept = sum(there)
            if 0 < kept < len(blocks) and all(there[:kept]):
                yield len(blocks), kept
