"""Latency from a predictor: cheap, so that a search may ask for thousands."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.checking import checked
from nas.errors import DeviceError, EvaluationError, PredictorError, StoreError
from nas.evaluate.base import Cost, Evaluator
from nas.identity import inputs_described
from nas.predict import Predictor
from nas.predict.predictor import Packed

if TYPE_CHECKING:
    from nas.evaluate.subnets import Weights
    from nas.hardware import Target
    from nas.space import Arch, Space


class Predicted(Evaluator):
    """What a predictor says that an arch takes on a device, and how sure it is.

    The metric is called `latency_ms`, as if it had been measured: objectives and constraints stay the same.  The front of such
    a search is a front of predictions until it is measured: `nas front STUDY --measure` does that, and shows both.

    Args:
        predictor: one that is fitted, a file that `Predictor.save` wrote, or the database that `nas predictor fit` kept it in
            (then `device` says whose).  A study refuses one that was fitted to latencies of other inputs than its supernet's.
        device: to measure the front on; a `Device`, a label like "cpu,threads=2", a `Command` or a `Custom`.  The name of another
            device of the database does for predictions, and the front is not measured.

    Raises:
        EvaluationError: `predictor` is none of the three.
    """

    device: Target
    cost: Cost = "cheap"
    metrics = ("latency_ms", "latency_sd_ms")

    @checked(EvaluationError)
    def __init__(self, predictor: Predictor | Path | str, device: Target | str = "cpu") -> None:
        if not isinstance(predictor, (Predictor, Path, str)):
            raise EvaluationError(
                f"a {type(predictor).__name__} predicts nothing; give a Predictor, its file, or the database that keeps it"
            )
        self.source = predictor if isinstance(predictor, Predictor) else str(predictor)
        self.device = _target(device, self.source)
        self._loaded: Predictor | None = predictor if isinstance(predictor, Predictor) else None
        self._networks: Weights | None = None
        self._inputs = ""

    @property
    def inputs(self) -> str:
        """One sample of what the study's supernet is run with (`nas.supernet.inputs.sample_text`); "" while it is not known."""
        if not self._inputs and self._networks is not None:
            self._inputs = self._networks.inputs
        return self._inputs

    def bound(self, source: Any, task: Any) -> Predicted:
        """Itself, for latencies of the inputs that the study's supernet is run with."""
        del task
        if source is None:
            return self
        made = copy.copy(self)
        made._networks = source
        return made

    def get(self, space: Space) -> Predictor:
        """The predictor, read when it is first asked for.

        Raises:
            PredictorError: the file holds none, or it is of another space, or fitted to latencies of other inputs.
            StoreError: the database has none of this device and space.
        """
        if self._loaded is None:
            self._loaded = self._read(str(self.source), space)
        fitted, ours = self._loaded.inputs, self.inputs
        if fitted and ours and fitted != ours:
            raise PredictorError(
                f"the predictor of device {self.device.key!r} was fitted to latencies with inputs {fitted}, these are {ours}; "
                "measure archs with these ('nas measure JOB') and fit it again ('nas predictor fit JOB')"
            )
        return self._loaded

    def __call__(self, arch: Arch) -> dict[str, float]:
        """Value and standard deviation, in ms."""
        value, spread = self.get(arch.space).predict([arch])
        return {"latency_ms": float(value[0]), "latency_sd_ms": float(spread[0])}

    def check(self, space: Space) -> None:
        """Whether there is a predictor of this space."""
        self.get(space).predict([space.smallest])

    def describe(self) -> dict[str, Any]:
        """JSON-able: device, where the predictor comes from or what it is, and the inputs of the study's supernet."""
        about = {"name": "Predicted", "device": self.device.key, **inputs_described(self.inputs)}
        if isinstance(self.source, str):
            return {**about, "predictor": self.source}
        packed = self.source.pack()
        digest = hashlib.blake2b(packed.array_bytes(), digest_size=8).hexdigest()
        return {**about, "predictor": f"{packed.kind} {digest}"}

    def __getstate__(self) -> dict[str, Any]:
        """Without the supernet, of which the inputs alone are asked."""
        return {**vars(self), "_inputs": self.inputs, "_networks": None}

    def _read(self, source: str, space: Space) -> Predictor:
        if source.endswith(".npz"):
            return Predictor.load(source, space)
        from nas.store import open_store

        with open_store(source, create=False) as store:
            marks = [one.fingerprint for one in store.hardware.predictors() if one.device == self.device.key]
            recorded = sorted(filter(space.has_fingerprint, marks), key=lambda mark: mark != space.fingerprint)
            kept = store.hardware.predictor(self.device.key, (recorded or [space.fingerprint])[0], space.name)
        return unpack(kept, space)


def _target(device: Target | str, source: Predictor | str) -> Target:
    """What a device's label means, or else its name in the database `source`."""
    from nas.hardware import target_of
    from nas.hardware.device import Elsewhere

    try:
        return target_of(device)
    except DeviceError:
        stored = {} if not isinstance(source, str) or source.endswith(".npz") else _stored_devices(source)
        if not isinstance(device, str) or device not in stored:
            raise
        return Elsewhere(device, stored[device])


def _stored_devices(source: str) -> dict[str, Mapping[str, Any]]:
    """Descriptions of the devices of a database by their names; none where there is no database yet."""
    from nas.store import open_store

    try:
        with open_store(source, create=False) as store:
            return {one.name: one.description for one in store.hardware.devices()}
    except StoreError:
        return {}


def unpack(kept: Any, space: Space) -> Predictor:
    """A predictor from what `Store.hardware` keeps."""
    state = {
        "space": kept.space,
        "fingerprint": kept.fingerprint,
        "device": kept.device,
        "errors": kept.errors,
        "inputs": kept.inputs,
        "state": kept.state,
    }
    return Predictor.unpack(Packed.of_bytes(kept.kind, state, kept.arrays), space)
