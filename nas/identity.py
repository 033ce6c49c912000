"""What an object computes with, as JSON that another process can compare: parameters, code and data of what a user hands in.

A study or a training that is resumed is to go on with what it began with.  Functions are told by their name, code, defaults,
captured variables and the constants of their module; objects by their attributes; arrays and weights by shape and digest.
Nothing is called, imported or unpickled for it.  What cannot be told is marked as `opaque`, and equal to anything.

An object is described when it is first seen in a process, since evaluations change what they keep (counters, caches); only
what its constructor is given by name is looked at again.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import inspect
import json
import math
import platform
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import PurePath
from typing import Any, TypeAlias

from nas.code import changed_globals, is_own, reached

Json: TypeAlias = Any

#: The name under which settings that are compared hold an identity: settings of an earlier version have none.
IDENTITY = "identity"

_TEXT = 200  # characters of a text that are kept as they are
_DEPTH, _NODES = 12, 4_000
_LARGEST = 64_000  # characters of JSON; a larger identity is kept as its digest
_LARGEST_MODULE = 8_000  # of what a module computes beside its weights
_LARGEST_GLOBAL = 4_000  # of a container or an object that a function reads
_SAMPLE = 1 << 24  # bytes of an array that are looked at; of a larger one, evenly spread rows
# Modules whose objects are handles of this process, or differ in every process.
_HANDLES = frozenset({
    "_io", "_queue", "_random", "_thread", "asyncio", "concurrent", "contextvars", "io", "logging", "multiprocessing", "queue",
    "random", "secrets", "socket", "sqlite3", "ssl", "subprocess", "tempfile", "threading", "weakref",
})  # fmt: skip
_PLAIN = (bool, int, float, str, bytes, type(None))


def identity(value: Any) -> Json:
    """JSON that is equal for objects that compute with the same, as far as can be told."""
    described = _Describer()(value)
    text = json.dumps(described, sort_keys=True)
    if len(text) <= _LARGEST:
        return described
    return {"kind": "large", "class": _named(type(value)), "digest": _digest(text.encode())}


def behaviour(module: Any) -> dict[str, Json]:
    """What a module computes beside its weights, as it is now: short JSON for settings that `same` compares, and names of files.

    Two parts: a digest of attributes and of buffers that are not persistent, and one of the code of the user's classes.
    """
    found = _Describer(fresh=True).of_module(module)
    code = json.dumps([[name, item] for name, item in _coded(found, "")], sort_keys=True)
    text = json.dumps(_without_code(found), sort_keys=True)
    return {
        "attributes": _digest(text.encode()),
        "code": {"kind": "code", "digest": _digest(code.encode()), "python": _python()},
    }


def code(one: Any) -> dict[str, str]:
    """Of a function or a class of the user's as it is now: a digest of its code and of what that reads; formatting is no part.

    Functions and classes of the user's that it reads are followed, and constants, containers and arrays are as they are now.
    """
    describe, told = _Describer(fresh=True), []
    for name, function in sorted(reached(one).items()):
        reads = [(at, item) for at, item in _globals_of(function) if not isinstance(item, (type, types.FunctionType))]
        reads += [(at, _named(item)) for at, item in _globals_of(function) if isinstance(item, type)]
        reads += [*_data_of(function), ("defaults", (function.__defaults__, function.__kwdefaults__))]
        told.append(
            [name, _code(function.__code__, function.__doc__), [[at, describe.part(item)] for at, item in reads]]
        )
    return {"kind": "code", "digest": _digest(json.dumps(told, sort_keys=True).encode()), "python": _python()}


def recoded(was: Mapping[str, Json], now: Mapping[str, Json]) -> list[str]:
    """Names of what has other `code`, where both have it of the same version of Python."""
    return [name for name in was if name in now and changes(was[name], now[name])]


def _python() -> str:
    return ".".join(platform.python_version_tuple()[:2])


def _coded(described: Json, at: str) -> Iterator[tuple[str, str]]:
    """Digests of code in an identity, with where they are."""
    items = (
        enumerate(described)
        if isinstance(described, list)
        else described.items()
        if isinstance(described, dict)
        else ()
    )
    for name, item in items:
        if name == "code" and isinstance(item, str) and "python" in described:
            yield at, item
        else:
            yield from _coded(item, f"{at}.{name}")


def _without_code(described: Json) -> Json:
    if isinstance(described, list):
        return [_without_code(item) for item in described]
    if not isinstance(described, dict):
        return described
    left_out = ("code", "python") if "python" in described else ()
    return {name: _without_code(item) for name, item in described.items() if name not in left_out}


def described(one: Any) -> dict[str, Any]:
    """Class and options of a loss, a sampler or a task that says nothing else of itself: fields of a dataclass, or attributes.

    Attributes that are no fields are under `IDENTITY`, as they were when the object was first seen.
    """
    fields = dataclasses.fields(one) if dataclasses.is_dataclass(one) and not isinstance(one, type) else ()
    return {"class": type(one).__qualname__, **{field.name: _field(one, field.name) for field in fields}, **added(one)}


def added(one: Any) -> dict[str, Any]:
    """What a user's class adds to one of this library's, under `IDENTITY`: attributes beside the fields; `{}` if nothing."""
    if type(one).__module__.partition(".")[0] == "nas":
        return {}
    fields = {field.name for field in dataclasses.fields(one)} if dataclasses.is_dataclass(one) else set()
    found = {name: item for name, item in _Describer().attributes(one)["of"].items() if name not in fields}
    return {IDENTITY: found} if found else {}


def told(value: Any) -> Json:
    """A name as it is; a function or a class by its name, and what it computes with under `IDENTITY`."""
    if isinstance(value, str):
        return value
    return {"function": getattr(value, "__name__", type(value).__name__), IDENTITY: identity(value)}


def jsonable(value: Any) -> Json:
    """The value itself where it is JSON, else its identity."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return identity(value)
    return value


def differing(was: Json, now: Json) -> list[tuple[str, str, str]]:
    """Where two identities differ, what was there and what is, as text.

    Code of named functions is no part (`code_changes`), nor is what cannot be told.
    """
    return [(path or "it", _shown(old), _shown(new)) for path, old, new in _differences(was, now, "")]


def changes(was: Json, now: Json) -> list[str]:
    """What differs, as "scale 1 → 100"."""
    return [f"{path} {old} → {new}" for path, old, new in differing(was, now)]


def code_changes(was: Json, now: Json) -> list[str]:
    """Names of functions whose code differs, of those that have the same name and Python version."""
    return sorted(dict.fromkeys(new["name"] for old, new in _functions(was, now) if old["code"] != new["code"]))


def unknown(described: Json, at: str = "") -> list[str]:
    """Where in an identity something could not be told: "pool (Pool)"."""
    if isinstance(described, list):
        return [one for index, item in enumerate(described) for one in unknown(item, f"{at}[{index}]")]
    if not isinstance(described, dict):
        return []
    if described.get("kind") == "opaque":
        return [f"{at or 'it'} ({described['class'].rsplit('.', 1)[-1]})"]
    of = described.get("of")
    return (
        [] if not isinstance(of, dict) else [o for name, item in of.items() for o in unknown(item, _joined(at, name))]
    )


def weights_described(digest: str, keeps: Sequence[str] = ()) -> Json:
    """Weights in settings that `same` compares.

    Args:
        digest: SHA-256 of them.
        keeps: of others in whose place these may be, since every network has with these what it had with those.
    """
    return {"sha256": digest, "keeps": list(keeps)} if keeps else digest


def inputs_described(inputs: str) -> dict[str, Any]:
    """The inputs that a figure belongs to, in settings that `same` compares: not with those that have none.

    Args:
        inputs: one sample of them, as `nas.supernet.inputs.sample_text` says it; "" if they are not known.
    """
    return {IDENTITY: {"inputs": inputs}} if inputs else {}


def inputs_in(settings: Json) -> str:
    """The inputs that evaluators name in a study's settings; "" where none does, or they name different ones."""
    found = set(_inputs_in(settings))
    return found.pop() if len(found) == 1 else ""


def _inputs_in(settings: Json) -> Iterator[str]:
    if isinstance(settings, Mapping):
        about = settings.get(IDENTITY)
        if isinstance(about, Mapping) and about.keys() == {"inputs"} and isinstance(about["inputs"], str):
            yield about["inputs"]
    if isinstance(settings, (Mapping, list)):
        for part in settings.values() if isinstance(settings, Mapping) else settings:
            yield from _inputs_in(part)


def _as_good(stored: Json, now: Json) -> bool:
    """Whether both are weights, and the same ones or those that these keep."""
    was, held = _hash_of(stored), _hash_of(now)
    return was is not None and (was == held or (isinstance(now, dict) and was in now.get("keeps", ())))


def _hash_of(described: Json) -> str | None:
    """Of weights."""
    if isinstance(described, dict) and described.keys() <= {"sha256", "keeps", "folder"}:
        described = described.get("sha256")
    return described if isinstance(described, str) else None


def same(stored: Json, now: Json) -> bool:
    """Whether settings are equal; identities count where both have one, and as far as can be told.

    Weights are equal by their hash, wherever they are kept, and those that keep what others compute are as good as those.
    """
    if _as_good(stored, now):
        return True
    if isinstance(stored, dict) and isinstance(now, dict):
        names = (stored.keys() | now.keys()) - {IDENTITY}
        told = IDENTITY not in stored or IDENTITY not in now or not changes(stored[IDENTITY], now[IDENTITY])
        return told and all(name in stored and name in now and same(stored[name], now[name]) for name in names)
    if isinstance(stored, list) and isinstance(now, list):
        return len(stored) == len(now) and all(map(same, stored, now))
    return bool(stored == now)


def setting_changes(stored: Json, now: Json) -> list[str]:
    """Where settings that are not the `same` differ: "Accuracy.calibrate: true → false"; entries of a list by their name."""
    return list(_setting_changes(stored, now, ""))


def _setting_changes(stored: Json, now: Json, at: str) -> Iterator[str]:
    if same(stored, now):
        return
    if isinstance(stored, dict) and isinstance(now, dict) and _ABSENT not in (stored, now):
        for name in dict.fromkeys([*stored, *now]):
            if name != IDENTITY:
                yield from _setting_changes(stored.get(name, _ABSENT), now.get(name, _ABSENT), _joined(at, name))
            elif name in stored and name in now:
                yield from (_joined(at, change) for change in changes(stored[name], now[name]))
    elif isinstance(stored, list) and isinstance(now, list) and list(map(_title, stored)) == list(map(_title, now)):
        for index, (old, new) in enumerate(zip(stored, now, strict=True)):
            yield from _setting_changes(old, new, _joined(at, _title(new) or f"[{index}]"))
    else:
        was, new = (_title(one) or json.dumps(one)[:80] for one in (stored, now))
        yield f"{at}: {was} → {new}" if at else f"{was} → {new}"


def _title(described: Json) -> str:
    """An entry of settings for people: its name, the names in a list, or a short text; "" for one without a name."""
    if described == _ABSENT:
        return "nothing"
    if isinstance(described, list):
        return f"[{', '.join(map(_title, described))}]"
    if isinstance(described, dict):
        return str(described.get("name", ""))
    return _shown(described)


# -- comparing -----------------------------------------------------------------------------------------------------------


def _differences(was: Json, now: Json, at: str) -> Iterator[tuple[str, Json, Json]]:
    if was == now or _as_good(was, now) or _is_untold(was, now):
        return
    if isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for index, (old, new) in enumerate(zip(was, now, strict=True)):
            yield from _differences(old, new, f"{at}[{index}]")
        return
    if not (isinstance(was, dict) and isinstance(now, dict)):
        yield at, was, now
        return
    if "kind" not in was and "kind" not in now:  # what an object says of itself
        for name in dict.fromkeys([*was, *now]):
            if name == IDENTITY and (name not in was or name not in now):
                continue  # an earlier version said less
            yield from _differences(was.get(name, _ABSENT), now.get(name, _ABSENT), _joined(at, name))
        return
    kept = ("kind", "class", "name", "shape", "dtype", "digest", "length", "text")
    lambdas = "<lambda>" in str(was.get("name")) and "<lambda>" in str(now.get("name"))
    if any(was.get(name) != now.get(name) for name in kept) or (lambdas and _code_differs(was, now)):
        yield at, was, now
        return
    old_of, new_of = was.get("of") or {}, now.get("of") or {}
    code_differs = was.get("kind") == "function" and was.get("code") != now.get("code")
    for name in dict.fromkeys([*old_of, *new_of]):
        if _is_unknown(name, old_of.get(name), new_of.get(name)):
            continue
        if name in old_of and name in new_of:
            yield from _differences(old_of[name], new_of[name], _joined(at, name))
        elif not code_differs and not _is_new(name, old_of, new_of):  # other code may read other globals
            yield _joined(at, name), old_of.get(name, _ABSENT), new_of.get(name, _ABSENT)


def _is_new(name: str, old: Mapping[str, Json], new: Mapping[str, Json]) -> bool:
    """Whether it is a global at which an earlier version did not look: any but a constant."""
    return name.startswith("global ") and name not in old and isinstance(new[name], (dict, list))


def _is_untold(was: Json, now: Json) -> bool:
    """Whether one of both cannot be told, or both are code of different versions of Python."""
    if any(isinstance(one, dict) and one.get("kind") == "opaque" for one in (was, now)):
        return True
    both = isinstance(was, dict) and isinstance(now, dict) and was.get("kind") == now.get("kind") == "code"
    return both and was["python"] != now["python"]


_ABSENT = {"kind": "absent"}


def _is_unknown(name: str, old: Json, new: Json) -> bool:
    """Whether a part is not in both: one that is filled when it is first needed, or that an earlier version did not look at."""
    return (name.startswith("_") or name == IDENTITY) and (old is None or new is None)


def _code_differs(was: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    return was.get("python") == now.get("python") and was.get("code") != now.get("code")


def _functions(was: Json, now: Json) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Functions of one name, and their counterparts."""
    if isinstance(was, list) and isinstance(now, list):
        for old, new in zip(was, now, strict=False):
            yield from _functions(old, new)
    if not (isinstance(was, dict) and isinstance(now, dict)):
        return
    if "kind" not in was and "kind" not in now:  # what an object says of itself
        for name, old in was.items():
            yield from _functions(old, now.get(name))
        return
    if (
        was.get("kind") == now.get("kind") == "function"
        and was["name"] == now["name"]
        and was["python"] == now["python"]
    ):
        yield was, now
    for name, old in (was.get("of") or {}).items():
        yield from _functions(old, (now.get("of") or {}).get(name))


def _joined(at: str, name: str) -> str:
    if name == IDENTITY:
        return at
    return name if not at else f"{at}{name}" if name.startswith("[") else f"{at}.{name}"


def _shown(described: Json) -> str:
    """A part of an identity for people."""
    if not isinstance(described, dict):
        text = json.dumps(described)
        return text if len(text) <= 80 else text[:79] + "\u2026"
    kind, name = described.get("kind"), str(described.get("name") or described.get("class") or "")
    short = name.rsplit(".", 1)[-1]
    if kind == "absent":
        return "nothing"
    if kind == "function":
        return f"{short} (code {str(described.get('code'))[:6]})"
    if kind == "array":
        shape = "x".join(map(str, described["shape"])) or "1"
        return f"{described['dtype']} array of {shape} (digest {described['digest'][:6]})"
    if kind == "value":
        return str(described.get("text"))
    digest = described.get("digest")
    return f"a {short or kind}{f' (digest {digest[:6]})' if digest else ''}"


# -- describing ----------------------------------------------------------------------------------------------------------


class _Describer:
    """One description: bounded in depth and size, each object on the way once.

    Args:
        fresh: modules as they are now, not as they were when they were first seen.
    """

    def __init__(self, *, fresh: bool = False) -> None:
        self._left, self._inside, self._fresh = _NODES, set[int](), fresh

    def __call__(self, value: Any, depth: int = 0) -> Json:
        """JSON of `value`."""
        try:
            if isinstance(value, enum.Enum):
                return {"kind": "value", "class": _named(type(value)), "text": value.name}
            if isinstance(value, _PLAIN):
                return _plain(value)
            self._left -= 1
            if depth > _DEPTH or self._left < 0 or id(value) in self._inside:
                return _opaque(value)
            self._inside.add(id(value))
            try:
                return self._described(value, depth + 1)
            finally:
                self._inside.discard(id(value))
        except Exception:  # a property, a lazy module or a proxy of a user's
            return _opaque(value)

    def _described(self, value: Any, depth: int) -> Json:  # noqa: PLR0911 (one for each kind of value)
        if isinstance(value, (list, tuple)):
            return [self(item, depth) for item in value]
        if isinstance(value, Mapping):
            return self._group("dict", "", ((f"[{key!r}]", item) for key, item in value.items()), depth)
        if isinstance(value, AbstractSet):
            items = sorted(json.dumps(self(item, depth), sort_keys=True) for item in value)
            return {"kind": "set", "class": "", "digest": _digest("".join(items).encode())}
        if isinstance(value, functools.partial):
            given = [("function", value.func), *((f"[{at}]", item) for at, item in enumerate(value.args))]
            return self._group("partial", "", [*given, *value.keywords.items()], depth)
        if isinstance(value, types.MethodType):
            parts = [("self", value.__self__), ("function", value.__func__)]
            return self._group("method", value.__func__.__qualname__, parts, depth)
        if isinstance(value, types.FunctionType):
            return self._function(value, depth)
        if isinstance(value, type):
            return _class(value)
        if isinstance(value, (types.ModuleType, types.BuiltinFunctionType)):
            return {"kind": "value", "class": "", "text": _named(value)}
        if (item := _scalar(value)) is not None:
            return _plain(item)
        held = vars(type(value)).get("identified_by")  # of a wrapper: what a user gave
        if isinstance(held, str):
            return self(getattr(value, held), depth - 1)
        return _array(value) or self._object(value, depth)

    def _object(self, value: Any, depth: int) -> Json:
        kind = type(value)
        if kind.__module__.partition(".")[0] in _HANDLES or kind.__qualname__.endswith(("Generator", "RandomState")):
            return _opaque(value)
        if isinstance(value, PurePath) or not _has_attributes(value):
            return _text_of(value)
        if any(base.__module__.partition(".")[0] == "pyglove" for base in kind.__mro__):
            return _plain(repr(value)) if " at 0x" not in repr(value) else _opaque(value)
        if callable(value) and hasattr(value, "__wrapped__"):  # a cache around a function
            return self._group("object", _named(kind), [("wrapped", value.__wrapped__)], depth)
        if any(base.__module__.partition(".")[0] == "nas" for base in kind.__mro__):
            known = _own(value)
            if known is not None:
                return self._group("object", _named(kind), [(IDENTITY, known)], depth)
        first = self.attributes(value, depth)
        given = {name: self(item, depth) for name, item in _given(value)} if depth == 1 else {}
        return {**first, "of": {**first["of"], **given}}

    def attributes(self, value: Any, depth: int = 1) -> dict[str, Any]:
        """An object by its attributes, as they were when it was first seen."""
        is_module = _is_module(value)
        first = None if is_module and self._fresh else _remembered(value)
        if first is None:
            self._inside.add(id(value))
            first = self._attributes(value, depth)
            if not (is_module and self._fresh):
                _remember(value, first)
        return first

    def _attributes(self, value: Any, depth: int) -> dict[str, Any]:
        if _is_module(value):
            weights = _digest_of((name, one) for name, one in value.state_dict().items())
            of = {IDENTITY: _shortened(self.of_module(value, depth), _LARGEST_MODULE)}
            return {"kind": "object", "class": _named(type(value)), "digest": weights, "of": of}
        parts: list[tuple[str, Any]] = list(_attributes_of(value))
        call = inspect.getattr_static(type(value), "__call__", None)
        if isinstance(call, types.FunctionType) and not call.__module__.startswith("nas."):
            parts.append(("__call__", call))
        return self._group("object", _named(type(value)), parts, depth)

    def of_module(self, module: Any, depth: int = 1) -> dict[str, Json]:
        """What a module of torch computes beside its weights: see `nas.behaviour`."""
        from nas import behaviour

        layers = {id(layer) for layer in module.modules()} - self._inside
        self._inside |= layers  # which refer to each other
        try:
            found = behaviour.attributes(module, lambda value: self.part(value, depth))
            return found | {name: self.part(one, depth) for name, one in behaviour.functions(module).items()}
        finally:
            self._inside -= layers

    def part(self, value: Any, depth: int = 1) -> Json:
        """One of many parts, each of which may be as large as a whole."""
        self._left, before = _NODES, self._left
        try:
            return self(value, depth)
        finally:
            self._left = before

    def _function(self, function: types.FunctionType, depth: int) -> Json:
        first = _remembered(function)
        if first is None:
            first = self._first_of(function, depth)
            data = {name: _shortened(self.part(item, depth), _LARGEST_GLOBAL) for name, item in _data_of(function)}
            first = {**first, "of": {**first["of"], **data}}
            _remember(function, first)
        constants = {name: self(item, depth) for name, item in _globals_of(function)}
        return {**first, "of": {**first["of"], **constants}}

    def _first_of(self, function: types.FunctionType, depth: int) -> dict[str, Any]:
        code = function.__code__
        defaults = dict(zip(reversed(inspect.getargs(code).args), reversed(function.__defaults__ or ()), strict=False))
        parts: list[tuple[str, Any]] = [*defaults.items(), *(function.__kwdefaults__ or {}).items()]
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            parts.append((name, _contents(cell)))
        parts += [(name, item) for name, item in vars(function).items() if not name.startswith("__")]
        wrapped = getattr(function, "__wrapped__", None)
        if wrapped is not None:
            parts.append(("wrapped", wrapped))
        found = self._group("function", function.__qualname__, parts, depth)
        of_ours = str(function.__module__).partition(".")[0] in (
            "nas",
            "torch",
        )  # whose code changes with their versions
        digest = "" if of_ours else _code(code, function.__doc__)
        return {**found, "code": digest, "python": _python()}

    def _group(self, kind: str, name: str, parts: Iterable[tuple[str, Any]], depth: int) -> dict[str, Any]:
        which = "class" if kind == "object" else "name"
        return {"kind": kind, which: name, "of": {str(at): self(item, depth) for at, item in parts}}


def _class(kind: type) -> Json:
    """A class by its name, and one of the user's by its code, too."""
    named = {"kind": "value", "class": "", "text": _named(kind)}
    if not is_own(kind):
        return named
    now = code(kind)
    told = {"kind": "function", "name": _named(kind), "code": now["digest"], "python": now["python"], "of": {}}
    return {**named, "of": {IDENTITY: told}}


def _is_module(value: Any) -> bool:
    return hasattr(value, "state_dict") and hasattr(value, "parameters") and hasattr(value, "named_modules")


def _shortened(described: Json, most: int) -> Json:
    """The digest of what is longer than so many characters."""
    text = json.dumps(described, sort_keys=True)
    return described if len(text) <= most else {"kind": "large", "digest": _digest(text.encode())}


def _plain(value: Any) -> Json:
    if isinstance(value, float) and not math.isfinite(value):
        return {"kind": "value", "class": "", "text": repr(float(value))}
    if isinstance(value, (str, bytes)) and (isinstance(value, bytes) or len(value) > _TEXT):
        body = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
        return {"kind": "text", "length": len(value), "digest": _digest(body)}
    return value


def _opaque(value: Any) -> dict[str, Any]:
    return {"kind": "opaque", "class": _named(type(value))}


def _named(kind: Any) -> str:
    """What a class, function or module calls itself; the module of a job has another name where it is imported otherwise."""
    return str(getattr(kind, "__qualname__", getattr(kind, "__name__", kind)))


def _text_of(value: Any) -> Json:
    """A value without attributes: what it looks like, if that is not where it is in memory."""
    kind = type(value)
    text = str(value) if isinstance(value, PurePath) else repr(value)
    told = " at 0x" not in text and len(text) <= _TEXT
    return {"kind": "value", "class": _named(kind), "text": text} if told else _opaque(value)


def _digest(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=8).hexdigest()


def _scalar(value: Any) -> Any:
    """A number of numpy as Python's; None of anything else."""
    if type(value).__module__ != "numpy" or getattr(value, "shape", None) != ():
        return None
    item = value.item()
    return item if isinstance(item, _PLAIN) else None


def _array(value: Any) -> dict[str, Any] | None:
    """Type, shape and digest of an array, a tensor or a table."""
    if hasattr(value, "to_numpy") and hasattr(value, "shape"):  # pandas
        body = repr((list(getattr(value, "columns", [])), value.to_numpy().tolist())).encode()
        return {"kind": "array", "shape": list(value.shape), "dtype": type(value).__name__, "digest": _digest(body)}
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):
        return None
    shape = [int(size) for size in value.shape]
    return {"kind": "array", "shape": shape, "dtype": str(value.dtype), "digest": _digest(_bytes(value))}


def _bytes(value: Any) -> bytes:
    """The elements of an array or a tensor on any device; of a large one, evenly spread ones."""
    if hasattr(value, "detach"):
        import torch

        value = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    elif value.dtype.kind == "O":
        return repr(value.tolist()).encode()
    flat = value.reshape(-1)
    step = max(1, flat.nbytes // _SAMPLE)
    found: bytes = flat[::step].tobytes()
    return found


def _digest_of(named: Iterable[tuple[str, Any]]) -> str:
    whole = hashlib.blake2b(digest_size=8)
    for name, one in named:
        whole.update(f"{name} {getattr(one, 'shape', '')} ".encode())
        whole.update(_bytes(one) if hasattr(one, "shape") else repr(one).encode())
    return whole.hexdigest()


def _own(value: Any) -> Json | None:
    """What an object of this library says of itself; None where it says nothing."""
    if hasattr(value, "describe"):
        return value.describe()
    if hasattr(value, "to_json"):  # an arch
        return value.to_json()
    if hasattr(value, "config"):  # a training
        return value.config
    if hasattr(value, "fingerprint"):  # a space
        return value.fingerprint
    if hasattr(value, "space") and hasattr(value, "state_dict"):  # a supernet, whose weights are trained
        return value.space.fingerprint
    return None


def _has_attributes(value: Any) -> bool:
    return hasattr(value, "__dict__") or any(hasattr(kind, "__slots__") for kind in type(value).__mro__[:-1])


def _attributes_of(value: Any) -> Iterator[tuple[str, Any]]:
    slots = [name for kind in type(value).__mro__ for name in _listed(getattr(kind, "__slots__", ()))]
    names = dict.fromkeys([*getattr(value, "__dict__", {}), *slots])
    for name in sorted(names):
        computed = isinstance(inspect.getattr_static(type(value), name, None), functools.cached_property)
        if not computed and not name.startswith("__") and hasattr(value, name):
            yield name, getattr(value, name)


def _listed(slots: str | Iterable[str]) -> list[str]:
    return [slots] if isinstance(slots, str) else list(slots)


def _field(one: Any, name: str) -> Json:
    """A field of a dataclass as JSON; dataclasses inside it as their fields."""
    holder = dataclasses.make_dataclass("Holder", ["value"])
    try:
        value = dataclasses.asdict(holder(getattr(one, name)))["value"]
    except Exception:  # what it holds cannot be copied
        value = getattr(one, name)
    return jsonable(value)


def _given(value: Any) -> Iterator[tuple[str, Any]]:
    """Attributes that are called as what the constructor takes, or as fields of a dataclass."""
    try:
        wanted = list(inspect.signature(type(value).__init__).parameters)[1:]
    except (TypeError, ValueError):
        wanted = []
    own = getattr(value, "__dict__", {})
    for name in wanted:
        for spelled in (name, f"_{name}"):
            if spelled in own:
                yield spelled, own[spelled]


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet assigned
        return None


def _globals_of(function: types.FunctionType) -> list[tuple[str, Any]]:
    """Constants that the function reads and does not assign, and functions and classes of the user's, which are no state."""
    found = []
    for name, value in _read_by(function):
        constant = isinstance(value, (*_PLAIN, tuple, enum.Enum)) and not name.startswith("__") and value is not None
        own = isinstance(value, types.FunctionType) and value.__module__ == function.__module__
        if constant or (own and value is not function) or (isinstance(value, type) and value is not type):
            found.append((f"global {name}", value))
    return found


def _data_of(function: types.FunctionType) -> list[tuple[str, Any]]:
    """Containers, arrays, tensors and objects that the function reads, and that no function of its module changes."""
    found = [(name, value) for name, value in _read_by(function) if _is_data(value)]
    if not found:
        return []
    beside = [one for one in function.__globals__.values() if isinstance(one, types.FunctionType)]
    changed = {name for one in (function, *beside) for name in changed_globals(one)}
    return [(f"global {name}", value) for name, value in found if name not in changed]


def _read_by(function: types.FunctionType) -> list[tuple[str, Any]]:
    """Globals that a function reads, and does not assign."""
    names, assigned = _names(function.__code__)
    there = function.__globals__
    return [(name, there[name]) for name in sorted(names - assigned) if name in there]


def _is_data(value: Any) -> bool:
    """Whether a global is something to compute with; modules of torch are trained, and what else there is changes by itself."""
    if isinstance(value, (list, dict, set, frozenset, functools.partial)):
        return True
    if isinstance(value, (*_PLAIN, tuple, type, enum.Enum, types.ModuleType)) or callable(
        getattr(value, "parameters", None)
    ):
        return False
    if type(value).__module__.partition(".")[0] == "nas":
        return callable(getattr(value, "describe", None))
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return True
    return is_own(type(value)) and type(value).__module__.partition(".")[0] not in _HANDLES


def _names(code: types.CodeType) -> tuple[set[str], set[str]]:
    """Global names that code reads, with those of functions inside it, and those that it assigns."""
    import dis

    read, assigned = set[str](), set[str]()
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            read.add(str(step.argval))
        elif step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            assigned.add(str(step.argval))
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            more, stored = _names(inner)
            read |= more
            assigned |= stored
    return read, assigned


def _code(code: types.CodeType, doc: str | None) -> str:
    """Digest of what code does, without its name, place and documentation."""
    constants = [
        _constant(one) for at, one in enumerate(code.co_consts) if not (at == 0 and doc is not None and one == doc)
    ]
    parts = (code.co_code.hex(), constants, code.co_names, code.co_varnames, code.co_freevars)
    return _digest(repr(parts).encode())


def _constant(one: Any) -> str:
    if isinstance(one, types.CodeType):
        return _code(one, None)
    return repr(sorted(map(repr, one))) if isinstance(one, frozenset) else repr(one)


# -- what was seen first -------------------------------------------------------------------------------------------------

_seen: dict[int, tuple[weakref.ref[Any], dict[str, Any]]] = {}


def _remembered(value: Any) -> dict[str, Any] | None:
    reference, first = _seen.get(id(value), (None, None))
    return first if reference is not None and reference() is value else None


def _remember(value: Any, first: dict[str, Any]) -> None:
    forget: Callable[[Any], Any] = functools.partial(_forget, id(value))
    try:
        _seen[id(value)] = (weakref.ref(value, forget), first)
    except TypeError:  # cannot be referred to: seen anew each time
        return


def _forget(key: int, reference: weakref.ref[Any]) -> None:
    if key in _seen and _seen[key][0] is reference:
        del _seen[key]
