"""Who may import whom: the arrows of docs/architecture.md."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Each layer may import itself and those of the layers named.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "checking": {"errors"},
    "text": set(),
    "pace": set(),
    "code": set(),
    "behaviour": {"code"},
    "identity": {"behaviour", "code"},  # behaviour: of modules, late
    "measurements": {"errors"},
    "failures": {"errors", "measurements", "signals"},
    "metrics": {"errors", "measurements"},
    "noise": {"metrics"},
    "pareto": {"errors"},
    "retrieval": {"errors"},
    "remote": {"errors", "failures", "measurements"},
    "space": {"code", "errors", "identity", "text"},
    "choosing": {"errors", "space"},
    "files": {"errors"},
    "sealed": set(),
    "carried": {"errors", "files", "sealed"},
    "placement": {"errors"},
    "signals": set(),
    "lazy": {"errors"},
    "reading": set(),
    "supernet": {"reading", "files", "sealed", "carried", "errors", "identity", "space"},
    "train": {
        "choosing",
        "measurements",
        "metrics",
        "reading",
        "pace",
        "text",
        "files",
        "sealed",
        "errors",
        "signals",
        "space",
        "supernet",
        "identity",
    },
    "proxies": {"errors", "evaluate", "space", "supernet", "train"},
    "convert": {"errors", "identity", "space", "supernet", "train"},
    "decode": {"errors"},
    "hardware": {
        "errors",
        "deploy",
        "failures",
        "measurements",
        "supernet",
        "identity",
    },  # deploy: a model for another runtime is a file
    "predict": {"files", "errors", "space", "supernet"},
    "search": {"choosing", "errors", "metrics", "pareto", "space", "failures", "measurements"},
    "store": {"errors", "text", "metrics", "noise", "pareto", "measurements", "identity"},
    "evaluate": {
        "reading",
        "files",
        "sealed",
        "errors",
        "metrics",
        "placement",
        "space",
        "supernet",
        "train",
        "hardware",
        "predict",
        "store",
        "failures",
        "measurements",
        "identity",
    },
    "deploy": {"convert", "files", "sealed", "errors", "metrics", "space", "supernet"},
    "runners": {"carried", "signals", "errors", "placement", "failures", "measurements"},
    "plot": {"errors", "metrics", "noise", "page", "pareto", "store", "text"},
    "page": {"errors", "measurements", "metrics", "noise", "plot", "text"},
    "study": {
        "failures",
        "deploy",
        "pace",
        "files",
        "sealed",
        "errors",
        "signals",
        "text",
        "metrics",
        "noise",
        "pareto",
        "placement",
        "space",
        "supernet",
        "search",
        "store",
        "evaluate",
        "hardware",
        "predict",
        "runners",
        "train",
        "measurements",
        "identity",
    },
    "compressing": {
        "convert",
        "errors",
        "evaluate",
        "files",
        "hardware",
        "identity",
        "metrics",
        "reading",
        "search",
        "space",
        "study",
        "supernet",
        "text",
        "train",
    },
    "pyglove": {"errors", "metrics", "search", "space", "store", "study", "measurements"},
    "optuna": {"errors", "metrics", "store"},
    "tune": {
        "files",
        "sealed",
        "errors",
        "signals",
        "evaluate",
        "metrics",
        "pareto",
        "runners",
        "search",
        "space",
        "store",
        "study",
        "failures",
        "measurements",
    },
    "distributed": {"files", "errors", "signals", "runners", "train", "failures"},
    "cli": {
        "compressing",
        "convert",
        "files",
        "text",
        "signals",
        "deploy",
        "distributed",
        "errors",
        "evaluate",
        "hardware",
        "measurements",
        "metrics",
        "noise",
        "optuna",
        "page",
        "predict",
        "plot",
        "store",
        "runners",
        "study",
        "failures",
        "web",
    },
    "web": {
        "errors",
        "evaluate",
        "files",
        "identity",
        "measurements",
        "metrics",
        "noise",
        "pareto",
        "predict",
        "runners",
        "search",
        "space",
        "store",
        "study",
        "supernet",
    },
}
for _layer in set(MAY_IMPORT) - {"errors"}:
    MAY_IMPORT[_layer].add("checking")  # everybody checks arguments
    MAY_IMPORT[_layer].add("lazy")  # every package may import late
# Packages that are imported in these layers only.
ONLY_IN = {
    "torch": {
        "behaviour",
        "compressing",
        "convert",
        "identity",
        "decode",
        "supernet",
        "train",
        "hardware",
        "predict",
        "evaluate",
        "proxies",
        "study",
        "cli",
        "deploy",
        "distributed",
    },  # cli: the doctor looks at it
    "pyglove": {"convert", "space", "search", "pyglove"},
    "ray": {"distributed", "runners", "tune"},
    "sqlalchemy": {"optuna", "store"},
    "alembic": {"store"},
    "optuna": {"search", "optuna"},
    "matplotlib": {"plot"},
    "cyclopts": {"cli"},
    "moocore": {"pareto"},
    "onnxruntime": {"deploy", "hardware"},
    "onnxscript": {"deploy"},
    "fastapi": {"web"},
    "starlette": {"web"},
    "uvicorn": {"web"},
    "pydantic": {"web"},
    "prometheus_client": {"web"},
}


@functools.cache
def _imports(path: Path) -> frozenset[str]:
    """Full names of the modules that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names if node.module == "nas")
    return frozenset(found)


def _files() -> list[tuple[str, Path]]:
    files = []
    for path in sorted((ROOT / "nas").rglob("*.py")):
        parts = path.relative_to(ROOT / "nas").parts
        layer = parts[0].removesuffix(".py")
        if layer not in ("__init__", "__main__"):
            files.append((layer, path))
    return files


def test_every_layer_is_known() -> None:
    assert {layer for layer, _ in _files()} <= set(MAY_IMPORT)


@pytest.mark.parametrize(
    ("layer", "path"), _files(), ids=lambda value: value.name if isinstance(value, Path) else value
)
def test_imports_go_downwards_only(layer: str, path: Path) -> None:
    for name in _imports(path):
        top, _, rest = name.partition(".")
        if top == "nas" and rest:
            target = rest.split(".")[0]
            if target in MAY_IMPORT:
                assert target == layer or target in MAY_IMPORT[layer], f"{path} imports nas.{target}"
        assert top not in ONLY_IN or layer in ONLY_IN[top], f"{path} imports {top}"


@pytest.mark.parametrize("path", sorted((ROOT / "searchspaces").glob("*.py")), ids=lambda path: path.name)
def test_search_spaces_use_nas_and_not_the_reverse(path: Path) -> None:
    assert not any(name.split(".")[0] in ("tests", "experiments") for name in _imports(path))
    assert not any("searchspaces" in _imports(other) for _, other in _files())


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import nas", {"torch", "pyglove", "ray", "sqlalchemy", "pandas", "numpy"}),
        ("import nas.measurements, nas.failures", {"torch", "numpy"}),
        ("import nas.store", {"torch", "pyglove", "ray"}),
        ("from nas.cli import app", {"torch", "pyglove", "ray", "sqlalchemy", "pandas", "numpy"}),
        ("import nas.cli.output", {"torch", "pyglove", "ray", "sqlalchemy", "pandas", "numpy"}),
        ("import nas.search", {"torch", "ray", "sqlalchemy", "pyglove", "optuna"}),
        ("import nas.study", {"torch", "ray", "pyglove", "pandas", "optuna", "scipy.stats", "scipy.optimize"}),
        ("from nas.evaluate import Evaluation", {"torch", "ray", "sqlalchemy", "pandas"}),
    ],
)
def test_light_imports_stay_light(code: str, absent: set[str]) -> None:
    program = f"import sys\n{code}\nprint(*(set({sorted(absent)!r}) & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


# What unpickles, or may: the last part of a call's name.
UNPICKLES = {"load_pickle", "read_pickle", "Unpickler", "broadcast_object_list", "all_gather_object", "gather_object"}
UNPICKLES |= {"scatter_object_list", "recv_object_list"}
PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "torch", "shelve", "marshal"}


def test_nothing_is_unpickled_but_what_a_driver_sends_its_own_workers() -> None:
    found = []
    for folder in ("nas", "searchspaces", "docker"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            found += [f"{path.relative_to(ROOT)}: {ast.unparse(call)}" for call in calls if _unpickles(call)]
    assert found == ["nas/runners/work.py: pickle.loads(self.body)"]


def _unpickles(call: ast.Call) -> bool:
    *owner, name = ast.unparse(call.func).split(".")
    options = {one.arg: ast.unparse(one.value) for one in call.keywords}
    if name in ("load", "loads") and owner and owner[-1] in PICKLES:
        return True
    if name == "load" and owner and owner[-1] in ("np", "numpy"):
        return options.get("allow_pickle") != "False"
    return name in UNPICKLES


def test_a_driver_is_made_by_its_study_alone() -> None:
    """Or it would lack what the study knows: the trials of its sources, cheap objectives, equal archs."""
    makers = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "nas").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Driver"
    ]
    assert makers == ["nas/study/study.py"]
