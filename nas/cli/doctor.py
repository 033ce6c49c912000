"""What `nas doctor` looks at: versions, devices, threads, the database."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass

from nas.errors import NasError

_PACKAGES = ("torch", "pyglove", "optuna", "ray", "numpy", "pandas", "SQLAlchemy", "alembic", "moocore", "safetensors")
_EXTRAS = {"matplotlib": "plots", "psycopg": "postgres", "transformers": "hf", "aiohttp": "jobs", "fastapi": "web"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `bad` when it must be mended."""

    what: str
    found: str
    advice: str = ""
    bad: bool = False


def examine(store_url: str) -> list[Finding]:
    """Everything that is looked at, in a fixed order."""
    findings = [Finding("python", f"{platform.python_version()} ({sys.executable})")]
    findings += [_package(name) for name in _PACKAGES]
    findings += [_extra(name, extra) for name, extra in _EXTRAS.items()]
    for look in (_torch_devices, _threads, _torchvision):
        findings.append(_safely(look))
    return [*findings, _store(store_url)]


def _package(name: str) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "not installed", "pip install -c constraints.txt supernas", bad=True)


def _extra(name: str, extra: str) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "not installed", f"optional: pip install 'supernas[{extra}]'")


def _safely(look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except Exception as error:  # a doctor reports what is broken, he does not break
        return Finding(
            look.__name__.strip("_"), f"{type(error).__name__}: {error}", "reinstall with constraints.txt", bad=True
        )


def _torch_devices() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("devices", "cpu", "no CUDA device; training and search run on the CPU")
    names = [f"cuda:{index} {torch.cuda.get_device_name(index)}" for index in range(torch.cuda.device_count())]
    return Finding("devices", ", ".join(["cpu", *names]))


def _threads() -> Finding:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    advice = f"latencies will be noisy: load {load:.1f} on {cores} cores" if load > 0.5 * cores else ""
    return Finding("threads", f"{cores} cores, torch uses {torch.get_num_threads()}, load {load:.1f}", advice)


def _torchvision() -> Finding:
    try:
        importlib.metadata.version("torchvision")
    except importlib.metadata.PackageNotFoundError:
        return Finding("torchvision", "not installed", "not needed")
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        advice = "its wheel does not match this torch; pip uninstall torchvision, or install the matching pair"
        return Finding("torchvision", f"does not import: {error}", advice)
    return Finding("torchvision", importlib.metadata.version("torchvision"))


def _store(url: str) -> Finding:
    from nas.store import open_store
    from nas.store.database import shown

    try:
        with open_store(url, create=False) as store:
            return Finding("database", f"{shown(url)}: {len(store.studies())} studies, schema {store.current()[0]}")
    except NasError as error:
        missing = "does not exist" in str(error)
        return Finding("database", str(error), "created by the first 'nas run'" if missing else "", bad=not missing)
