"""Devices that measure by themselves: a command that reads a model file, or a function of the user's own."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from nas.checking import Count, Positive, checked
from nas.errors import DeployError, DeviceError, glimpse
from nas.failures import describe
from nas.hardware.latency import batched
from nas.identity import IDENTITY, identity
from nas.measurements import number
from nas.supernet.inputs import Inputs, plain

REPEATS = 3
_MODEL = "{model}"
_SHOWN = 160
_SEPARATOR = re.compile(r"[\s;]+|,(?=\s|$)")


@checked(DeviceError)
@dataclass(frozen=True)
class Command:
    """A device behind a command: it is given a model file and prints milliseconds.

        Command("pixel7", "adb-bench --runs 20 {model}")

    `{model}` becomes the path of the exported model; without it the path is added at the end.  The last line of the output must
    be numbers, one for each run ("1.9 2.0 1.9 ms"; "1.9, 2.0", "1.9; 2.0"), with a decimal point: "3,52" is refused.  The
    command is started without a shell, in a process group of its own, which is killed when it takes too long.

    Args:
        name: of the device, in the store too.
        command: a line, or a sequence of arguments.
        format: of the model file.
        batch: samples a call; the graph is for exactly as many.
        timeout_s: of one call of the command.

    Raises:
        DeviceError: an argument is not usable.
    """

    name: str
    command: str | Sequence[str]
    format: Literal["onnx", "pt2"] = "onnx"
    batch: Count = 1
    timeout_s: Positive = 120.0

    def __post_init__(self) -> None:
        _check_name(self.name)
        try:
            words = self._words()
        except ValueError as error:  # unpaired quotes
            raise DeviceError(
                f"command {self.command!r} of device {self.name!r} is not understood ({error}); pair its quotes"
            ) from None
        if not words or not words[0]:
            raise DeviceError(
                f"device {self.name!r} has no command; give one that reads a model file and prints milliseconds"
            )

    @property
    def label(self) -> str:
        """The name."""
        return self.name

    @property
    def key(self) -> str:
        """The name."""
        return self.name

    def describe(self) -> dict[str, Any]:
        """JSON-able."""
        return {"name": self.name, "command": self._words(), "format": self.format, "batch": self.batch}

    def check(self) -> None:
        """Whether the program is there.

        Raises:
            DeviceError: it is not.
        """
        import shutil

        program = self._words()[0]
        if shutil.which(program) is None:
            raise DeviceError(f"device {self.name!r}: program {program!r} is not there; install it, or give its path")

    def facts(self) -> dict[str, str]:
        """For the environment of its figures."""
        return {"measured by": shlex.join(self._words())}

    def times(self, module: nn.Module, inputs: Inputs, repeats: int | None) -> list[float]:
        """Milliseconds of each run; the command is called until there are `repeats` (3) of them.

        Raises:
            DeviceError: the module cannot be exported, or the command fails, hangs, or its last line is not numbers.
        """
        from nas.deploy import export

        with tempfile.TemporaryDirectory(prefix="nas-device-") as folder:
            path = Path(folder) / f"model.{self.format}"
            try:
                export(module, path, self.format, batched(inputs, self.batch, f"device {self.name!r}"), any_batch=False)
            except DeployError as error:
                raise DeviceError(f"device {self.name!r} cannot be sent the model: {error}") from error
            found: list[float] = []
            while len(found) < (repeats or REPEATS):
                found += self.run(path)
            return found

    def run(self, model: Path) -> list[float]:
        """One call of the command.

        Raises:
            DeviceError: it fails, hangs, or its last line is not numbers.
        """
        words = self._words()
        words = [word.replace(_MODEL, str(model)) for word in words] if self._placed() else [*words, str(model)]
        code, out, err = self._output(words)
        if code != 0:
            said = (_last_line(err) or _last_line(out))[:_SHOWN]
            raise DeviceError(
                f"device {self.name!r}: {words[0]!r} ended with code {code}{f': {said}' if said else ''}; "
                "run it by hand on a model file to see why"
            )
        return self._numbers(out)

    def _output(self, words: Sequence[str]) -> tuple[int, str, str]:
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            raise DeviceError(f"device {self.name!r}: {words[0]!r} cannot be started ({error.strerror})") from error
        with process:
            try:
                out, err = process.communicate(timeout=self.timeout_s)
            except subprocess.TimeoutExpired:
                raise DeviceError(
                    f"device {self.name!r}: {words[0]!r} took longer than {self.timeout_s:g} s and was stopped; "
                    "give a larger timeout_s, or see whether the device hangs"
                ) from None
            finally:  # also what it left behind, and also when we are interrupted
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
        return process.returncode, out, err

    def _numbers(self, out: str) -> list[float]:
        said = _last_line(out)
        found = _floats(said)
        if found:
            return self._usable(found)
        program, shown = self._words()[0], repr(said[:_SHOWN])
        if _floats(said.replace(",", " ")):
            raise DeviceError(
                f"device {self.name!r}: {program!r} printed {shown}, where a comma may be a decimal point or stand between "
                "runs; print numbers as in '1.92 1.95'"
            )
        raise DeviceError(
            f"device {self.name!r}: {program!r} printed no line of milliseconds"
            f"{f' but {shown}' if said else ' and nothing else'}; its last line must be numbers, as in '1.92 1.95'"
        )

    def _usable(self, found: list[float]) -> list[float]:
        for value in found:
            if not 0.0 < value < float("inf"):
                raise DeviceError(
                    f"device {self.name!r}: {self._words()[0]!r} printed {value} ms; a latency is a positive number"
                )
        return found

    def _words(self) -> list[str]:
        return shlex.split(self.command) if isinstance(self.command, str) else list(self.command)

    def _placed(self) -> bool:
        return any(_MODEL in word for word in self._words())


@checked(DeviceError)
@dataclass(frozen=True)
class Custom:
    """A device behind a function of yours: called with module and inputs, it gives milliseconds.

    Args:
        name: of the device, in the store too.
        function: gives the milliseconds of one run, or of several.
        batch: samples a call.

    Raises:
        DeviceError: an argument is not usable.
    """

    name: str
    function: Callable[[nn.Module, Inputs], float | Sequence[float]]
    batch: Count = 1

    def __post_init__(self) -> None:
        _check_name(self.name)

    @property
    def label(self) -> str:
        """The name."""
        return self.name

    @property
    def key(self) -> str:
        """The name."""
        return self.name

    def describe(self) -> dict[str, Any]:
        """JSON-able."""
        function = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        return {"name": self.name, "function": function, "batch": self.batch, IDENTITY: identity(self.function)}

    def check(self) -> None:
        """A function is there."""

    def facts(self) -> dict[str, str]:
        """For the environment of its figures."""
        return {"measured by": str(self.describe()["function"])}

    def times(self, module: nn.Module, inputs: Inputs, repeats: int | None) -> list[float]:
        """Milliseconds of each run; the function is called until there are `repeats` (3) of them.

        Raises:
            DeviceError: the function fails, or gives something else than positive numbers.
        """
        found: list[float] = []
        while len(found) < (repeats or REPEATS):
            try:
                with torch.no_grad():
                    given = self.function(module, plain(batched(inputs, self.batch, f"device {self.name!r}")))
            except Exception as error:
                raise DeviceError(f"device {self.name!r}: its function failed: {describe(error)}") from error
            values = _milliseconds(given)
            if not values:
                raise DeviceError(
                    f"device {self.name!r}: its function gave {glimpse(given)}; it must give positive milliseconds, one or "
                    "several"
                )
            found += values
        return found


def _milliseconds(given: Any) -> list[float]:
    """Latencies from a number, or from a list or a one-dimensional array of them; none where one is not positive."""
    several = isinstance(given, Sequence) or len(getattr(given, "shape", ())) == 1
    try:
        values = [float(number(one)) for one in (given if several else [given])]
    except ValueError:
        return []
    return values if all(value > 0.0 for value in values) else []


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[\w][\w.+-]{0,99}", name) or name.startswith(("cpu", "cuda")):
        raise DeviceError(
            f"device name {name!r} is not usable; use letters, digits and _ . + -, not beginning with 'cpu' or 'cuda'"
        )


def _floats(line: str) -> list[float]:
    """The numbers of a line; none when one of its words is no number."""
    try:
        return [float(word.removesuffix("ms")) for word in _SEPARATOR.split(line) if word not in ("", "ms")]
    except ValueError:
        return []


def _last_line(text: str) -> str:
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
