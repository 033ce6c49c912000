"""A supernet on disk: a folder with the weights as safetensors and everything else as JSON.  Nothing in it is code.

`supernet.json` names the weights file, which is called after its own hash; replacing that one small file is what makes a
save atomic.  Weights are mapped, not read: processes of a machine share their pages, and what one writes stays its own.
"""

from __future__ import annotations

import json
import re
import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from nas import carried, files, sealed
from nas.errors import CheckpointError, LayoutError
from nas.identity import recoded
from nas.sealed import Damaged
from nas.space import Space
from nas.supernet import constants, tensors
from nas.supernet.inputs import Inputs, describe, zeros
from nas.supernet.layouts import Cut
from nas.supernet.union import Union

if TYPE_CHECKING:
    from nas.supernet.supernet import Supernet

FORMAT = "supernas.supernet"
VERSION = 1
INDEX = "supernet.json"


@dataclass(frozen=True)
class Loaded:
    """What a checkpoint holds."""

    union: Union
    values: dict[str, Tensor]
    example: Inputs | None
    digest: str
    checked: bool
    trained: bool
    grown: Grown | None


@dataclass(frozen=True)
class Grown:
    """Which smaller supernets' archs compute here what they did there.

    Attributes:
        digest: SHA-256 of the weights of which that is so: others have been trained since.
        smaller: SHA-256s of theirs.
    """

    digest: str
    smaller: tuple[str, ...]


def save(
    path: Path,
    space: Space,
    union: Union,
    state: Mapping[str, Tensor],
    example: Inputs | None,
    *,
    checked: bool = True,
    unproved: Sequence[str] = (),
    trained: bool = True,
    grown: Grown | None = None,
    force: bool = False,
) -> str:
    """Write the folder `path`; the hash of the weights.

    Raises:
        CheckpointError: it cannot be written, or holds a supernet of another space and `force` is not given.
    """
    check_target(path, space, force=force)
    try:
        path.mkdir(parents=True, exist_ok=True)
        digest, weights = _write_weights(path, state)
        index = _index(space, union, state, example) | {
            "checked": checked,
            **({"unproved": list(unproved)} if unproved else {}),
            **({} if trained else {"trained": False}),
            **({} if grown is None or grown.digest != digest else {"keeps": list(grown.smaller)}),
            "weights": {"file": weights.name, "sha256": digest, "bytes": weights.stat().st_size},
        }
        _write(path / INDEX, sealed.seal(index, indent=1))
    except OSError as error:
        raise CheckpointError(f"supernet cannot be saved in {str(path)!r}: {files.why(error)}") from error
    for old in path.iterdir():
        if _WEIGHTS.fullmatch(old.name) and old != weights:
            old.unlink(missing_ok=True)
    return digest


_WEIGHTS = re.compile(r"weights-[0-9a-f]{16}\.safetensors")


def check_target(path: Path, space: Space, *, force: bool = False) -> None:
    """Refuse to save over somebody else's file or a supernet of another space.

    Raises:
        CheckpointError: so it is, and `force` is not given.
    """
    file = path / INDEX
    if force or not file.exists():
        return
    try:
        saved = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return  # damaged: nothing can be read from it any more
    whose = saved.get("space") if isinstance(saved, dict) and saved.get("format") == FORMAT else None
    same = isinstance(whose, dict) and (
        whose.get("fingerprint") == space.fingerprint or whose.get("name") == space.name
    )
    what = f"a supernet of space {whose.get('name')!r}" if isinstance(whose, dict) else "a file of another program"
    if not same:
        raise CheckpointError(
            f"{str(file)!r} is {what}, not of {space.name!r}; give another folder, or write over it with save(force=True)"
        )


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 that a checkpoint of these weights would have."""
    return tensors.digest(state, {"format": FORMAT})


def _write_weights(path: Path, state: Mapping[str, Tensor]) -> tuple[str, Path]:
    with files.scratch(path) as room:
        half = room.path / "weights"
        digest = tensors.save(half, state, {"format": FORMAT})
        weights = path / f"weights-{digest[:16]}.safetensors"
        room.put(half, weights, durable=True)
    return digest, weights


def _write(path: Path, content: bytes) -> None:
    """Replace `path` in one step, durably."""
    files.write(path, content, durable=True)


def _index(space: Space, union: Union, state: Mapping[str, Tensor], example: Inputs | None) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "torch": torch.__version__,
        "space": {"name": space.name, "version": space.version, "fingerprint": space.fingerprint},
        "parameters": {
            name: {
                "shape": list(union.shapes[name]),
                "trainable": state[name].requires_grad,
                "names": [alias for alias, canonical in union.ties.items() if canonical == name],
                **({"cut": union.cuts[name].to_json()} if name in union.cuts else {}),
            }
            for name in dict.fromkeys(union.ties.values())
        },
        "names": list(union.ties),
        "buffers": {
            name: {
                "shape": list(union.shapes[name]),
                **({"cut": union.cuts[name].to_json()} if name in union.cuts else {}),
            }
            for name in sorted(union.buffers)
        },
        "example": None if example is None else describe(example),
        "constants": constants.summary(space),
        "code": space.code,
    }


def load(path: Path, space: Space, *, verify: bool = True, digest: str | None = None) -> Loaded:
    """Read the folder `path`, saved with `space`; with `digest`, only if that is the hash of its weights.

    Raises:
        CheckpointError: missing, truncated, foreign, newer, altered, or of another space.
    """
    index = _read_index(path)
    while True:
        try:
            return _load(path, index, space, verify=verify, digest=digest)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if not isinstance(error, CheckpointError):
                said = str(error) if isinstance(error, Damaged) else f"{type(error).__name__}: {error}"
                raise CheckpointError(
                    f"{str(path / INDEX)!r} cannot be read ({said}); save the supernet again"
                ) from error
            # Was it saved again between the index and the weights?  Then the new index is the one to go by.
            previous, index = index, _read_index(path)
            if index == previous:
                raise


def _load(path: Path, index: dict[str, Any], space: Space, *, verify: bool, digest: str | None) -> Loaded:
    _check_space(path, index["space"], space)
    recorded = index["weights"]
    if digest is not None and recorded["sha256"] != digest:
        raise CheckpointError(
            f"checkpoint {str(path)!r} holds weights {recorded['sha256'][:12]}, not {digest[:12]}: it was saved again since; "
            "use the supernet that is there now"
        )
    values = _read_weights(sealed.inside(path, recorded["file"]), recorded, verify=verify)
    union = _union(path, index)
    for name, shape in union.shapes.items():
        if name not in values or tuple(values[name].shape) != shape:
            raise CheckpointError(
                f"checkpoint {str(path)!r} has no weights for {name!r} of shape {shape}; save it again"
            )
        union.dtypes[name] = values[name].dtype
    _check_constants(path, index.get("constants"), space, union)
    if edited := recoded(index.get("code", {}), space.code):
        warnings.warn(
            f"checkpoint {str(path)!r} was saved with other code of {', '.join(edited)}: its weights may be of other networks "
            "than those that this code makes; restore the code, or save the supernet again",
            stacklevel=2,
        )
    example = None if index["example"] is None else zeros(index["example"])
    return Loaded(
        union,
        values,
        example,
        recorded["sha256"],
        index.get("checked", True) is True,
        index.get("trained", True) is True,
        Grown(recorded["sha256"], tuple(map(str, index["keeps"]))) if "keeps" in index else None,
    )


def listed(path: Path) -> list[str]:
    """The files of the checkpoint in folder `path`, by their names.

    Raises:
        CheckpointError: it is no checkpoint.
    """
    return [INDEX, str(_read_index(path)["weights"]["file"])]


def held(path: Path) -> tuple[str | None, tuple[str, ...]]:
    """SHA-256 of the weights that folder `path` says it holds, None when it is no checkpoint; and of those that they keep."""
    try:
        index = _read_index(path)
        return str(index["weights"]["sha256"]), tuple(map(str, index.get("keeps", ())))
    except (CheckpointError, KeyError, TypeError):
        return None, ()


def example_in(path: Path) -> Inputs | None:
    """Inputs of the shapes and dtypes that folder `path` says its supernet has; None when it has none or is no checkpoint."""
    try:
        described = _read_index(path)["example"]
        return None if described is None else cast("Inputs", zeros(described))
    except (CheckpointError, KeyError, TypeError):
        return None


def _read_index(path: Path) -> dict[str, Any]:
    try:
        index, is_sealed = sealed.unseal((path / INDEX).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        what = "is not a supernet checkpoint: it has no supernet.json" if path.exists() else "does not exist"
        raise CheckpointError(f"checkpoint {str(path)!r} {what}; give the folder that Supernet.save wrote") from None
    except (OSError, Damaged) as error:
        raise CheckpointError(f"{str(path / INDEX)!r} cannot be read: {error}; save the supernet again") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise CheckpointError(f"{str(path / INDEX)!r} was not written by Supernet.save; give the folder that it wrote")
    if not isinstance(index.get("version"), int) or index["version"] > VERSION:
        raise CheckpointError(
            f"checkpoint {str(path)!r} has format version {index.get('version')}, and this code reads up to {VERSION}; "
            "upgrade supernas"
        )
    missing = {"space", "parameters", "names", "buffers", "weights", "example"} - set(index)
    if missing:
        raise CheckpointError(f"{str(path / INDEX)!r} lacks {', '.join(sorted(missing))}; save the supernet again")
    if not is_sealed:
        sealed.warn(path)
    return index


def _check_space(path: Path, saved: Mapping[str, Any], space: Space) -> None:
    if space.has_fingerprint(saved["fingerprint"]):
        return
    raise CheckpointError(
        f"checkpoint {str(path)!r} is of space {saved['name']!r} version {saved['version']} ({saved['fingerprint'][:8]}), not of "
        f"{space.name!r} version {space.version} ({space.fingerprint[:8]}); load it with the space that it was saved with"
    )


def _check_constants(path: Path, saved: Mapping[str, list[Any]] | None, space: Space, union: Union) -> None:
    """What is not in the checkpoint, because constructors compute it, must be what it was."""
    if saved is None:
        lacking = sorted(constants.drawn_buffers(space) - union.buffers)
        if lacking:
            raise CheckpointError(
                f"checkpoint {str(path)!r} is of an earlier version, which did not keep buffer {lacking[0]!r} that the "
                "constructor draws at random or computes from initial weights; train the supernet again"
            )
    elif (other := constants.changed(saved, space, union.buffers)) is not None:
        raise CheckpointError(
            f"checkpoint {str(path)!r} was saved where constructors of space {space.name!r} gave another {other!r}: it depends "
            "on the process (the hash of a text, the time, the machine), or its code has changed; keep it in a persistent "
            "buffer drawn with a fixed seed, and train the supernet again"
        )


def _read_weights(path: Path, recorded: Mapping[str, Any], *, verify: bool) -> dict[str, Tensor]:
    try:
        size = path.stat().st_size
        digest = sealed.digest(path) if verify and size == recorded["bytes"] else None
    except OSError:  # a save may take it away at any time
        raise CheckpointError(
            f"weights {str(path)!r} are missing; copy the whole folder, or save the supernet again"
        ) from None
    if size != recorded["bytes"]:
        raise CheckpointError(
            f"weights {str(path)!r} have {size} bytes and were saved with {recorded['bytes']}; copy the folder again"
        )
    if verify and digest != recorded["sha256"]:
        raise CheckpointError(
            f"weights {str(path)!r} are not those that were saved (their hash differs); copy the folder again"
        )
    try:
        return tensors.load(path)
    except Damaged as error:
        raise CheckpointError(f"weights {str(path)!r} cannot be read: {error}; copy the folder again") from error


def _union(path: Path, index: Mapping[str, Any]) -> Union:
    union = Union(buffers=set(index["buffers"]))
    canonical = {alias: name for name, entry in index["parameters"].items() for alias in entry["names"]}
    union.ties = {alias: canonical[alias] for alias in index["names"]}
    union.trainable = {name: entry["trainable"] for name, entry in index["parameters"].items()}
    for name, entry in {**index["parameters"], **index["buffers"]}.items():
        union.shapes[name] = tuple(entry["shape"])
        if "cut" in entry:
            try:
                union.cuts[name] = Cut.from_json(entry["cut"])
                union.cuts[name].check(union.shapes[name])
            except (LayoutError, TypeError) as error:
                raise CheckpointError(f"checkpoint {str(path)!r}, parameter {name!r}: {error}") from error
    return union


# -- is a supernet what was saved?

Stamp = dict[str, tuple["weakref.ref[Tensor]", int, int]]
"""Every tensor as it was, by name: itself, its version counter, its storage."""


def stamp(state: Mapping[str, Tensor]) -> Stamp:
    """What `unchanged` compares with."""
    return {name: (weakref.ref(tensor), tensor._version, tensor.data_ptr()) for name, tensor in state.items()}


def unchanged(saved: Stamp, state: Mapping[str, Tensor]) -> bool:
    """Is nothing of `state` replaced, moved or written to since `stamp`?  Writing through `.data` goes unseen."""
    return all(
        saved[name][0]() is tensor and saved[name][1:] == (tensor._version, tensor.data_ptr())
        for name, tensor in state.items()
    )


# -- travelling to another process

_revived: weakref.WeakValueDictionary[tuple[str, str], Supernet] = weakref.WeakValueDictionary()


def revive(space: Space, path: str, digest: str) -> Supernet:
    """The supernet saved in `path` with hash `digest`: loaded at its first use, and once in a process."""
    from nas.supernet.supernet import Supernet

    known = _revived.get((path, digest))
    if known is not None and known.space.fingerprint == space.fingerprint and known.source is not None:
        return known
    supernet = _revived[path, digest] = Supernet._later(space, Path(carried.find(path, digest)), digest)
    return supernet


def as_folder(path: str, digest: str) -> carried.Folder:
    """The checkpoint in `path` as files that another machine may need, the weights having the hash `digest`.

    Raises:
        CheckpointError: it is no checkpoint, or holds other weights by now.
    """
    recorded = _read_index(Path(path))["weights"]
    if recorded["sha256"] != digest:
        raise CheckpointError(
            f"checkpoint {path!r} holds weights {recorded['sha256'][:12]}, not {digest[:12]}: it was saved again since; "
            "use the supernet that is there now"
        )
    index = Path(path) / INDEX
    content = (
        carried.File(recorded["file"], recorded["bytes"], digest),
        carried.File(INDEX, index.stat().st_size, sealed.digest(index)),
    )
    return carried.Folder(path, digest, content)
