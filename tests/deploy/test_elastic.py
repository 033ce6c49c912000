"""One supernet in memory, switched between calls."""

from __future__ import annotations

import random
import re
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pyglove as pg
import pytest
import torch

import nas
from nas import sealed
from nas.deploy import ElasticModel, Point, folder
from nas.errors import CheckpointError, DeployError, DeviceError, MetricError, SpaceError
from nas.supernet.rounding import first_difference, gap
from searchspaces import conv, vit
from tests.conformance.machines import MACHINES, move_weights
from tests.conformance.supernet import convolutional, fill_distinct
from tests.supernet import families, tangle


def front_of(net: nas.Supernet, count: int = 6) -> list[tuple[nas.Arch, dict[str, float]]]:
    """Larger is better here, so that every arch is on the front."""
    rng = random.Random(0)
    archs = [net.space.largest, net.space.smallest, *(net.space.sample(rng) for _ in range(count - 2))]
    return [(arch, {"accuracy": net.params(arch) / 1e6, "params": net.params(arch)}) for arch in dict.fromkeys(archs)]


def batches(channels: int = 1) -> list[torch.Tensor]:
    return list(torch.randn(2, 32, channels, 8, 8, generator=torch.Generator().manual_seed(3)))


def transformer() -> tuple[nas.Supernet, torch.Tensor]:
    net = vit.supernet(vit.space(widths=(24, 32), depths=(1, 2), heads=(1, 2), ratios=(1, 2), head=8))
    return net, torch.randn(3, 1, 8, 8)


def convolutions() -> tuple[nas.Supernet, torch.Tensor]:
    return convolutional(), torch.randn(3, 1, 8, 8)


def kernels() -> tuple[nas.Supernet, torch.Tensor]:
    layouts = {"*.weight": nas.KernelTransform((7, 5, 3))}
    return nas.Supernet(families.kernels_space(), layouts=layouts), torch.randn(2, 2, 9, 9)


def tied() -> tuple[nas.Supernet, torch.Tensor]:
    return nas.Supernet(families.mixed_space()), torch.randn(4, 5)


@pytest.mark.parametrize("make", [transformer, convolutions, kernels])
def test_every_point_computes_what_its_extracted_module_does(make) -> None:
    torch.set_num_threads(1)
    net, inputs = make()
    fill_distinct(net)
    model = ElasticModel(net, front_of(net), calibration=batches())
    for point in [*model.points, *reversed(model.points)]:  # there and back: nothing of one is left for the next
        model.switch_to(point)
        module = model.extract()
        with torch.no_grad():
            calibrated = net.extract(point.arch, net.calibrate(point.arch, batches()))
            assert gap(module, model, inputs).same
            assert gap(module, calibrated, inputs).same
            assert first_difference(module.state_dict(), calibrated.state_dict()) is None
        assert not model(inputs).requires_grad


def test_statistics_are_kept_for_each_arch() -> None:
    net, inputs = convolutions()
    fill_distinct(net)
    model = ElasticModel(net, front_of(net), calibration=iter(batches()))
    plain = [net.extract(point.arch)(inputs) for point in model.points]
    ours = [(model.switch_to(point), model(inputs))[1] for point in model.points]
    assert all(not torch.allclose(a, b) for a, b in zip(plain, ours, strict=True))


def test_subnets_with_statistics_need_calibration_inputs() -> None:
    net, _ = tied()
    with pytest.raises(DeployError, match="BatchNorm statistics of their own; give calibration="):
        ElasticModel(net, front_of(net))


def test_weights_are_shared_and_copies_are_counted() -> None:
    net, _ = transformer()
    model = ElasticModel(net, front_of(net))
    total = sum(p.numel() for p in net.parameters()) * 4 / 2**20
    assert 0 < model.extra_mib < total, "fused layers only"
    held = {p.untyped_storage().data_ptr() for p in net.parameters()}
    outside = [
        name
        for module in model._modules.values()
        for name, p in module.named_parameters()
        if p.untyped_storage().data_ptr() not in held
    ]
    assert outside
    assert all(".qkv." in name for name in outside)


def test_parts_of_one_shape_may_be_made_of_others() -> None:
    """7 = 3 + 4 = 4 + 3: a shape does not say which rows a concatenation keeps."""
    value = tangle.tangle(width=10, groups=3, per=2, left=pg.oneof([3, 4, 12]), right=pg.oneof([3, 4, 9]), hidden=7)
    net, x = nas.Supernet(nas.Space(value, name="sums")).eval(), torch.randn(2, 3, 5)
    archs = [net.space.arch({"left": left, "right": right}) for left, right in ((3, 4), (4, 3), (12, 9))]
    model = ElasticModel(net, [(arch, {"accuracy": 0.5}) for arch in archs], calibration=[x, x + 1])
    for arch in archs:
        model.switch_to(arch)
        assert torch.equal(model(x), model.extract()(x))


@pytest.mark.parametrize("make", [transformer, convolutions, kernels])
def test_a_saved_model_is_the_same_model(make, tmp_path) -> None:
    net, inputs = make()
    fill_distinct(net)
    model = ElasticModel(net, front_of(net), calibration=batches())
    model.save(tmp_path / "elastic")
    assert net.source == (tmp_path / "elastic" / "supernet", net.source[1])
    again = ElasticModel.load(tmp_path / "elastic", net.space)
    assert again.points == model.points
    assert again.objective == model.objective
    assert again.extra_mib == pytest.approx(model.extra_mib)
    for point in model.points:
        model.switch_to(point)
        assert again.switch(params=point.measurements["params"]) == point
        with torch.no_grad():
            ours, theirs = model.extract(), again.extract()
            assert first_difference(ours.state_dict(), theirs.state_dict()) is None
            assert gap(ours, again, inputs).same
            assert gap(ours, theirs, inputs).same
    files = {path.name for path in (tmp_path / "elastic").rglob("*") if path.is_file()}
    assert all(name.endswith((".safetensors", ".json")) for name in files)
    with pytest.raises(DeployError, match="exists already; give a folder that is empty or not there"):
        model.save(tmp_path / "elastic")


def test_what_cannot_be_saved_leaves_nothing(tmp_path, monkeypatch) -> None:
    net, _ = transformer()
    model = ElasticModel(net, front_of(net))
    monkeypatch.setattr("nas.deploy.folder.read", _other_weights(folder.read))
    with pytest.raises(DeployError, match="has another '.*' when it is read again; nothing was written"):
        model.save(tmp_path / "elastic")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setattr(ElasticModel, "load", _loading(lambda forward: lambda inputs: 1.001 * forward(inputs)))
    with pytest.raises(DeployError, match="computes something else when it is read again; nothing was written"):
        model.save(tmp_path / "elastic")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(DeployError, match="exists already"):
        model.save(tmp_path / "file")


def _other_weights(read):
    def wrong(path, space):
        saved = read(path, space)
        with torch.no_grad():
            next(saved.supernet.parameters()).add_(1.0)
        return saved

    return wrong


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("make", [transformer, convolutions, kernels])
def test_sums_in_another_order_are_no_other_model(make, machine, tmp_path, monkeypatch) -> None:
    net, inputs = make()
    net.example = inputs[:1]  # a matrix times a vector is summed as no larger product is
    model = ElasticModel(net, front_of(net), calibration=batches())
    read = folder.read

    def moved(path, space):
        saved = read(path, space)
        move_weights(saved.supernet)
        return saved

    monkeypatch.setattr("nas.deploy.folder.read", moved)
    monkeypatch.setattr(ElasticModel, "load", _loading(MACHINES[machine]()))
    model.save(tmp_path / "elastic")


def _loading(change):
    """`ElasticModel.load` with every forward changed."""
    load = ElasticModel.load.__func__

    def changed(cls, *given, **options):
        again = load(cls, *given, **options)
        for module in again._modules.values():
            module.forward = change(module.forward)
        return again

    return classmethod(changed)


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net, _ = convolutions()
    path = tmp_path_factory.mktemp("undamaged") / "elastic"
    ElasticModel(net, front_of(net, 2), calibration=batches()).save(path)
    return path


def _rewrite(path: Path, **changes: object) -> None:
    index, _ = sealed.unseal((path / "elastic.json").read_bytes())
    (path / "elastic.json").write_bytes(sealed.seal(index | changes))


@pytest.mark.parametrize(
    ("damage", "error", "text"),
    [
        (lambda path: (path / "elastic.json").unlink(), DeployError, "is no elastic model: it has no elastic.json"),
        (lambda path: (path / "elastic.json").write_text("{"), DeployError, "cannot be read"),
        (lambda path: (path / "elastic.json").write_text("{}"), DeployError, "was not written by ElasticModel.save"),
        (lambda path: _rewrite(path, version=9), DeployError, "format version 9, and this code reads up to 1"),
        (lambda path: _rewrite(path, points=[{}]), DeployError, "cannot be read"),
        (lambda path: _rewrite(path, points=[]), DeployError, "the front has no points"),
        (lambda path: _rewrite(path, supernet="0"), DeployError, "holds other weights than were saved"),
        (
            lambda path: (path / "statistics.safetensors").unlink(),
            DeployError,
            "statistics.safetensors.* cannot be read",
        ),
        (
            lambda path: (path / "statistics.safetensors").write_bytes(b"0"),
            DeployError,
            "not what was saved .its hash differs",
        ),
        (lambda path: (path / "supernet" / "supernet.json").unlink(), CheckpointError, "not a supernet checkpoint"),
    ],
)
def test_a_damaged_folder_gets_one_sentence(damage, error, text, undamaged, tmp_path) -> None:
    shutil.copytree(undamaged, tmp_path / "elastic")
    damage(tmp_path / "elastic")
    with pytest.raises(error, match=text):
        ElasticModel.load(tmp_path / "elastic", convolutional().space)
    with pytest.raises(DeployError, match="does not exist; give the folder that ElasticModel.save wrote"):
        ElasticModel.load(tmp_path / "elsewhere", convolutional().space)


def test_it_is_loaded_with_its_own_space(tmp_path) -> None:
    net, _ = transformer()
    ElasticModel(net, front_of(net)).save(tmp_path / "elastic")
    with pytest.raises(CheckpointError, match="load it with the space that it was saved with"):
        ElasticModel.load(tmp_path / "elastic", conv.space())
    with pytest.raises(DeviceError, match="device 'gpu' is not there; give 'cpu'"):
        ElasticModel.load(tmp_path / "elastic", net.space, device="gpu")


def test_the_best_point_within_a_budget() -> None:
    net, inputs = transformer()
    front = front_of(net, 8)
    model = ElasticModel(net, front)
    assert model.active.arch == net.space.largest, "the best of all, to begin with"
    costs = sorted(net.params(arch) for arch, _ in front)
    for bound in costs:
        assert model.switch(params=bound).measurements["params"] == bound
        assert model.active.measurements["params"] == bound
    assert model.choose(params=costs[-1]) is model.points[0]
    assert model.active.measurements["params"] == costs[-1]
    model.switch(f"accuracy < {costs[1] / 1e6}", params=costs[-1])
    assert model.active.arch == net.space.smallest
    with torch.no_grad():
        assert gap(net.extract(net.space.smallest), model, inputs).same


def test_a_measure_of_the_callers_own_and_an_objective_to_minimise() -> None:
    net, _ = transformer()
    a, b = net.space.largest, net.space.smallest
    model = ElasticModel(net, [(a, {"loss": 0.1, "watts": 9.0}), Point(b, {"loss": 0.3})], objective="min loss")
    assert model.active.arch == a
    assert model.switch(watts=10).arch == a
    with pytest.raises(DeployError, match=r"no point of the front has watts <= 5; the nearest has watts 9"):
        model.switch(watts=5)


def test_the_front_of_a_study_is_taken_as_it_is(tmp_path) -> None:
    net, inputs = transformer()
    study = nas.Study(
        "deploy",
        space=net.space,
        objectives=["max params", "min macs"],
        evaluators=[nas.Costs(net)],
        algorithm=nas.RandomSearch(),
        store=tmp_path / "nas.db",
        trials=12,
    )
    study.run(workers=0, progress=False)
    front = study.front()
    model = ElasticModel(net, front, objective="max params")
    assert len(model.points) == len(front)
    bound = front["macs"].median()
    chosen = model.switch(macs=bound)
    assert chosen.measurements["params"] == front[front["macs"] <= bound]["params"].max()
    assert model(inputs).shape == (3, 10)
    broken = pd.DataFrame({"params": [1.0]})
    with pytest.raises(DeployError, match=r"no column 'choices'; give what study.front\(\) returns"):
        ElasticModel(net, broken, objective="max params")


def test_what_the_readme_shows(tmp_path, monkeypatch) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "nas.ElasticModel" in block]
    monkeypatch.chdir(tmp_path)
    net, images = convolutions()
    rows = [
        {"accuracy": 0.9, "latency_ms": 3.0, "choices": net.space.largest.choices},
        {"accuracy": 0.7, "latency_ms": 1.5, "choices": net.space.smallest.choices},
    ]
    study = SimpleNamespace(front=lambda: pd.DataFrame(rows))
    names = {"nas": nas, "supernet": net, "study": study, "task": nas.digits(), "images": images}
    exec(block, names)
    assert names["model"].active.arch == net.space.smallest
    assert (tmp_path / "subnet.pt2").exists()
    assert len(nas.ElasticModel.load(tmp_path / "elastic", net.space).points) == 2


def test_threads_compute_with_the_point_that_was_active_when_they_began() -> None:
    net, inputs = transformer()
    fill_distinct(net)
    model = ElasticModel(net, front_of(net))
    right = {float(net.extract(point.arch)(inputs).sum().detach()) for point in model.points}
    found: set[float] = set()
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            found.add(float(model(inputs).sum()))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    rng = random.Random(0)
    for _ in range(300):
        model.switch_to(rng.choice(model.points))
    stop.set()
    for thread in threads:
        thread.join()
    assert found
    assert found <= right


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        ({"parms": 3}, "'parms' was not measured on this front; did you mean 'params'?; there are accuracy, params"),
        ({"params": float("nan")}, "budget params=nan is no finite number"),
        ({"params": "small"}, "budget params='small' is no finite number"),
        (
            {"accuracy": 0.8},
            "the most that is allowed, and the objective is max accuracy; write 'accuracy >= 0.8'",
        ),
        ({"params": 1}, "no point of the front has params <= 1; the nearest has params"),
    ],
)
def test_a_budget_that_cannot_be_met_changes_nothing(budget, text) -> None:
    net, _ = transformer()
    model = ElasticModel(net, front_of(net))
    before = model.switch_to(model.points[2])
    with pytest.raises(DeployError, match=text.replace("?", r"\?")):
        model.switch(**budget)
    assert model.active is before


def test_refusals() -> None:
    net, _ = transformer()
    with pytest.raises(DeployError, match="the front has no points"):
        ElasticModel(net, [])
    with pytest.raises(DeployError, match="has no 'acuracy', the objective; did you mean 'accuracy'"):
        ElasticModel(net, front_of(net), objective="max acuracy")
    with pytest.raises(DeployError, match="pair, not a Arch"):
        ElasticModel(net, [net.space.largest])
    with pytest.raises(SpaceError, match="outside space 'vit'"):
        ElasticModel(net, [({"width": 7}, {"accuracy": 1.0})])
    model = ElasticModel(net, front_of(net, 2))
    with pytest.raises(MetricError, match="is not understood"):
        model.choose("params is small")
    with pytest.raises(
        DeployError, match="no point of the front has accuracy > .* and params <= .*; no point meets all"
    ):
        model.choose(f"accuracy > {model.points[1].measurements['accuracy']}", params=net.params(net.space.smallest))
    outside = next(arch for arch in net.space.enumerate() if arch not in {point.arch for point in model.points})
    with pytest.raises(DeployError, match="not one of the 2 points"):
        model.switch_to(outside)
