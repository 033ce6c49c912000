"""Archs that no module can be built for: the model function raises `Infeasible`."""

from __future__ import annotations

from nas.errors import Infeasible
from nas.space import Arch, Space
from nas.supernet.skeleton import build_skeleton

_REMEMBERED = 20_000


def can_build(arch: Arch) -> bool:
    """Whether the model function makes a module for `arch`, and does not raise `Infeasible`."""
    try:
        build_skeleton(arch.space, arch)
    except Infeasible:
        return False
    return True


class _Buildable:
    """`can_build`, each arch once."""

    def __init__(self) -> None:
        self._found: dict[str, bool] = {}

    def __call__(self, arch: Arch) -> bool:
        if arch.key not in self._found:
            if len(self._found) >= _REMEMBERED:
                self._found.clear()
            self._found[arch.key] = can_build(arch)
        return self._found[arch.key]

    def __reduce__(self) -> tuple[type[_Buildable], tuple[()]]:
        return _Buildable, ()


def without_unbuildable(space: Space) -> Space:
    """`space` without archs that cannot be built."""
    return space if any(isinstance(rule, _Buildable) for rule in space.rules) else space.restricted(_Buildable())
