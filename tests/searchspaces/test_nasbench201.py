"""The cells of NAS-Bench-201 and their table."""

from __future__ import annotations

import random

import numpy as np
import pandas as pd
import pytest
import torch

import nas
from nas.errors import EvaluationError, Infeasible, SpaceError
from searchspaces import nasbench201
from searchspaces.nasbench201 import EDGES, OPS, Table, function
from searchspaces.nasbench201_table import all_cells, made_up
from tests.conformance.evaluator import EvaluatorConformance
from tests.conformance.supernet import SupernetConformance, fill_distinct


def cell(**ops):
    return nasbench201.space().arch({**dict.fromkeys(EDGES, "none"), **ops})


class TestCells(SupernetConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def net(cls):
        torch.set_num_threads(1)
        net = cls().make()
        fill_distinct(net)
        for name, tensor in net.state_dict().items():
            if name.endswith("running_mean"):
                tensor.sub_(1.5)  # around 0: above it the last ReLU leaves nothing to compare
        return net

    def make(self):
        return nasbench201.supernet(nasbench201.space(width=4, cells=1, stages=2), side=8)

    def inputs(self, samples):
        return torch.randn(samples, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def expected_macs(self, arch):
        total, side, width = 64 * 27 * 4, 8, 4
        for stage in range(2):
            if stage:
                side, width = 4, 8
                total += side * side * (9 * 4 * 8 + 9 * 8 * 8 + 4 * 8)
            areas = {"nor_conv_1x1": 1, "nor_conv_3x3": 9}
            total += sum(side * side * width * width * areas.get(op, 0) for op in arch.choices.values())
        return total + 8 * 10


def test_published_networks_have_the_published_size():
    space = nasbench201.space()
    assert space.size == 15_625
    net = nasbench201.supernet(space)
    assert net.params(space.largest) == 1_531_546  # the paper's table: 1.531546 M
    assert net.params(space.smallest) == 73_306
    assert net.macs(space.smallest) == 7_783_050 - 10  # published with the classifier's ten additions
    assert net.macs(space.largest) == 220_119_690 - 10
    assert net.macs(cell(e20="nor_conv_3x3", e31="nor_conv_1x1")) > net.macs(cell(e20="nor_conv_3x3"))


def test_a_cell_is_the_sum_over_its_edges():
    arch = cell(e10="nor_conv_1x1", e20="skip_connect", e21="avg_pool_3x3", e30="skip_connect", e32="nor_conv_3x3")
    small = nasbench201.space(width=4, cells=1, stages=1)
    net = small.build(small.arch(arch.choices)).eval()  # another width is another network
    block = net.stages[0][0]
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    first = block.e10["nor_conv_1x1"](x)
    ones = torch.nn.functional.avg_pool2d(torch.ones_like(x), 3, 1, 1)
    second = x + torch.nn.functional.avg_pool2d(first, 3, 1, 1) / ones
    torch.testing.assert_close(block(x), x + block.e32["nor_conv_3x3"](second))


def test_an_unknown_operation_is_refused_with_a_suggestion():
    with pytest.raises(SpaceError, match=r"'nor_conv_5x5' is not one of none, .*; did you mean 'nor_conv_3x3'\?"):
        nasbench201.cell_net(**dict.fromkeys(EDGES, "nor_conv_5x5"))()


def test_all_cells_are_6466_functions():
    archs = list(nasbench201.space().enumerate())
    assert len({function(arch) for arch in archs}) == 6_466


def test_names_are_equal_for_equal_functions_as_published():
    first = cell(e10="skip_connect", e31="nor_conv_3x3")
    second = cell(e20="skip_connect", e32="nor_conv_3x3", e10="avg_pool_3x3", e31="none", e30="none")
    assert (
        function(first) == function(cell(e10="skip_connect", e31="nor_conv_3x3", e20="none")) == "#+#+(0)@nor_conv_3x3"
    )
    assert function(second) != function(first)  # the published name shows that node 2 has two edges
    assert function(cell(e30="nor_conv_1x1")) != function(cell(e30="nor_conv_3x3"))
    assert function(cell()) == "#+#+#"


# -- the table


def write(folder, *, cells=None, drop=(), missing=()):
    """A table of `cells` (default: all) in a random order; accuracy and latency are closed forms of the operations."""
    folder.mkdir(exist_ok=True)
    genes = all_cells()[:cells]
    genes = genes[np.random.default_rng(0).permutation(len(genes))]
    idx = np.arange(len(genes)) + 7
    core = pd.DataFrame(genes, columns=list(EDGES)).assign(idx=idx, arch_str="x", c10_val_12=genes.sum(1) * 2.5)
    core.drop(columns=list(drop)).to_parquet(folder / "core.parquet")
    latency = 1.0 + genes @ np.arange(1.0, 7)
    latency[list(missing)] = np.nan
    other = pd.DataFrame({"idx": idx, "hw_c10_edgegpu_latency": latency, "zc": genes[:, 0] * 1.0})
    other.sample(frac=1.0, random_state=1).to_parquet(folder / "hw.parquet")  # joined by idx, whatever the order
    return folder


def test_a_made_up_table_is_read_as_it_was_written(tmp_path):
    genes = all_cells()
    assert len(set(map(tuple, genes.tolist()))) == 5**6
    made_up(tmp_path / "tables", genes[::1000], {"c10_val_12": np.arange(16.0)})
    table = Table(tmp_path / "tables", latency=None)
    assert table.values(["c10_val_12"])[:, 0].tolist() == list(range(16))
    assert [list(arch.genome) for arch in table.archs()] == genes[::1000].tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("tables") / "nb201")


class TestTable(EvaluatorConformance):
    @pytest.fixture
    def space(self):
        return nasbench201.space()

    @pytest.fixture
    def evaluator(self, folder):
        return Table(folder)


def test_it_answers_every_cell_from_its_columns(folder):
    table, space = Table(folder, zc="zc"), nasbench201.space(width=4)
    assert table.metrics == ("accuracy", "latency_ms", "zc")
    rng = random.Random(0)
    for arch in [space.smallest, space.largest, *(space.sample(rng) for _ in range(50))]:
        genes = [OPS.index(arch.choices[edge]) for edge in EDGES]
        latency = 1 + sum((at + 1) * gene for at, gene in enumerate(genes))
        assert table(arch) == {"accuracy": sum(genes) * 2.5, "latency_ms": latency, "zc": genes[0]}


def test_values_are_aligned_with_archs(folder):
    table = Table(folder, latency=None)
    archs, values = table.archs(), table.values(["hw_c10_edgegpu_latency", "c10_val_12"])
    assert len(set(archs)) == len(archs) == 15_625
    assert values.shape == (15_625, 2)
    for row in (0, 1, 999, 15_624):
        assert table.row(archs[row]) == row
        assert table(archs[row])["accuracy"] == values[row, 1]
    assert {"c10_val_12", "zc", "e10"} <= set(table.names)
    assert "arch_str" not in table.names


def test_functions_are_rows_that_stand_for_others(folder):
    table = Table(folder)
    functions = table.functions()
    assert len(set(functions.tolist())) == 6_466
    assert (functions[functions] == functions).all()
    dead, other = cell(e10="nor_conv_3x3", e30="skip_connect"), cell(e10="nor_conv_1x1", e30="skip_connect")
    assert table.function(dead) == table.function(other) == functions[table.row(dead)]


def test_a_cell_that_a_device_cannot_run_is_infeasible(tmp_path):
    table = Table(write(tmp_path / "t", missing=[3]))
    arch = table.archs()[3]
    with pytest.raises(Infeasible, match="the table has no hw_c10_edgegpu_latency of this cell") as caught:
        table(arch)
    assert set(caught.value.measurements) == {"accuracy"}


def test_without_tables_it_says_where_they_come_from(tmp_path):
    with pytest.raises(
        EvaluationError, match="has no core.parquet; make the tables .* from its public sources .github"
    ):
        Table(tmp_path)
    (tmp_path / "core.parquet").write_text("nothing")
    with pytest.raises(EvaluationError, match="core.parquet' is not a parquet file .*; make it again"):
        Table(tmp_path)


def test_missing_columns_and_rows_get_one_sentence(tmp_path):
    part = write(tmp_path / "part", cells=100)
    with pytest.raises(EvaluationError, match=r"no column 'c10_val_200'; did you mean 'c10_val_12'\? \(they have"):
        Table(part, accuracy="c10_val_200")
    with pytest.raises(EvaluationError, match=r"has no row of cell \(3, 3, 3, 3, 3, 3\); it has 100 cells"):
        Table(part)(nasbench201.space().largest)
    with pytest.raises(EvaluationError, match="no column 'e21'"):
        Table(write(tmp_path / "none", cells=100, drop=["e21"]))(nasbench201.space().smallest)
    other = nas.Space({"a": 1}, name="other")
    with pytest.raises(EvaluationError, match="is no cell of NAS-Bench-201; the table knows archs with e10, e20"):
        Table(part).check(other)


def test_a_table_of_something_else_is_refused(tmp_path):
    folder = write(tmp_path / "t", cells=100)
    core = pd.read_parquet(folder / "core.parquet")
    for change in ({"e10": core.e10 + 9}, {"idx": 0}, dict.fromkeys(EDGES, 0)):
        core.assign(**change).to_parquet(folder / "core.parquet")
        with pytest.raises(EvaluationError, match="is not a table of cells"):
            Table(folder).archs()
