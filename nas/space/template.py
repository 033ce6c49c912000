"""What a space is, as JSON: the value with its choices left open; and what follows from that alone.

A *tree* describes a value: JSON scalars are themselves, everything else is a dict with one of these keys:

    {"list": [...]}   {"tuple": [...]}   {"dict": [[key, tree], ...]}   containers
    {"object": "module.Class", "with": [[argument, tree], ...]}         symbolic objects and calls of model functions
    {"name": "module.qualname"}   {"opaque": "..."}                     classes and functions; what JSON lacks
    {"choice": point, "of": [tree, ...]}   {"real": point}              open: an entry of the genome says which
    {"many": [point, ...], "of": [tree, ...]}                           open: a list of as many choices among the same

Closing a tree with a genome leaves no open part.  Two archs are the same when their closed trees are, whatever the positions of
candidates and decisions were and in whichever version of a space they were written down.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from nas.errors import SpaceError

#: A description as above; JSON-able.
Tree = Any
Path = tuple[str | int, ...]

_MODULUS = 1 << 128


def text_of(tree: Tree) -> str:
    """Equal for equal trees; keeps 1, 1.0 and true apart."""
    return json.dumps(tree, sort_keys=True, separators=(",", ":"))


def parts(tree: Tree) -> list[tuple[str | int, Tree]]:
    """What a container or an object holds, by index, key or argument; nothing for leaves and choices."""
    if not isinstance(tree, dict):
        return []
    for kind in ("list", "tuple"):
        if kind in tree:
            return list(enumerate(tree[kind]))
    items = tree["dict"] if "dict" in tree else tree.get("with", ())
    return [(key if isinstance(key, str) else text_of(key), item) for key, item in items]


def shape(tree: Tree) -> Any:
    """A tree without its parts: what makes it a leaf or a container of its kind."""
    if not isinstance(tree, dict):
        return tree
    for kind in ("list", "tuple"):
        if kind in tree:
            return {kind: len(tree[kind])}
    if "many" in tree:
        return {"list": len(tree["many"])}
    if "dict" in tree:
        return {"dict": [key for key, _ in tree["dict"]]}
    return {"object": tree["object"], "with": [key for key, _ in tree["with"]]} if "object" in tree else tree


def rebuilt(tree: Tree, change: Callable[[Tree], Tree]) -> Tree:
    """The tree with `change` applied to each part of a container; leaves and choices as they are."""
    if not isinstance(tree, dict):
        return tree
    for kind in ("list", "tuple"):
        if kind in tree:
            return {kind: [change(item) for item in tree[kind]]}
    for kind in ("dict", "with"):
        if kind in tree:
            return {**tree, kind: [[key, change(item)] for key, item in tree[kind]]}
    return tree


def closed(tree: Tree, genome: Sequence[Any]) -> Tree:
    """The tree with the candidates and floats that `genome` names, an entry for each open part that is there.

    Raises:
        SpaceError: an entry is missing or is the index of no candidate.
    """
    if isinstance(tree, dict):
        if "choice" in tree:
            return closed(_chosen(tree["of"], genome[tree["choice"]]), genome)
        if "many" in tree:
            return {"list": [closed(_chosen(tree["of"], genome[point]), genome) for point in tree["many"]]}
        if "real" in tree:
            return float(genome[tree["real"]])
    return rebuilt(tree, lambda item: closed(item, genome))


def _chosen(candidates: Sequence[Tree], gene: Any) -> Tree:
    index = int(gene) if isinstance(gene, int | float) and gene in range(len(candidates)) else None
    if index is None:
        raise SpaceError(f"candidate {gene!r} is none of {len(candidates)}")
    return candidates[index]


class Keys:
    """Keys of archs: 128 bits from the closed tree, as a sum over its leaves, so that a choice costs an addition.

    A leaf counts with its path in the closed value.  So a key does not depend on where a candidate or a decision stands, and a
    fixed argument that becomes a choice, or a choice of one candidate, changes no key.

    Args:
        tree: of the space.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._base = 0
        self._places: dict[int, tuple[Path, Sequence[Tree] | None]] = {}
        self._sums: dict[int, dict[Any, int]] = {}
        self._begun = False

    def __call__(self, genome: Sequence[Any]) -> str:
        """32 hex characters; entries that are None count as not there."""
        if not self._begun:
            self._begin()
        total = self._base
        for sums, gene in zip(self._sums.values(), genome, strict=True):
            if gene is not None:
                total += sums[gene]
        return f"{total % _MODULUS:032x}"

    def _begin(self) -> None:
        self._register(self._tree, ())
        for point in sorted(self._places):
            path, candidates = self._places[point]
            self._sums[point] = _Sums(path, candidates)
        self._base, self._begun = _total(self._tree, ()), True

    def _register(self, tree: Tree, path: Path) -> None:
        """Where each open part will be."""
        if isinstance(tree, dict) and ("choice" in tree or "real" in tree):
            self._places[tree["choice"] if "choice" in tree else tree["real"]] = path, tree.get("of")
            for candidate in tree.get("of", ()):
                self._register(candidate, path)
        elif isinstance(tree, dict) and "many" in tree:
            self._places.update({point: ((*path, i), tree["of"]) for i, point in enumerate(tree["many"])})
        else:
            for key, item in parts(tree):
                self._register(item, (*path, key))


class _Sums(dict[Any, int]):
    """What each candidate of one choice, or each value of a float, adds to the key; made when it is first met."""

    def __init__(self, path: Path, candidates: Sequence[Tree] | None) -> None:
        self._path, self._candidates = path, candidates

    def __missing__(self, gene: Any) -> int:
        if self._candidates is None:
            return _leaf(self._path, float(gene))  # not kept: floats do not come again
        self[gene] = found = _total(self._candidates[gene], self._path)
        return found


def _total(tree: Tree, path: Path) -> int:
    """The sum over what is fixed in a tree."""
    if isinstance(tree, dict) and ("choice" in tree or "real" in tree):
        return 0
    return _leaf(path, shape(tree)) + sum(_total(item, (*path, key)) for key, item in parts(tree))


def _leaf(path: Path, what: Any) -> int:
    return int.from_bytes(blake2b(text_of([path, what]).encode(), digest_size=16).digest(), "little")


class Matcher:
    """Finds the genome of a closed tree in a space.

    Args:
        tree: of the space.
        names: of its decisions, for messages.
    """

    def __init__(self, tree: Tree, names: Sequence[str]) -> None:
        self._tree, self._names = tree, names
        self._tables: dict[int, dict[str, int]] = {}

    def genome(self, value: Tree) -> list[Any]:
        """An entry a decision; None where no part of the value is chosen by it.

        Raises:
            SpaceError: the space has no such value; with the reason alone.
        """
        genome: list[Any] = [None] * len(self._names)
        fault = self._match(self._tree, value, genome, ())
        if fault is not None:
            raise SpaceError(fault)
        return genome

    def _match(self, tree: Tree, value: Tree, genome: list[Any], path: Path) -> str | None:
        """Fill `genome` where `value` is one that `tree` can be; else say why it is not."""
        if isinstance(tree, dict) and "choice" in tree:
            return self._match_choice(tree["choice"], tree["of"], value, genome, path)
        if isinstance(tree, dict) and "real" in tree:
            if not isinstance(value, float):
                return f"{self._names[tree['real']]} was {shown(value)}, and is a float here"
            genome[tree["real"]] = value
            return None
        if text_of(shape(tree)) != text_of(shape(value)) and not _goes_on(tree, value):
            return next(fixed_differences(value, tree, path))
        if isinstance(tree, dict) and "many" in tree:
            slots = zip(tree["many"], value["list"], strict=True)
            matches = (self._match_choice(p, tree["of"], item, genome, (*path, i)) for i, (p, item) in enumerate(slots))
            return next((fault for fault in matches if fault is not None), None)
        # What a longer list has besides is left without a choice: whether it may be, activity says.
        pairs = zip(parts(tree), parts(value), strict=not _goes_on(tree, value))
        found = (self._match(item, other, genome, (*path, key)) for (key, item), (_, other) in pairs)
        return next((fault for fault in found if fault is not None), None)

    def _match_choice(
        self, point: int, candidates: Sequence[Tree], value: Tree, genome: list[Any], path: Path
    ) -> str | None:
        if point not in self._tables:
            fixed = [(c, text_of(one)) for c, one in enumerate(candidates) if not is_open(one)]
            self._tables[point] = {text: c for c, text in reversed(fixed)}
        found = self._tables[point].get(text_of(value))
        if found is not None:
            genome[point] = found
            return None
        faults = []
        for c, candidate in enumerate(candidates):
            if not is_open(candidate):
                continue
            trial = list(genome)
            fault = self._match(candidate, value, trial, path)
            if fault is None:
                trial[point] = c
                genome[:] = trial
                return None
            if text_of(shape(candidate)) == text_of(shape(value)):
                faults.append(fault)
        return faults[0] if faults else f"{self._names[point]} was {shown(value)}, which is no candidate here"


def _goes_on(tree: Tree, value: Tree) -> bool:
    """Whether one is a list that begins as the other is long, and all that comes then is chosen."""
    if not (isinstance(tree, dict) and isinstance(value, dict) and "list" in tree and "list" in value):
        return False
    return all(map(_is_chosen, tree["list"][len(value["list"]) :])) and len(tree["list"]) > len(value["list"])


def _is_chosen(tree: Tree) -> bool:
    """Whether a tree is choices, or holds nothing else."""
    inside = parts(tree)
    return is_choice(tree) or (bool(inside) and all(_is_chosen(item) for _, item in inside))


def is_open(tree: Tree) -> bool:
    """Whether a choice is left in it."""
    return is_choice(tree) or any(is_open(item) for _, item in parts(tree))


def renamed(tree: Tree, names: Mapping[str, str]) -> Tree:
    """A tree with classes and functions called by their new names."""
    if isinstance(tree, dict):
        tree = {
            **tree,
            **{kind: names.get(tree[kind], tree[kind]) for kind in ("name", "object", "opaque") if kind in tree},
        }
        if "of" in tree:
            tree["of"] = [renamed(candidate, names) for candidate in tree["of"]]
    return rebuilt(tree, lambda item: renamed(item, names))


def shown(tree: Tree) -> str:
    """A tree as a person would write the value, cut to a length that fits a message."""
    text = _written(tree)
    return text if len(text) <= 80 else text[:77] + "..."


def _written(tree: Tree) -> str:  # noqa: PLR0911 (one line a kind)
    if not isinstance(tree, dict):
        return repr(tree)
    if "list" in tree or "tuple" in tree:
        inner = ", ".join(_written(item) for _, item in parts(tree))
        return f"[{inner}]" if "list" in tree else f"({inner})"
    if "dict" in tree:
        return "{" + ", ".join(f"{key}: {_written(item)}" for key, item in parts(tree)) + "}"
    if "object" in tree:
        return f"{_last(tree['object'])}({', '.join(f'{key}={_written(item)}' for key, item in parts(tree))})"
    if "name" in tree:
        return _last(tree["name"])
    if "of" in tree:
        return f"one of {len(tree['of'])} candidates"
    return "a float" if "real" in tree else str(tree.get("opaque"))


def _last(name: str) -> str:
    return name.rpartition(".")[2].rstrip(")")


def _place(path: Path) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    return text or "the value"


def fixed_differences(old: Tree, new: Tree, path: Path = ()) -> Iterator[str]:
    """Where the fixed parts of two spaces differ, a phrase for each place."""
    if is_choice(old) or is_choice(new):
        if is_choice(old) != is_choice(new):
            was, now = ("a choice" if is_choice(one) else shown(one) for one in (old, new))
            yield f"{_place(path)} was {was}, and is {now} now"
        return
    if text_of(shape(old)) == text_of(shape(new)):
        for (key, item), (_, other) in zip(parts(old), parts(new), strict=True):
            yield from fixed_differences(item, other, (*path, key))
        return
    if _is_kind_of(old, new):
        before, after = dict(parts(old)), dict(parts(new))
        yield from (f"{_place((*path, key))} is gone" for key in before if key not in after)
        yield from (f"{_place((*path, key))} is new" for key in after if key not in before)
        for key in sorted(before.keys() & after.keys(), key=str):
            yield from fixed_differences(before[key], after[key], (*path, key))
        return
    yield f"{_place(path)} was {shown(old)}, and is {shown(new)} now"


def _is_kind_of(old: Tree, new: Tree) -> bool:
    """Two containers of one kind, or two objects of one class, with other parts."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return False
    return any(kind in old and kind in new for kind in ("list", "tuple", "dict")) or (
        "object" in old and old["object"] == new.get("object")
    )


def is_choice(tree: Tree) -> bool:
    """Whether the genome says what it is."""
    return isinstance(tree, dict) and ("choice" in tree or "real" in tree or "many" in tree)
