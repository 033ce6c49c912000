"""The part of a Python file that some of its classes and functions need, as files that import nothing of ours or of the job.

Statements at the top level of a file are followed by the names that they use, from file to file.  Nothing is run.
"""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from nas.errors import StudyError

_NEVER = ("pyglove",)
_SEARCH = ("nas", "searchspaces", "pyglove")
_INSTALLED = ("site-packages", "dist-packages")
_LIBRARY = sysconfig.get_path("stdlib")
_FUTURE = "from __future__ import annotations\n"


class Slices:
    """Files to be written, each a package's module that imports the others relatively.

    Args:
        folder: of the job: modules there are taken along, as those of nas and searchspaces are.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._modules: dict[str, _Slice] = {}
        self._imported: dict[str, set[str]] = {}

    def owns(self, module: str) -> bool:
        """Whether names of `module` are written, not imported: no other process is to need it."""
        top = module.partition(".")[0]
        if top in ("nas", "searchspaces", "__main__") or top.startswith("nas_job_"):
            return True
        file = getattr(sys.modules.get(module), "__file__", None)
        if file is None or any(part in _INSTALLED for part in Path(file).parts):
            return False
        return Path(file).resolve().parent == self._folder or self._searches(module, set())

    def _searches(self, module: str, seen: set[str]) -> bool:
        """Whether importing a module that is not installed imports the search's libraries."""
        if module.partition(".")[0] in _SEARCH:
            return True
        file = getattr(sys.modules.get(module), "__file__", None)
        if module in seen or file is None or not file.endswith(".py") or file.startswith(_LIBRARY):
            return False
        seen.add(module)
        if any(part in _INSTALLED for part in Path(file).parts):
            return False
        if module not in self._imported:
            self._imported[module] = _imports(module, Path(file))
        return any(self._searches(one, seen) for one in self._imported[module])

    def take(self, module: str, name: str) -> str:
        """Have the top-level `name` of `module`; the name of the file that has it, without `.py`.

        Raises:
            StudyError: it needs what cannot be taken along.
        """
        if module.partition(".")[0] in _NEVER:
            raise StudyError(f"{module}.{name} is needed, which is of the search and not of the network")
        if module not in self._modules:
            self._modules[module] = _Slice(module, self)
        return self._modules[module].take(name)

    def files(self) -> dict[str, str]:
        """Source by file name."""
        return {f"{one.file}.py": one.source() for one in self._modules.values()}


def _imports(module: str, path: Path) -> set[str]:
    """Modules that a file imports when it is imported itself, its packages among them."""
    parents = module.split(".")[:-1]
    found = {".".join(parents[:count]) for count in range(1, len(parents) + 1)}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(
                [*parents[: len(parents) + 1 - node.level], node.module or ""] if node.level else [node.module or ""]
            )
            base = base.rstrip(".")
            found |= {base, *(f"{base}.{one.name}" for one in node.names)}
    return found


class _Slice:
    """One file: which of its statements are needed."""

    def __init__(self, module: str, slices: Slices) -> None:
        self._module, self._slices = module, slices
        loaded = sys.modules.get(module)
        path = getattr(loaded, "__file__", None)
        if path is None:
            raise StudyError(f"module {module!r} has no file")
        self._text = Path(path).read_text(encoding="utf-8")
        self._lines = self._text.splitlines(keepends=True)
        self._body = ast.parse(self._text).body
        self._loaded: ModuleType = sys.modules[module]
        self._binds: dict[str, list[int]] = {}
        for place, statement in enumerate(self._body):
            for name in _bound(statement):
                self._binds.setdefault(name, []).append(place)
        self._wanted: set[int] = set()
        self._imports: dict[str, str] = {}  # name -> the statement that gives it here
        self._parts: dict[str, dict[str, str]] = {}  # a module's name here -> attributes and where they are
        plain = "job" if module == "__main__" or module.startswith("nas_job_") else module.replace(".", "_")
        self.file = plain

    def take(self, name: str) -> str:
        for place in self._binds.get(name, []):
            if place in self._wanted:
                continue
            statement = self._body[place]
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                self._import(name, statement)
                continue
            self._wanted.add(place)
            for used in _used(statement):
                self._use(used)
        return self.file

    def _use(self, used: tuple[str, str | None]) -> None:
        name, attribute = used
        value = getattr(self._loaded, name, None)
        if isinstance(value, ModuleType) and self._slices.owns(value.__name__):
            if attribute is not None and name in self._binds:
                self._part(name, value, attribute)
        elif name in self._binds:
            self.take(name)

    def _import(self, name: str, statement: ast.Import | ast.ImportFrom) -> None:
        alias = next(one for one in statement.names if (one.asname or one.name.split(".")[0]) == name)
        if isinstance(statement, ast.ImportFrom):
            module = self._absolute(statement)
            if module == "__future__":
                return
            if self._slices.owns(module):
                home = getattr(getattr(self._loaded, name), "__module__", module) or module
                home = home if hasattr(sys.modules.get(home), alias.name) else module
                file = self._slices.take(home, alias.name)
                self._imports[name] = f"from .{file} import {alias.name}" + (f" as {name}" if alias.asname else "")
                return
            if module.partition(".")[0] in _NEVER:
                self._slices.take(module, alias.name)
            self._imports[name] = f"from {module} import {alias.name}" + (f" as {name}" if alias.asname else "")
            return
        if alias.name.partition(".")[0] in _NEVER:
            self._slices.take(alias.name, "")
        self._imports[name] = f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else "")

    def _part(self, name: str, module: ModuleType, attribute: str) -> None:
        value = getattr(module, attribute)
        home = getattr(value, "__module__", None) or module.__name__
        home = home if hasattr(sys.modules.get(home), attribute) else module.__name__
        self._parts.setdefault(name, {})[attribute] = self._slices.take(home, attribute)

    def _absolute(self, statement: ast.ImportFrom) -> str:
        if not statement.level:
            return statement.module or ""
        package = self._module.split(".")[: -statement.level]
        return ".".join([*package, *([statement.module] if statement.module else [])])

    def source(self) -> str:
        lines = sorted(set(self._imports.values()))
        for name, attributes in self._parts.items():
            lines += [
                "import types",
                *(f"from .{file} import {one} as _{name}_{one}" for one, file in attributes.items()),
            ]
            lines.append(f"{name} = types.SimpleNamespace({', '.join(f'{one}=_{name}_{one}' for one in attributes)})")
        bodies = [self._statement(self._body[place]) for place in sorted(self._wanted)]
        return "\n\n".join([f"{_FUTURE}\n" + "\n".join(lines), *bodies]) + "\n"

    def _statement(self, statement: ast.stmt) -> str:
        decorators = getattr(statement, "decorator_list", [])
        first = min([statement.lineno, *(one.lineno for one in decorators)])
        dropped = {
            line
            for one in decorators
            if _is_model(one)
            for line in range(one.lineno, (one.end_lineno or one.lineno) + 1)
        }
        kept = [
            line
            for number, line in enumerate(self._lines[first - 1 : statement.end_lineno], first)
            if number not in dropped
        ]
        return "".join(kept).rstrip()


def _is_model(decorator: ast.expr) -> bool:
    return ast.unparse(decorator) in ("nas.model", "model")


def _bound(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement at the top level gives a value."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield statement.name
    elif isinstance(statement, (ast.Import, ast.ImportFrom)):
        yield from ((one.asname or one.name.split(".")[0]) for one in statement.names)
    elif isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.For, ast.With, ast.If, ast.Try)):
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            return
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                yield node.name
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                yield from ((one.asname or one.name.split(".")[0]) for one in node.names)


class _Names(ast.NodeVisitor):
    """Names that are read, with the attribute that is read of them; annotations are never evaluated."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str | None], None] = {}

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.value, ast.Name):
            self.found[node.value.id, node.attr] = None
        else:
            self.visit(node.value)

    def visit_Name(self, node: ast.Name) -> None:
        self.found[node.id, None] = None

    def visit_arg(self, node: ast.arg) -> None:
        """An argument's annotation is passed over."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node: Any) -> None:
        for one in [*node.args.defaults, *node.args.kw_defaults, *node.body]:
            if one is not None:
                self.visit(one)
        for one in node.decorator_list:
            if not _is_model(one):
                self.visit(one)

    visit_AsyncFunctionDef = visit_FunctionDef


def _used(statement: ast.stmt) -> list[tuple[str, str | None]]:
    visitor = _Names()
    visitor.visit(statement)
    return list(visitor.found)
