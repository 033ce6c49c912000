"""Do parameters of one name play the same role in every arch, as far as the modules themselves tell?

Archs share weights by name.  A name that is a linear layer's in one arch and an embedding's in another, or that another layer of
a numbered `nn.Sequential` has as soon as a layer is put before it, shares weights that mean different things; shapes that fit do
not show that.  What depends on how layers are called is told by a probe (`nas.supernet.ends`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from typing import NamedTuple

from torch import nn

from nas.space import Arch
from nas.supernet.layouts import Corner, Cut
from nas.supernet.skeleton import Entry


class Outline(NamedTuple):
    """What is kept of an arch's module.

    Attributes:
        owners: name of each parameter -> type of the module that has it.
        chains: path of each plain `nn.Sequential` -> whether each of its children has parameters, as far as they have numbers.
    """

    owners: dict[str, type[nn.Module]]
    chains: dict[str, tuple[bool, ...]]


class Unlike(NamedTuple):
    """Parameters of one name in two roles.

    Attributes:
        arch: one that differs from the largest.
        parameters: their names.
        says: what differs, and the fix.
    """

    arch: Arch
    parameters: tuple[str, ...]
    says: str


def outline(entries: Iterable[Entry], modules: Mapping[str, nn.Module]) -> Outline:
    """Of a module whose parameters are `entries` and whose modules, by path, are `modules`."""
    owners = {name: type(modules[name.rpartition(".")[0]]) for entry in entries for name in entry.names}
    chains = {
        path: tuple(any(True for _ in child.parameters()) for child in _numbered(module))
        for path, module in modules.items()
        if type(module) is nn.Sequential
    }
    return Outline(owners, chains)


def _numbered(chain: nn.Sequential) -> Iterator[nn.Module]:
    for place, (name, child) in enumerate(chain.named_children()):
        if name != str(place):
            return
        yield child


def unlike(
    archs: Iterable[tuple[Arch, Outline]], alone: Set[Arch], declared: Mapping[str, Cut], ties: Mapping[str, str]
) -> Iterator[Unlike]:
    """Roles that differ from those in the first arch, the largest.

    Args:
        archs: with their outlines.
        alone: archs that differ from the largest in one decision; where several differ, another position says nothing.
        declared: canonical names -> cuts; a parameter whose corner was declared may play several roles.
        ties: canonical names of parameters.
    """
    (_, largest), *others = archs
    for arch, ours in others:
        for name, owner in ours.owners.items():
            other = largest.owners.get(name, owner)
            if not _alike(owner, other) and not _meant(name, declared, ties):
                says = (
                    f"parameter {name!r} is one of a {owner.__name__} and, in the largest network, of a {other.__name__}; give "
                    f"both modules names of their own (nas.sequential(*layers, name=module)), or declare "
                    f"layouts={{{name!r}: nas.Corner()}} if it is meant"
                )
                yield Unlike(arch, (name,), says)
        for path, chain in ours.chains.items() if arch in alone else ():
            place = _moved(chain, largest.chains.get(path, chain))
            names = [name for name in ours.owners if name.startswith(f"{path}.{place}.".lstrip("."))]
            names = [name for name in names if name in largest.owners and not _meant(name, declared, ties)]
            if place is not None and names:
                before, theirs = sum(chain[:place]), sum(largest.chains[path][:place])
                says = (
                    f"layer {f'{path}.{place}'.lstrip('.')!r} has {before} layers with parameters before it and, in the largest "
                    f"network, {theirs}, so that numbers in an nn.Sequential give it the weights of another layer; give layers "
                    "names of their own (nas.sequential(*layers, name=module)), put nn.Identity() in the place of a layer "
                    f"that is left out, or declare layouts={{{names[0]!r}: nas.Corner()}} if it is meant"
                )
                yield Unlike(arch, tuple(names), says)


def _meant(name: str, declared: Mapping[str, Cut], ties: Mapping[str, str]) -> bool:
    # A corner among a union's cuts was declared.
    return isinstance(declared.get(ties[name]), Corner)


def _moved(ours: tuple[bool, ...], theirs: tuple[bool, ...]) -> int | None:
    """The first layer with parameters in both chains that has more of them before it in one; in chains of unlike length."""
    if len(ours) == len(theirs):  # a layer replaced by one without parameters keeps the numbers
        return None
    for place, both in enumerate(zip(ours, theirs, strict=False)):
        if all(both) and sum(ours[:place]) != sum(theirs[:place]):
            return place
    return None


def _alike(one: type[nn.Module], other: type[nn.Module]) -> bool:
    """One class, a subclass of the other, the same class made again, or one forward of both (`nn.BatchNorm1d` and 2d)."""
    if issubclass(one, other) or issubclass(other, one):
        return True
    codes = [getattr(each.forward, "__code__", each.forward) for each in (one, other)]
    return codes[0] == codes[1] or (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)
