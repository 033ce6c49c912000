"""Commands about devices: what was measured on them, and what predicts them."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from shlex import join, quote
from typing import TYPE_CHECKING, Any

from nas.cli import own
from nas.cli.output import print_json, print_table, print_text
from nas.errors import DeviceError, NasError, suggest
from nas.evaluate.base import every
from nas.text import printable

if TYPE_CHECKING:
    import pandas as pd

    from nas.hardware import Target
    from nas.store import Store
    from nas.study import Study
    from nas.study.measuring import Kind, Tick


def show_devices(store: Store | None, as_json: bool) -> None:
    """This machine's devices, then those of the store with what was measured on them."""
    from nas.hardware import devices, parse_device

    here = {parse_device(name).key: name for name in devices()}
    stored = {} if store is None else {one.name: one for one in store.hardware.devices()}
    predictors: dict[str, list[str]] = {}
    for kept in [] if store is None else store.hardware.predictors():
        predictors.setdefault(kept.device, []).append(f"{kept.space} {_percent(kept.errors.get('mape'))}")
    rows: list[dict[str, Any]] = [
        {
            "device": name,
            "here": here.get(name),
            "archs measured": sum(stored[name].measured.values()) if name in stored else 0,
            "predictors (held-out error)": ", ".join(predictors.get(name, [])),
        }
        for name in [*here, *(name for name in stored if name not in here)]
    ]
    if as_json:
        print_json(rows)
    else:
        print_table(list(rows[0]), [list(row.values()) for row in rows])


def measure(
    study: Study,
    store: Store,
    device: str,
    archs: int,
    command: str | None,
    *,
    few: bool,
    energy: bool,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Measure archs of the job's space on a device."""
    from nas.hardware import Command
    from nas.study.measuring import inputs_of, measure_archs, plan, supernet_of

    target = resolve(device, command, study, store)
    supernet = supernet_of(study)
    target.check()
    todo = plan(study.space, store.hardware, target, archs, few=few, inputs=inputs_of(supernet))
    if todo.unread:
        sys.stderr.write(
            f"nas: device {todo.device!r} has latencies of {todo.unread} archs by a version of supernas that did not record "
            "what is fixed in a space; they are not used\n"
        )
    for note in todo.notes:
        _note(f"nas: {note}")
    if dry_run:
        print_json({"device": todo.device, "archs": archs, "measured": todo.done, "to measure": len(todo.archs)})
        return
    if isinstance(target, Command):
        own.remember("command", store.place, target.key, target.describe()["command"])
    measured = measure_archs(supernet, store.hardware, target, todo.archs, energy=energy, tick=ticker(quiet))
    noisy = sum(one.noisy for one in measured)
    print_text(
        f"device {todo.device!r}: measured {len(measured)} archs{f', {noisy} of them noisy' if noisy else ''}; "
        f"it has {todo.done + len(measured)} of space {study.space.name!r}"
    )


def fit(study: Study, store: Store, device: str, kind: Kind, *, noisy: bool, quiet: bool) -> None:
    """Fit a predictor to what was measured."""
    from nas.study.measuring import fit as fit_predictor
    from nas.study.measuring import inputs_of, notes_on_devices, notes_on_inputs, supernet_of

    target = resolve(device, None, study, store, run=False)
    try:
        supernet = supernet_of(study)
    except NasError:
        supernet = None  # decisions alone are features, too
    one = fit_predictor(study.space, store.hardware, target, kind, supernet=supernet, noisy=noisy, tick=ticker(quiet))
    inputs = inputs_of(supernet)
    unused = notes_on_devices(study.space, store.hardware, target.key, inputs) if kind == "fewshot" else []
    for note in [*notes_on_inputs(study.space, store.hardware, target.key, inputs), *unused]:
        _note(f"nas: {note}")
    chosen = getattr(one, "regressor", one.kind)
    print_text(
        f"predictor of {target.key!r} for space {study.space.name!r}: {chosen}, on {one.errors['archs']:.0f} archs; held out: "
        f"error {_percent(one.errors['mape'])}, within 10 % {_percent(one.errors['within10'])}, "
        f"rank correlation {one.errors['spearman']:.3f}"
    )


def show_predictors(store: Store, as_json: bool) -> None:
    """Every predictor of the store."""
    kept = store.hardware.predictors()
    if as_json:
        print_json(
            [
                {
                    "device": one.device,
                    "space": one.space,
                    "fingerprint": one.fingerprint,
                    "kind": _kind(one),
                    "inputs": one.inputs,
                    **one.errors,
                }
                for one in kept
            ]
        )
        return
    if not kept:
        print_text("no predictor yet; measure archs with 'nas measure JOB' and fit one with 'nas predictor fit JOB'")
        return
    columns = ["device", "space", "kind", "inputs", "archs", "error", "within 10 %", "rank correlation"]
    print_table(
        columns,
        [
            [
                one.device,
                one.space,
                _kind(one),
                one.inputs,
                one.errors.get("archs"),
                _percent(one.errors.get("mape")),
                _percent(one.errors.get("within10")),
                one.errors.get("spearman"),
            ]
            for one in kept
        ],
    )


def resolve(device: str, command: str | None, study: Study, store: Store, *, run: bool = True) -> Target:
    """What a name on the command line means: a device of the job, a command, one of the store, or a label.

    A command comes from the command line, now or when this user gave it before, never from the database.

    Args:
        device: the name.
        command: of the command line.
        study: of the job.
        store: whose devices are known.
        run: False where nothing will be measured on it.

    Raises:
        DeviceError: none of them, or it is behind a command that this user never gave.
    """
    from nas.hardware import parse_device
    from nas.hardware.device import Elsewhere

    own_devices: dict[str, Target] = {
        one.device.label: one.device
        for one in every(study.evaluators)
        if one.device is not None and not isinstance(one.device, (str, Elsewhere))
    }
    stored = {one.name: one.description for one in store.hardware.devices()}
    found = stored.get(device)
    if command is not None:
        return _behind(device, command, found)
    if device in own_devices:
        return own_devices[device]
    if found is not None and not run and ("command" in found or "function" in found):
        return Elsewhere(device, found)
    if found is not None and "command" in found:
        given = own.recall("command", store.place, device)
        if given is None:
            raise DeviceError(
                f"device {device!r} is measured by a command, and the one that the database names is not run on its word; "
                f"if that is yours: --command {quote(_line(found['command']))}"
            )
        return _behind(device, given, found)
    if found is not None and "function" in found:
        raise DeviceError(f"device {device!r} is measured by a function; give the job's evaluators that device")
    label, at, _ = device.partition("@")
    if label.partition(",")[0].startswith(("cpu", "cuda")) and (found is not None or not at):
        here = parse_device(label)
        if not at or here.key == device:
            return here
        if not run and found is not None:
            return Elsewhere(device, found)
        raise DeviceError(f"device {device!r} is another machine's; this one's is {here.key!r}")
    names = ["cpu", *own_devices, *stored]
    raise DeviceError(
        f"device {device!r} is not known{suggest(device, names)}; give a label as 'cpu,threads=2', a device of the job or of the "
        "database, or --command"
    )


def _behind(device: str, command: str | list[str], stored: Mapping[str, Any] | None) -> Target:
    """The device behind a command; what model file it takes is as in the database, where the device is known."""
    from nas.hardware import Command

    known = stored or {}
    batch = known.get("batch")
    return Command(
        device,
        command,
        format="pt2" if known.get("format") == "pt2" else "onnx",
        batch=batch if isinstance(batch, int) and batch > 0 else 1,
    )


def _line(words: object) -> str:
    return join(map(str, words)) if isinstance(words, list) else str(words)


def measure_front(study: Study, quiet: bool) -> None:
    """Measure the front of predicted latencies until all of it is measured; a device out of reach is said, and no failure."""
    from nas.study.measuring import measured_front

    try:
        front = measured_front(study, tick=ticker(quiet))
    except NasError as error:
        print_text(f"the front's latencies are predictions still: {error}")
        return
    if not front.empty:
        off = (front["latency_ms_predicted"] / front["latency_ms"] - 1.0).abs().median()
        print_text(f"measured the front: {len(front)} trials, whose predictions were {off:.1%} off (median)")
    elif study.record.counts()["COMPLETED"]:
        bounds = " and ".join(map(str, study.constraints))
        print_text(
            f"no trial is within {bounds} when measured; lower the bound so that predictions leave room, or measure more "
            "archs and fit the predictor again"
        )


def measure_anew(study: Study, where: str | None, wait: float | None) -> pd.DataFrame:
    """The front of predictions with every trial measured; of measurements, with what is noisy measured once more.

    Raises:
        StudyError: nothing of the study is measured alone on this machine.
    """
    from nas.store import further
    from nas.study.anew import evaluators_of
    from nas.study.measuring import measured_front, predicted_by

    if predicted_by(study) is None and evaluators_of(study):
        measure_noisy(study, where, wait)
        return further.front(study.record, where)
    wait_for_quiet(study, wait)
    return measured_front(study, where, ticker(quiet=False))


def wait_for_quiet(study: Study, wait: float | None) -> bool:
    """Wait for a quiet machine, where the study measures latencies on it."""
    from nas.hardware.idle import wait_for_quiet as wait_here
    from nas.hardware.idle import wait_s
    from nas.study.anew import evaluators_of
    from nas.study.measuring import predicted_by

    measures = bool(evaluators_of(study)) or predicted_by(study) is not None
    return not measures or wait_here(wait_s(wait), _note)


def measure_noisy(study: Study, where: str | None, wait: float | None, *, here: bool = False) -> None:
    """Measure noisy trials of the front once more, when the machine is quiet, and say what came of it."""
    from nas.cli.stores import store_hint
    from nas.study.anew import measure_again, noisy_front

    todo = noisy_front(study, where, here=here)
    if not todo:
        return
    if not wait_for_quiet(study, wait):
        print_text(
            f"{len(todo)} trials of the front are noisy; on a quiet machine, measure them again with: "
            f"nas front {quote(study.name)} --measure{store_hint(study.where)}"
        )
        return
    done = measure_again(study, where, here=here)
    shown = ", ".join(map(str, done))
    print_text(f"measured {len(done)} noisy trial{'s' * (len(done) != 1)} of the front again: {shown}")


def _note(sentence: str) -> None:
    sys.stderr.write(printable(sentence) + "\n")
    sys.stderr.flush()


def ticker(quiet: bool) -> Tick:
    """A line every few seconds on standard error."""
    import sys

    last = [0.0]

    def tick(done: int, of: int, text: str) -> None:
        if not quiet and (done == of or time.monotonic() - last[0] >= 5.0):
            last[0] = time.monotonic()
            sys.stderr.write(f"{done}/{of} {printable(text)}\n")

    return tick


def _kind(one: Any) -> str:
    return str(one.state.get("regressor", one.kind))


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"
