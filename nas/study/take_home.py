"""Take a winner home: an ordinary module, checked against what was evaluated, with a file that loads it."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas import files, sealed
from nas.errors import StudyError
from nas.evaluate.base import Evaluator, every
from nas.study.loader import BARE, BLOCKED, LOADER, NOTE

if TYPE_CHECKING:
    from torch import nn

    from nas.deploy import Folded
    from nas.space import Arch
    from nas.study.study import Study

_RELATIVE = 1e-3  # of a measurement that is computed again; beyond it, see `_explained`
_DRAWS = 4
_ELSEWHERE = " here, {:.6g} where it was evaluated, as rounding explains"


@dataclass(frozen=True)
class Winner:
    """A trial's network, independent of the supernet.

    Args:
        study: its study's name.
        number: of the trial.
        arch: what it is.
        module: ordinary, in eval mode, with its own weights.
        measurements: of the trial, as recorded.
        checked: metrics that the module was found to reproduce.
        example: inputs that it takes.
        job: the job file or module, for what it defines.
        note: what whoever gets the network alone must know of its outputs; "" if nothing.
        folded: how the module was folded after it was checked; None if it was not.
    """

    study: str
    number: int
    arch: Arch
    module: nn.Module
    measurements: dict[str, float]
    checked: dict[str, float]
    example: Any
    job: str | None
    note: str = ""
    folded: Folded | None = None

    def __str__(self) -> str:
        same = ", ".join(
            f"{name} {value:.6g}"
            + ("" if _near(value, self.measurements[name]) else _ELSEWHERE.format(self.measurements[name]))
            for name, value in self.checked.items()
        )
        return (
            f"trial {self.number} of study {self.study!r}: the extracted module computes what was evaluated ({same})"
            + (f"; {self.note}" if self.note else "")
        )

    def write(self, folder: Path, *, force: bool = False) -> None:
        """Write `model.safetensors`, `arch.json` and `load.py`, and run the last to see that it gives the same outputs.

        The folder appears whole or not at all.  `load.py` compares every file with the hash that `arch.json` has of it.

        Args:
            folder: must be empty or not there.
            force: replace an earlier winner, if nothing else is in its folder.

        Raises:
            StudyError: the folder is there and not empty, cannot be written, or what was written does not load to the same
                module.
        """
        check_folder(folder, force=force)
        with files.explained(folder, StudyError):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with files.replacing(folder, durable=True) as half:
                half.mkdir()
                self._write(half)
                self._check(half)

    def _write(self, folder: Path) -> None:
        from nas.supernet import tensors

        tensors.save_module(folder / "model.safetensors", self.module)
        self._write_loader(folder)
        if hasattr(self.module, "save_pretrained"):
            self._write_pretrained(folder / "pretrained")
        written = sorted(file for file in folder.rglob("*") if file.is_file())
        described = {
            "study": self.study,
            "trial": self.number,
            "arch": self.arch.to_json(),
            "measurements": self.measurements,
            "checked": self.checked,
            **({"note": self.note} if self.note else {}),
            **({"folded": self.folded.describe()} if self.folded is not None else {}),
            "files": {str(file.relative_to(folder)): sealed.digest(file) for file in written},
        }
        (folder / _DESCRIBED).write_bytes(sealed.seal(described, indent=2))

    def _write_pretrained(self, folder: Path) -> None:
        """The class's own files, only where they read back: no configuration says that blocks have sizes of their own."""
        from nas.supernet.configuring import fitted

        module: Any = self.module
        log = logging.getLogger("transformers")  # tells of a mismatch with a table
        level = log.level
        log.setLevel(logging.CRITICAL)
        try:
            with fitted(module):
                module.save_pretrained(folder)
            same = _difference(module, type(module).from_pretrained(folder).eval(), self.example) is None
        except (AttributeError, KeyError, RuntimeError, ValueError):
            same = False
        finally:
            log.setLevel(level)
        if not same:
            shutil.rmtree(folder, ignore_errors=True)

    def _write_loader(self, folder: Path) -> None:
        """`load.py`, what it builds the network from, and the source of classes that are in no package.

        Raises:
            StudyError: a part of the network cannot be written so.
        """
        from nas.study.slices import Slices
        from nas.study.structure import Structure
        from nas.supernet import tensors

        slices = Slices(self._job_folder)
        try:
            structure = Structure(self.module, slices)
        except StudyError as error:
            raise StudyError(
                f"trial {self.number} cannot be written with a load.py: {error}; 'nas export STUDY {self.number} -o FILE' writes "
                "it as pt2, ONNX or safetensors"
            ) from None
        if structure.constants:
            tensors.save(folder / "constants.safetensors", structure.constants)
        (folder / "network.json").write_text(json.dumps(structure.to_json(), indent=1), encoding="utf-8")
        note = "\n" + textwrap.fill(_quotable(self.note), 110) + "\n" if self.note else ""
        (folder / "load.py").write_text(LOADER.replace(NOTE, note, 1), encoding="utf-8")
        for name, source in slices.files().items():
            (folder / "source").mkdir(exist_ok=True)
            (folder / "source" / name).write_text(source, encoding="utf-8")

    def _check(self, folder: Path) -> None:
        """What was written gives the same outputs as the module in memory."""
        name = f"nas_written_{os.getpid()}_{self.number}"
        spec = importlib.util.spec_from_file_location(name, folder / "load.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        loaded = module.load()
        for cache in [*folder.rglob("__pycache__")]:
            shutil.rmtree(cache, ignore_errors=True)
        different = _difference(self.module, loaded, self.example)
        if different is not None:
            raise StudyError(
                f"the module that load.py builds differs from trial {self.number}'s {different}; nothing was written"
            )
        self._check_alone(folder)

    def _check_alone(self, folder: Path) -> None:
        """It loads where nothing of the search is installed."""
        paths = [path for path in sys.path if path and Path(path).resolve() != self._job_folder]
        text = BARE.format(paths=paths, names=BLOCKED, folder=str(folder))
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, cwd=folder)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
            raise StudyError(
                f"the load.py of trial {self.number} does not load without the search's libraries ({said}); 'nas export STUDY "
                f"{self.number} -o FILE' writes the network as pt2, ONNX or safetensors"
            )

    @property
    def _job_folder(self) -> Path | None:
        file = (self.job or "").partition(".py:")[0].removesuffix(".py") + ".py"
        return Path(file).resolve().parent if Path(file).is_file() else None


_DESCRIBED = "arch.json"
_ALWAYS = ("model.safetensors", "load.py")


def take_home(study: Study, number: int, *, fold: bool = False) -> Winner:
    """The network of a trial, checked: it computes what the supernet computed, and measures what the record says.

    Args:
        study: that has it.
        number: of the trial.
        fold: merge layers afterwards, as `nas.fold` does.

    Raises:
        DeployError: it cannot be folded.
        StudyError: the trial has no result, no evaluator says which network it is, or it is not what was evaluated.
        StoreError: there is no such trial.
    """
    trial = study.record.trial(number)
    if trial.state not in ("COMPLETED", "INFEASIBLE"):
        raise StudyError(f"trial {number} of study {study.name!r} is {trial.state}; take one that 'nas front' lists")
    sources = [evaluator for evaluator in every(study.evaluators) if evaluator.has_networks]
    if not sources:
        raise StudyError(
            f"no evaluator of study {study.name!r} says which network it evaluated; write one as a function of `model` with "
            f"@nas.evaluator(source=supernet), use nas.Accuracy, or extract it yourself: supernet.extract(study.arch({number}))"
        )
    arch = study.arch(number)
    source = sources[0]
    module = source.extract(arch)
    checked: dict[str, float] = {}
    wrong: list[str] = []
    for one in sources:
        if one.measures_modules and not one.exclusive:
            found = {
                name: float(v) for name, v in one.measure_again(module, arch).items() if name in trial.measurements
            }
            differ = _wrong(one, module, found, trial.measurements, arch)
            wrong += differ or ()
            checked |= {} if differ is None else found
    if wrong:
        raise StudyError(
            f"trial {number} of study {study.name!r} is not what was evaluated: {', '.join(wrong)}; "
            "the supernet or the data has changed since, so evaluate the study again under another name"
        )
    gap = source.difference(module, arch)
    if not gap.same:
        raise StudyError(
            f"trial {number}'s extracted module differs from the supernet by {gap.absolute:.2g}, and rounding explains "
            f"{gap.allowed:.2g}; this is a defect, report it"
        )
    note = getattr(getattr(source, "task", None), "note", "")
    folded = None
    if fold:
        from nas.deploy import fold as merge

        folded = merge(module, source.example)
        module = folded.module
    record = dict(trial.measurements)
    return Winner(study.name, number, arch, module, record, checked, source.example, study.job, note, folded)


def _quotable(text: str) -> str:
    """Without what would end or change a string of source."""
    return "".join(letter for letter in text if letter.isprintable() and letter not in '\\"')


def check_folder(folder: Path, *, force: bool = False) -> None:
    """Refuse a folder that would be overwritten.

    Args:
        folder: to write.
        force: an earlier winner may be replaced, if nothing else is in its folder.

    Raises:
        StudyError: it is a file, or a folder with something in it.
    """
    files.check_folder(folder, StudyError, _listed, force=force)


def _listed(folder: Path) -> list[str] | None:
    """The files of a winner by their names, with those that Python adds when it is loaded; None where there is none."""
    try:
        described, is_sealed = sealed.unseal((folder / _DESCRIBED).read_bytes())
        names = described["files"] if is_sealed else [*_ALWAYS, *(file.name for file in folder.glob("nas_job_*.py"))]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    compiled = (str(file.relative_to(folder)) for file in folder.rglob("__pycache__/*.pyc"))
    return [_DESCRIBED, *names, *compiled] if "arch" in described else None


def _wrong(
    source: Evaluator, module: nn.Module, again: dict[str, float], record: dict[str, float], arch: Arch | None = None
) -> list[str] | None:
    """The measurements that differ from the record by more than rounding on another machine explains, each in words.

    None where they cannot be compared, because two measurements of one module differ as well.

    A metric such as accuracy moves in steps: a sample near the border between two classes may fall on either side.  How far
    the metrics go by rounding is seen on copies of the module whose weights are moved by as much.
    """
    far = {name: abs(value - record[name]) for name, value in again.items() if not _near(value, record[name])}
    if not far:
        return []
    from nas.supernet.rounding import nudged

    others = [source.measure_again(nudged(module, draw), arch) for draw in range(_DRAWS)]
    allowed = {name: 2 * max(abs(other[name] - again[name]) for other in others) for name in far}
    far = {name: gap for name, gap in far.items() if not gap <= allowed[name]}
    first, second = ([source.measure_again(module, arch) for _ in range(2)]) if far else (again, again)
    if any(not _near(first[name], second[name]) for name in far):
        return None
    return [
        f"{name} is {again[name]:.6g} where the record has {record[name]:.6g}, and rounding on another machine "
        f"explains {allowed[name]:.2g}"
        for name in far
    ]


def _near(value: float, recorded: float) -> bool:
    return math.isclose(value, recorded, rel_tol=_RELATIVE, abs_tol=1e-6)


def _difference(module: nn.Module, again: nn.Module, example: Any) -> str | None:
    """What `again`, which was read from files, has different: its weights to the bit, or its outputs beyond rounding."""
    from nas.supernet.rounding import first_difference

    name = first_difference(module.state_dict(), again.state_dict())
    if name is not None:
        return f"in {name!r}"
    return outputs_differ(module, again, example)


def outputs_differ(module: nn.Module, again: nn.Module, example: Any) -> str | None:
    """How far the outputs of the two are apart, in words; None where rounding explains it."""
    from nas.supernet.inputs import call
    from nas.supernet.rounding import gap

    found = gap(module, lambda inputs: call(again, inputs), example)
    return None if found.same else f"by {found.absolute:.2g}, and rounding explains {found.allowed:.2g}"
