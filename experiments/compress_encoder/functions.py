"""Functions of installed packages, each with the first line of its docstring: what a code search looks for."""

from __future__ import annotations

import ast
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

Pair = tuple[str, str]


def pairs(folder: Path, most: int = 10_000) -> list[Pair]:
    """(first line of the docstring, source without docstring) of the functions under a folder, each line once, in order."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*.py")):
        if {"test", "tests", "site-packages", "idlelib"} & set(path.parts[len(folder.parts) :]):
            continue
        for line, source in _functions(path):
            found.setdefault(line, source)
            if len(found) >= most:
                return list(found.items())
    return list(found.items())


def splits(train: int, valid: int, test: int) -> tuple[list[Pair], list[Pair], list[Pair]]:
    """Training pairs of installed packages, validation pairs of others, test pairs of the standard library.

    No package is in two splits.
    """
    import torch  # whose folder is where packages are installed, in any environment

    installed = Path(torch.__file__).parent.parent
    packages = sorted(path for path in installed.iterdir() if path.is_dir() and "-info" not in path.name)
    random.Random(0).shuffle(packages)
    tried = pairs(Path(sysconfig.get_paths()["stdlib"]), 4 * test)
    tests = {line for line, _ in tried}
    held, rest = _some(packages, valid, 200, tests)
    learnt, _ = _some(rest, train, 400, tests | {line for line, _ in held})
    for rows in (learnt, held, tried):
        random.Random(1).shuffle(rows)
    return learnt[:train], held[:valid], tried[:test]


def _some(packages: list[Path], count: int, most: int, seen: set[str]) -> tuple[list[Pair], list[Path]]:
    """So many pairs, at most `most` of a package and none with a line that was seen; and the packages that are left."""
    found: list[Pair] = []
    for number, package in enumerate(packages):
        if len(found) >= count:
            return found, packages[number:]
        found += [pair for pair in pairs(package, most) if pair[0] not in seen]
    return found, []


def _functions(path: Path) -> Iterator[Pair]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError, OSError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
            line = next(iter((ast.get_docstring(node) or "").strip().splitlines()), "").strip()
            node.body = node.body[1:] or [ast.Pass()]
            if 20 <= len(line) <= 150:
                yield line, ast.unparse(node)[:600]
