"""The interface of a predictor, and how one is kept: JSON and arrays."""

from __future__ import annotations

import io
import json
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from nas import files
from nas.errors import NasError, PredictorError, brief, suggest

if TYPE_CHECKING:
    from nas.space import Arch, Space

Floats = NDArray[np.float64]
_JSON = "predictor.json"


@dataclass(frozen=True)
class Packed:
    """A fitted predictor as data.

    Args:
        kind: of the predictor.
        state: JSON-able.
        arrays: numeric arrays by name.
    """

    kind: str
    state: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def array_bytes(self) -> bytes:
        """The arrays as an .npz without objects."""
        buffer = io.BytesIO()
        np.savez(buffer, **dict(self.arrays))  # type: ignore[arg-type]
        return buffer.getvalue()

    @classmethod
    def of_bytes(cls, kind: str, state: Mapping[str, Any], arrays: bytes) -> Packed:
        """The reverse of `array_bytes`.

        Raises:
            PredictorError: the bytes are not such an .npz.
        """
        try:
            with np.load(io.BytesIO(arrays), allow_pickle=False) as found:
                return cls(kind, state, {name: found[name] for name in found.files})
        except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
            raise PredictorError(f"arrays of a {kind!r} predictor are damaged ({error}); fit it again") from error


def _is_predictor(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as found:
            return f"{_JSON}.npy" in found.namelist()
    except zipfile.BadZipFile:
        return False


class Predictor(ABC):
    """Maps archs of one space to milliseconds on one device.

    `fit` once, then `predict` as often as wanted; a predictor belongs to the space that it was made for, and refuses others.
    Fitting the same data again gives the same predictor.  It may be used from several threads once it is fitted.

    Args:
        space: whose archs it is asked about.
        device: name of the device, for messages and for the store.
    """

    kind: ClassVar[str]
    registry: ClassVar[dict[str, type[Predictor]]] = {}
    least: ClassVar[int] = 2
    """Measurements that `fit` needs."""

    def __init__(self, space: Space, device: str = "") -> None:
        self.space = space
        self.device = device
        self.errors: dict[str, float] = {}
        """On measured archs that were held out of the fit: what `nas.predict.scores` gives."""
        self.fitted = False
        self.inputs = ""
        """One sample of what the measured archs were run with (`nas.supernet.inputs.sample_text`); "" if it is not known."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "kind" in vars(cls):
            Predictor.registry[cls.kind] = cls

    def fit(self, archs: Sequence[Arch], ms: Sequence[float] | Floats) -> Self:
        """Learn from measurements: one positive latency an arch, in milliseconds.

        Raises:
            PredictorError: too few, not as many as archs, of another space, or not positive numbers.
        """
        values = np.asarray(ms, dtype=float)
        if values.shape != (len(archs),):
            raise PredictorError(
                f"{len(archs)} archs came with latencies of shape {values.shape}; give one for each arch"
            )
        if len(archs) < self.least:
            raise PredictorError(
                f"{len(archs)} measurements are too few for a {self.kind!r} predictor; give {self.least} or more"
            )
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise PredictorError(f"latency {values[~(values > 0) | ~np.isfinite(values)][0]} ms is no positive number")
        self._check(archs)
        self._fit(archs, values)
        self.fitted = True
        return self

    def predict(self, archs: Sequence[Arch]) -> tuple[Floats, Floats]:
        """Value and spread (one standard deviation) of each arch, (n,) and (n,), in milliseconds, both positive.

        Raises:
            PredictorError: it is not fitted, or an arch is of another space.
        """
        if not self.fitted:
            raise PredictorError(f"the {self.kind!r} predictor of device {self.device!r} is not fitted; call fit first")
        self._check(archs)
        if not len(archs):
            return np.empty(0), np.empty(0)
        try:
            value, spread = self._predict(archs)
        except NasError:
            raise
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise self._damaged(brief(repr(error))) from error
        if not (np.isfinite(value).all() and np.isfinite(spread).all() and (value > 0).all()):
            raise self._damaged("it predicts what is no positive number")
        return value, spread

    def _damaged(self, why: str) -> PredictorError:
        return PredictorError(f"the {self.kind!r} predictor of device {self.device!r} is damaged ({why}); fit it again")

    def pack(self) -> Packed:
        """The fitted predictor as data; `unpack` is the reverse.

        Raises:
            PredictorError: it is not fitted, or was given a function that cannot be kept.
        """
        if not self.fitted:
            raise PredictorError(f"the {self.kind!r} predictor of device {self.device!r} is not fitted; call fit first")
        state, arrays = self._state()
        own = {
            "space": self.space.name,
            "fingerprint": self.space.fingerprint,
            "device": self.device,
            "errors": self.errors,
            **({"inputs": self.inputs} if self.inputs else {}),
        }
        return Packed(self.kind, {**own, "state": state}, arrays)

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write one .npz: the arrays, and the rest as JSON text.

        Args:
            path: file; a predictor that is there is replaced.
            force: replace any other file, too.

        Raises:
            PredictorError: the path is another file, or cannot be written.
        """
        files.check(Path(path), PredictorError, _is_predictor, force=force)
        packed = self.pack()
        text = json.dumps({"kind": packed.kind, **packed.state})
        arrays = {**packed.arrays, _JSON: np.frombuffer(text.encode(), dtype=np.uint8)}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        with files.explained(path, PredictorError):
            files.write(path, buffer.getvalue())

    @staticmethod
    def load(path: str | Path, space: Space) -> Predictor:
        """What `save` wrote.

        Raises:
            PredictorError: the file is missing, damaged, or of a predictor of another space.
        """
        try:
            with np.load(io.BytesIO(Path(path).read_bytes()), allow_pickle=False) as found:
                arrays = {name: found[name] for name in found.files if name != _JSON}
                state = json.loads(found[_JSON].tobytes())
        except (ValueError, OSError, KeyError, zipfile.BadZipFile, EOFError) as error:
            raise PredictorError(f"{str(path)!r} holds no predictor ({error}); save one with Predictor.save") from error
        return Predictor.unpack(Packed(state.pop("kind"), state, arrays), space)

    @staticmethod
    def unpack(packed: Packed, space: Space) -> Predictor:
        """The predictor that `packed` describes.

        Raises:
            PredictorError: it is of another space, or of no known kind.
        """
        import nas.predict.learned
        import nas.predict.lookup
        import nas.predict.transfer  # noqa: F401  (they register their kinds)

        state = packed.state
        if not space.has_fingerprint(state["fingerprint"]):
            raise PredictorError(
                f"the predictor of device {state['device']!r} knows space {state['space']!r} ({state['fingerprint'][:8]}) "
                f"and was asked about space {space.name!r} ({space.fingerprint[:8]}); fit one for it with 'nas predictor fit JOB'"
            )
        found = Predictor.registry.get(packed.kind)
        if found is None:
            raise PredictorError(
                f"predictors of kind {packed.kind!r} are not known{suggest(packed.kind, Predictor.registry)}; "
                f"the kinds are {', '.join(sorted(Predictor.registry))}"
            )
        try:
            one = found._restore(space, state["device"], state["state"], packed.arrays)
            one.errors, one.fitted = dict(state["errors"]), True
            one.inputs = str(state.get("inputs") or one.inputs)
        except PredictorError:
            raise
        except Exception as error:
            raise PredictorError(
                f"the {packed.kind!r} predictor of device {state['device']!r} is damaged ({brief(repr(error))}); fit it again"
            ) from error
        return one

    def _check(self, archs: Sequence[Arch]) -> None:
        for arch in archs:
            if arch.space is not self.space and arch.space.fingerprint != self.space.fingerprint:
                raise PredictorError(
                    f"the predictor of device {self.device!r} knows space {self.space.name!r} ({self.space.fingerprint[:8]}) "
                    f"and was asked about an arch of space {arch.space.name!r} ({arch.space.fingerprint[:8]}); "
                    "fit one for it with 'nas predictor fit JOB'"
                )

    @abstractmethod
    def _fit(self, archs: Sequence[Arch], ms: Floats) -> None:
        """Learn from checked measurements; sets `errors`."""

    @abstractmethod
    def _predict(self, archs: Sequence[Arch]) -> tuple[Floats, Floats]:
        """Of one or more archs of the space."""

    @abstractmethod
    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """What `_restore` needs: JSON-able, and arrays."""

    @classmethod
    @abstractmethod
    def _restore(
        cls, space: Space, device: str, state: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Predictor:
        """The reverse of `_state`."""
