"""What type checkers know of our names: those that are imported late too, in the wheel, without our configuration."""

from __future__ import annotations

import ast
import importlib
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
LAZY = [
    ".".join(path.relative_to(ROOT).parts[:-1])
    for path in sorted((ROOT / "nas").rglob("__init__.py"))
    if "lazy.names(" in path.read_text(encoding="utf-8")
]


def _typed(package: str) -> dict[str, str]:
    """Name to module of what a package imports for type checkers alone."""
    tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {
        name.asname or name.name: node.module
        for block in blocks
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module is not None
        for name in node.names
    }


@pytest.mark.parametrize("package", LAZY)
def test_type_checkers_know_the_names_that_are_imported_late_and_no_others(package: str) -> None:
    module = importlib.import_module(package)
    typed = _typed(package)
    assert typed.keys() == module._HOME.keys()
    for name, home in typed.items():
        assert getattr(importlib.import_module(home), name) is getattr(module, name)
    assert set(typed) <= set(module.__all__)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'Spase'"):
        module.Spase  # noqa: B018


def test_every_package_that_imports_late_is_one_of_these() -> None:
    """Or `__getattr__` would give type checkers anything."""
    assert "nas" in LAZY
    found = [
        path.relative_to(ROOT).as_posix()
        for path in [*(ROOT / "nas").rglob("*.py"), *(ROOT / "searchspaces").rglob("*.py")]
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name == "__getattr__"
    ]
    assert found == []


PROGRAM = """
from typing import Any, Callable, assert_type

import pyglove as pg  # type: ignore[import-untyped]
import torch
from torch import nn

import nas
import nas.evaluate
import nas.hardware
import nas.predict
import nas.runners
import nas.tune
from nas.study import Summary


@nas.model
def mlp(width: int, depth: int = 2, *, activation: str = "relu") -> nn.Module:
    return nn.Sequential(*[nn.Linear(width, width) for _ in range(depth)])


space = nas.Space(mlp(width=pg.oneof([8, 16]), depth=pg.oneof([1, 2])), name="mlp")
assert_type(space, nas.Space)
assert_type(space.smallest, nas.Arch)
assert_type(space.size, int)
supernet = nas.Supernet(space, example=torch.zeros(1, 8))
assert_type(supernet, nas.Supernet)
assert_type(supernet.extract(space.largest), nn.Module)
task = nas.digits()
training = nas.Training(supernet, task, steps=10, sampler=nas.Sandwich(2))
assert_type(training, nas.Training)
assert_type(training.run().supernet, nas.Supernet)
assert_type(training.trained, bool)


def evaluate(arch: nas.Arch) -> dict[str, float]:
    return {"accuracy": float(arch.choices["width"] or 0)}


study = nas.Study(
    "mine", space=space, objectives=["max accuracy", nas.Metric("params", "min")], evaluators=[evaluate, nas.Costs(supernet)],
    algorithm=nas.Surrogate(), training=training,
)
assert_type(study, nas.Study)
assert_type(study.run(workers=2), Summary)
assert_type(study.arch(0), nas.Arch)
assert_type(study.extract(0), nn.Module)
assert_type([trial.arch for trial in study.ask(2)], list[nas.Arch])
study.tell(0, {"accuracy": 0.5})
assert_type(nas.tune.run(study), Summary)
model = nas.ElasticModel(supernet, study.front(), calibration=task.calibration_inputs())
assert_type(model, nas.ElasticModel)
try:
    study.front("accuracy > 0.5").head()
except nas.NasError as error:
    assert_type(error, nas.NasError)
device: nas.Device = nas.hardware.parse_device("cpu")
nas.predict.Learned(space, "cpu")
reason: Exception = nas.Infeasible("too large")
"""

# Each line is an error, of this kind.
WRONG = """
nas.Spase  # attr-defined
nas.hardware.Devise  # attr-defined
nas.tune.ran  # attr-defined
nas.runners.RayRuner  # attr-defined
nas.predict.Lerned  # attr-defined
nas.evaluate.Acuracy  # attr-defined
study.runn()  # attr-defined
study.run(worker=2)  # call-arg
study.run(workers="two")  # arg-type
space.arch(3)  # arg-type
supernet.extract("largest")  # arg-type
mlp(widht=3)  # call-arg
mlp(width="wide")  # arg-type
nas.Training(supernet)  # call-arg
training.run(progress="no")  # arg-type
nas.Study("mine", space=space)  # call-arg
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment with the wheel, and with what it needs, from this one."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    for name in ("nas", "searchspaces"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('..'))"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env")
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(site)
    (site / "needs.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    return folder / "env" / "bin" / "python"


def test_the_wheel_says_that_it_is_typed(installed: Path) -> None:
    program = "import nas, searchspaces; print(nas.__file__, searchspaces.__file__)"
    found = subprocess.run([installed, "-c", program], cwd=installed.parent, text=True, capture_output=True, check=True)
    for file in found.stdout.split():
        assert Path(file).is_relative_to(installed.parents[1])
        assert Path(file).with_name("py.typed").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_program_of_a_user_is_checked_with_types(installed: Path, tmp_path: Path) -> None:
    wrong = [line.split("  # ") for line in WRONG.strip().splitlines()]
    first = len(PROGRAM.splitlines()) + 1
    (tmp_path / "program.py").write_text(PROGRAM + "\n".join(code for code, _ in wrong) + "\n")
    (tmp_path / "empty.ini").write_text("[mypy]\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "empty.ini", "--cache-dir", "cache"]
    command += ["--no-error-summary", "--hide-error-context", "--python-executable", str(installed), "program.py"]
    found = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, check=False)
    errors = [line for line in found.stdout.splitlines() if ": error: " in line]
    kinds = [(int(line.split(":")[1]) - first, line.rsplit("[", 1)[-1].rstrip("]")) for line in errors]
    assert kinds == [(number, kind) for number, (_, kind) in enumerate(wrong)], found.stdout + found.stderr
