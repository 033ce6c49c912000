"""The commands about latency: devices, measure, predictor."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App

from nas.cli.root import HARDWARE, DeviceOption, JobArgument, StoreOption, app, count, text
from nas.cli.stores import DEFAULT_STORE, keep, reading

if TYPE_CHECKING:
    from nas.store import Store
    from nas.study import Study

predictor = App(name="predictor", help="Predictors of latency, kept for each device.", group=HARDWARE)
app.command(predictor)


@app.command(group=HARDWARE)
def devices(*, store: StoreOption = None, format: Literal["table", "json"] = "table") -> None:
    """List this machine's devices and those of a database, with what was measured on them."""
    from nas.cli.hardware import show_devices

    there = store is not None or "NAS_STORE" in os.environ or Path(DEFAULT_STORE).exists()
    show_devices(reading(store) if there else None, format == "json")


@app.command(group=HARDWARE)
def measure(
    job: JobArgument,
    *,
    device: DeviceOption = "cpu",
    archs: Annotated[int, count] = 100,
    few: bool = False,
    command: Annotated[str | None, text] = None,
    energy: bool = False,
    store: StoreOption = None,
    dry_run: bool = False,
    quiet: bool = False,
) -> None:
    """Measure archs of a job's space on a device, alone on the machine; goes on where it stopped.

    Args:
        archs: go on until the device has so many.
        few: choose the archs that say most about a new device, given the other devices of the database.
        command: the device is this command, which reads {model} (an ONNX file) and prints milliseconds.
        energy: also energy and memory, where the platform exposes them.
        dry_run: check everything and say what would be measured.
        quiet: no progress.
    """
    from nas.cli import hardware

    study, opened = _job_and_store(job, store)
    hardware.measure(study, opened, device, archs, command, few=few, energy=energy, dry_run=dry_run, quiet=quiet)


@predictor.command(name="fit")
def predictor_fit(
    job: JobArgument,
    *,
    device: DeviceOption = "cpu",
    kind: Literal["auto", "ridge", "gp", "gbdt", "mlp", "lookup", "fewshot"] = "auto",
    noisy: bool = False,
    store: StoreOption = None,
    quiet: bool = False,
) -> None:
    """Fit a predictor to what 'nas measure' found, and keep it with its error on archs held out.

    Args:
        kind: auto takes the regressor that cross-validation prefers; lookup measures the parts of models and adds them up;
            fewshot uses every other device of the database and needs ten archs.
        noisy: use measurements that are flagged as noisy, too.
        quiet: no progress.
    """
    from nas.cli import hardware

    study, opened = _job_and_store(job, store)
    hardware.fit(study, opened, device, kind, noisy=noisy, quiet=quiet)


@predictor.command(name="show")
def predictor_show(*, store: StoreOption = None, format: Literal["table", "json"] = "table") -> None:
    """List predictors with their errors on archs held out of the fit."""
    from nas.cli.hardware import show_predictors

    show_predictors(reading(store), format == "json")


def _job_and_store(job: str, store: str | None) -> tuple[Study, Store]:
    """A job's study, and the database that it or the command line names."""
    from nas.study.job import load_job

    study = keep(load_job(job))
    if store is not None or "NAS_STORE" in os.environ:
        study.rename(study.name, store=store or os.environ["NAS_STORE"])
    return study, study.store
