"""A `DNASpec` as a `nas.Space`: what `pg.sample` hands to a backend is the specification alone, not the value."""

from __future__ import annotations

import ast
import re
from collections import Counter
from typing import Any

import pyglove as pg

from nas.errors import SpaceError
from nas.space import Space

_LONGEST = 40


def space_of(spec: pg.DNASpec, name: str) -> Space:
    """The space that a specification describes; its decisions are called by where they are in the program's value.

    Raises:
        SpaceError: the specification holds something that is no choice of known candidates and no float.
    """
    space = Space(_value(spec), name=name)
    space.dna_spec = spec  # the DNA that it makes is then DNA of the program's own template
    return space


def _value(spec: pg.DNASpec) -> pg.Dict:
    """The decisions of one (sub)space, each at its place."""
    root: dict[Any, Any] = {}  # nested dicts; those of whole numbers were lists
    for index, element in enumerate(spec.elements):
        path = [element.name] if element.name else list(element.location.keys)
        _put(root, path or [f"decision_{index}"], _hyper(element))
    built = _built(root)
    return built if isinstance(built, pg.Dict) else pg.Dict({"": built})


def _put(root: dict[Any, Any], path: list[Any], value: Any) -> None:
    for key in path[:-1]:
        root = root.setdefault(key, {})
    root[path[-1]] = value


def _built(tree: Any) -> Any:
    """Dicts and lists as they were in the program; None where a list had something else than a choice."""
    if not isinstance(tree, dict):
        return tree
    if tree and all(isinstance(key, int) for key in tree):
        return pg.List([_built(tree.get(index)) for index in range(max(tree) + 1)])
    return pg.Dict({str(key): _built(item) for key, item in tree.items()})


def _hyper(element: Any) -> Any:
    if element.is_numerical:
        return pg.floatv(element.min_value, element.max_value, scale=element.scale)
    if not element.is_categorical:
        raise SpaceError(
            f"decision {str(element.id)!r} is a {type(element).__name__}, whose values are not known beforehand; "
            "backend 'nas' takes pg.oneof, pg.manyof, pg.permutate and pg.floatv"
        )
    candidates = [
        pg.Dict({"is": label, **_value(candidate)}) if candidate.elements else label
        for label, candidate in zip(_labels(element), element.candidates, strict=True)
    ]
    if element.num_choices == 1:
        return pg.oneof(candidates)
    return pg.manyof(element.num_choices, candidates, choices_distinct=element.distinct, choices_sorted=element.sorted)


def _labels(element: Any) -> list[Any]:
    """What each candidate is called: scalars by themselves, others by their text, numbered where texts do not differ."""
    count = len(element.candidates)
    if not element.literal_values:
        return list(range(count))
    labels = [_label(value) for value in element.literal_values]
    texts = Counter(str(label) for label, scalar in labels if not scalar)
    scalars = {str(label) for label, scalar in labels if scalar}
    return [
        label if scalar or (texts[label] == 1 and label not in scalars) else f"{label} #{index}"
        for index, (label, scalar) in enumerate(labels)
    ]


def _label(literal: Any) -> tuple[Any, bool]:
    """A label, and whether it is the candidate itself."""
    if not isinstance(literal, str):
        return literal, True
    try:
        value = ast.literal_eval(literal)
    except (ValueError, SyntaxError):
        return _gist(literal), False
    scalar = value is None or isinstance(value, bool | int | float | str)
    return (value, True) if scalar else (_gist(literal), False)


def _gist(literal: str) -> str:
    """`MBConv` of `MBConv(kernel=OneOf(…))`, `kind='conv'` of `{kind='conv', kernel=OneOf(…)}`, else how it begins."""
    if called := re.match(r"(\w+)\(", literal):
        return called[1]
    closed = re.sub(r"\w+=\w+\((?:[^()]|\([^()]*\))*\)", "", literal)
    constants = re.findall(r"\w+=(?:'[^']*'|[-\w.]+)(?=[,}])", closed)
    text = ", ".join(constants) or literal
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
