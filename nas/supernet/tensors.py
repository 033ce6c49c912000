"""Tensors in safetensors files: errors of the disk as such, and a hash to compare with when they are read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file, save_model
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from nas import sealed
from nas.sealed import Damaged


def save(file: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> str:
    """Write tensors, none of which may share memory; the SHA-256 of the file.

    Raises:
        OSError: it cannot be written.
    """
    with writing(file):
        save_file(_plain(tensors), file, metadata)
    return sealed.digest(file)


def digest(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> str:
    """SHA-256 of the file that `save` would write."""
    return hashlib.sha256(to_bytes(_plain(tensors), metadata)).hexdigest()


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def save_module(file: Path, module: nn.Module) -> str:
    """Write the weights of a module, tied ones once, for `safetensors.torch.load_model`; the SHA-256 of the file.

    Raises:
        OSError: it cannot be written.
    """
    with writing(file):
        save_model(module, str(file))
    return sealed.digest(file)


def load(file: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Tensors mapped from a file, with `sha256` only if that is its hash.

    Raises:
        Damaged: it is missing, no such file, or another one.
    """
    if sha256 is not None:
        sealed.verify(file, sha256)
    try:
        return dict(load_file(file))
    except FileNotFoundError as error:
        raise Damaged("it is missing") from error
    except (SafetensorError, OSError) as error:
        raise Damaged(str(error)) from error


@contextlib.contextmanager
def writing(file: Path) -> Iterator[None]:
    """Around what writes safetensors: the error of the system that the library gives as text.

    Raises:
        OSError: it.
    """
    try:
        yield
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number) if found else str(error), str(file)) from error
