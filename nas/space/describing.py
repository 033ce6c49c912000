"""A compiled space as a tree of `nas.space.template`."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import sys
import sysconfig
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyglove as pg

from nas.code import is_own
from nas.identity import code
from nas.space import nodes
from nas.space.labels import is_scalar, object_items, qualified_name, raw_elements, raw_items
from nas.space.template import Tree, renamed, text_of

#: Modules that are a file which was started, or the file of a job: the same one is called differently by each way to start it.
_SCRIPTS = ("__main__", "__mp_main__")
_JOB = "nas_job_"
_WRAPPED = "nas.model("
_DEEPEST = 4  # parts of a file's path that may be in the name of its module


class Description:
    """The tree of a closing plan, and the classes and functions that it names.

    Scalars, containers, symbolic objects, dataclasses, arrays, classes, functions and enum members are described by content,
    and objects with a method `_nas_described` by the mapping that it gives; `_nas_code` says what else they compute with.
    Of anything else only the type is known: a space needs another version when such a value changes.

    Args:
        node: the closing plan.
    """

    def __init__(self, node: nodes.Node) -> None:
        self._named: dict[str, Any] = {}
        self._converted: dict[str, Any] = {}
        self.tree: Tree = self._node(node)

    def sources(self) -> dict[str, str]:
        """Digest of the source text by name, for classes and functions of the user's own: they may move to another module."""
        found = {name: _source_digest(value) for name, value in sorted(self._named.items())}
        return {name: digest for name, digest in found.items() if digest}

    def elsewhere(self) -> Iterator[Tree]:
        """The tree as it is where Python gives a file of the user's own another name: started, as a job, or imported."""
        files: dict[tuple[str, Path], list[str]] = {}
        for name, value in self._named.items():
            if (file := _own_file(value)) is not None:
                files.setdefault((stable_name(f"{_origin(value).__module__}."), file), []).append(name)
        for (module, file), names in files.items():
            for other in _modules_of(file):
                if other != module:
                    yield renamed(self.tree, {name: _moved(name, module, other) for name in names})

    def code(self) -> dict[str, dict[str, str]]:
        """By name: digests of what classes and functions of the user's do, and of what a converted model computes with."""
        found = {
            name: code(getattr(value, "_nas_origin", value))
            for name, value in sorted(self._named.items())
            if _is_own(value)
        }
        return found | {name: value._nas_code() for name, value in self._converted.items()}

    def _node(self, node: nodes.Node) -> Tree:  # noqa: PLR0911 (one line a kind)
        if isinstance(node, nodes.One):
            return {"choice": node.point, "of": [self._node(candidate) for candidate in node.candidates]}
        if isinstance(node, nodes.Many):
            # Slots without choices of their own share one list of candidates: a permutation of 1,000 has a million of them.
            if all(isinstance(candidate, nodes.Const) for candidate in node.slots[0].candidates):
                of = [self._node(candidate) for candidate in node.slots[0].candidates]
                return {"many": [slot.point for slot in node.slots], "of": of}
            return {"list": [self._node(slot) for slot in node.slots]}
        if isinstance(node, nodes.Real):
            return {"real": node.point}
        if isinstance(node, nodes.List):
            return {"list": [self._node(item) for item in node.items]}
        if isinstance(node, nodes.Dict):
            return self._dict([(key, self._node(item)) for key, item in node.items])
        if isinstance(node, nodes.Object):
            return self._object(node.cls, [(key, self._node(item)) for key, item in node.arguments])
        return self._value(node.value)

    def _value(self, value: Any) -> Tree:  # noqa: PLR0911 (one line a kind)
        if is_scalar(value):
            return value
        if isinstance(value, float | pg.KeyPath | range):
            return {"opaque": f"{type(value).__name__} {value}"}
        if isinstance(value, pg.Object):
            return self._object(type(value), [(key, self._value(item)) for key, item in object_items(value)])
        if isinstance(value, dict):
            return self._dict([(key, self._value(item)) for key, item in raw_items(value)])
        if isinstance(value, list | tuple):
            kind = "list" if isinstance(value, list) else "tuple"
            return {kind: [self._value(item) for item in raw_elements(value)]}
        if isinstance(value, set | frozenset):
            return {"object": "set", "with": [["items", {"list": sorted(map(self._value, value), key=text_of)}]]}
        if (name := qualified_name(value)) is not None:
            return {"name": self._name(name, value)}
        if hasattr(type(value), "_nas_described"):
            if hasattr(value, "_nas_code"):
                self._converted[repr(value)] = value
            return self._object(type(value), [(key, self._value(item)) for key, item in value._nas_described().items()])
        if dataclasses.is_dataclass(value):
            fields = [(field.name, self._value(getattr(value, field.name))) for field in dataclasses.fields(value)]
            return self._object(type(value), fields)
        return _array(value) or {"opaque": self._type(type(value))}

    def _dict(self, items: list[tuple[Any, Tree]]) -> Tree:
        """Items in an order of their own, since that of a dict says nothing."""
        pairs = [[key if isinstance(key, str) else self._value(key), item] for key, item in items]
        return {"dict": sorted(pairs, key=lambda pair: text_of(pair[0]))}

    def _object(self, cls: type, items: list[tuple[str, Tree]]) -> Tree:
        return {
            "object": self._type(cls),
            "with": sorted(([key, item] for key, item in items), key=lambda pair: pair[0]),
        }

    def _type(self, cls: type) -> str:
        return self._name(qualified_name(cls) or f"{cls.__module__}.{cls.__qualname__}", cls)

    def _name(self, name: str, value: Any) -> str:
        name = stable_name(name)
        self._named[name] = value
        return name


def stable_name(name: str) -> str:
    """`module.qualname` without the module of a script, whose name depends on how and from where it is started.

    >>> stable_name("__main__.Conv"), stable_name("nas.model(torch.nn.Linear)")
    ('Conv', 'nas.model(torch.nn.Linear)')
    """
    if name.startswith(_WRAPPED):
        return f"{_WRAPPED}{stable_name(name.removeprefix(_WRAPPED))}"
    module, _, rest = name.partition(".")
    return rest if module in _SCRIPTS or module.startswith(_JOB) else name


def _is_own(one: Any) -> bool:
    return isinstance(one, (type, types.FunctionType)) and is_own(one)


def _array(value: Any) -> Tree | None:
    """Numbers of a tensor or array, and bytes, by their digest."""
    if isinstance(value, bytes):
        return {"opaque": f"bytes {_digest(value)}"}
    if not hasattr(value, "__array__") or not hasattr(value, "dtype"):
        return None
    try:
        numbers = np.ascontiguousarray(value.detach().cpu() if hasattr(value, "detach") else value)
    except (TypeError, ValueError, RuntimeError):  # without data, or of a dtype that NumPy lacks
        return None
    return {"opaque": f"array {numbers.dtype} {list(numbers.shape)} {_digest(numbers.tobytes())}"}


def _modules_of(file: Path) -> list[str]:
    """What Python may call the module in a file, up to a package of packages, each with a dot; "" where it is started."""
    parts = [*file.parts[-_DEEPEST:-1], *([] if file.stem == "__init__" else [file.stem])]
    return ["", *(f"{'.'.join(parts[at:])}." for at in range(len(parts)))]


def _moved(name: str, module: str, other: str) -> str:
    """A name in one module as it is in another one."""
    wrapped = _WRAPPED if name.startswith(_WRAPPED) else ""
    return f"{wrapped}{other}{name.removeprefix(wrapped).removeprefix(module)}"


def _origin(value: Any) -> Any:
    """What a model function was made of."""
    return getattr(value, "_nas_origin", value)


def _own_file(value: Any) -> Path | None:
    """Where the user defines a class or function; None for what is installed or has no file."""
    file = getattr(sys.modules.get(getattr(_origin(value), "__module__", "")), "__file__", None)
    installed = [sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    if file is None or any(Path(file).is_relative_to(place) for place in installed):
        return None
    return Path(file).resolve()


@functools.cache
def _source_digest(value: Any) -> str | None:
    """Digest of the text that defines a class or function; None for what is installed or has no source."""
    if _own_file(value) is None:
        return None
    try:
        return _digest(inspect.getsource(_origin(value)).encode())
    except (OSError, TypeError):
        return None


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
