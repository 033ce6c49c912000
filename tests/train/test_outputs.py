"""A training with stored outputs is the very one with a running teacher, and what is stored is never another teacher's."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import nas
from nas import files
from nas.errors import TrainError
from nas.train import Classification, Interpolated, Loss, Sandwich, Shift, Teacher, TeacherOutputs, Training
from nas.train.outputs import Taught
from tests.train.family import blobs, supernet

ROOT = Path(__file__).parents[2]
STEPS = 12  # three epochs


class Counting(nn.Module):
    """Counts the batches that it looks at."""

    def __init__(self, seed: int = 0, factor: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 10))
        self.asked, self.factor = 0, factor

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x) > 1
        found: Tensor = self.body(x) * self.factor
        return found


def augmented() -> Classification:
    plain = blobs()
    return Classification(plain.train, plain.valid, batch=16, augment=Shift(1))


def trained(loss: Loss, task: Classification | None = None, *, path: Path | None = None, **options: Any) -> Training:
    options = {"steps": STEPS, "lr": 1e-2, "path": path, "sampler": Sandwich(1), **options}
    made = Training(supernet(), task or blobs(), loss=loss, **options)
    made.run(progress=False)
    return made


def same(one: Training, other: Training) -> bool:
    ours, theirs = one.supernet.state_dict(), other.supernet.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.out"))


LOSSES: dict[str, Callable[[nn.Module, TeacherOutputs | None], Loss]] = {
    "Teacher": lambda module, outputs: Teacher(module, temperature=2.0, outputs=outputs),
    "Interpolated": lambda module, outputs: Interpolated(module, steps=8, outputs=outputs),
}


@pytest.mark.parametrize("task", [blobs, augmented])
@pytest.mark.parametrize("name", LOSSES)
def test_a_stored_teacher_trains_to_the_bit_as_a_running_one_and_runs_once(
    tmp_path: Path, name: str, task: Callable[[], Classification]
) -> None:
    running = trained(LOSSES[name](Counting(), None), task())
    first = Counting()
    assert same(running, trained(LOSSES[name](first, TeacherOutputs(tmp_path)), task()))
    assert first.asked == STEPS, "once for all archs of a step"
    assert len(entries(tmp_path)) == STEPS, "a shuffled or augmented batch is another one in the next epoch"
    again, shared = Counting(), pickle.loads(pickle.dumps(TeacherOutputs(tmp_path)))
    assert same(running, trained(LOSSES[name](again, shared), task()))
    assert again.asked == 1, "the first that is read is compared"
    assert len(entries(tmp_path)) == STEPS


@pytest.mark.slow
def test_processes_share_a_folder_at_the_same_time(tmp_path: Path) -> None:
    running = trained(Teacher(Counting()))
    script = (
        "import sys; from pathlib import Path; from tests.train.test_outputs import *\n"
        "made = trained(Teacher(Counting(), outputs=TeacherOutputs(Path(sys.argv[1]) / 'outputs')))\n"
        "torch.save(made.supernet.state_dict(), Path(sys.argv[1]) / f'{sys.argv[2]}.pt')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    began = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(number)], cwd=ROOT, env=environment)
        for number in range(2)
    ]
    assert [process.wait(120) for process in began] == [0, 0]
    assert len(entries(tmp_path / "outputs")) == STEPS
    for number in range(2):
        theirs = torch.load(tmp_path / f"{number}.pt", weights_only=True)
        assert all(torch.equal(one, theirs[name]) for name, one in running.supernet.state_dict().items())


def test_other_archs_and_another_dropout_use_the_same_outputs(tmp_path: Path) -> None:
    teacher = Counting()
    outputs = TeacherOutputs(tmp_path)
    trained(Teacher(teacher, outputs=outputs))
    trained(Teacher(teacher, outputs=outputs), seed=3, sampler=nas.Uniform(2))
    assert teacher.asked == STEPS + 1


def test_a_training_goes_on_with_stored_outputs_as_one_without(tmp_path: Path) -> None:
    running = trained(Teacher(Counting()), augmented())

    def training() -> Training:
        loss = Teacher(Counting(), outputs=TeacherOutputs(tmp_path / "outputs"))
        return Training(
            supernet(), augmented(), path=tmp_path / "net", loss=loss, steps=STEPS, lr=1e-2, sampler=Sandwich(1)
        )

    training().run(progress=False, until=5)
    resumed = training()
    resumed.run(progress=False)
    assert same(running, resumed)
    assert (
        resumed.config
        == Training(supernet(), augmented(), loss=Teacher(Counting()), steps=STEPS, lr=1e-2, sampler=Sandwich(1)).config
    ), "a training with a running teacher goes on with a stored one"


def test_another_teacher_other_data_and_another_augmentation_are_other_entries(tmp_path: Path) -> None:
    outputs = TeacherOutputs(tmp_path)
    nearly = Counting()
    with torch.no_grad():
        nearly.body[2].running_mean[0] += 1e-6  # type: ignore[index]
    plain = augmented()
    for count, (teacher, task) in enumerate(
        [
            (Counting(), blobs()),
            (Counting(seed=1), blobs()),
            (nearly, blobs()),
            (Counting(factor=2.0), blobs()),
            (Counting(), blobs(seed=1)),
            (Counting(), augmented()),
            (Counting(), Classification(plain.train, plain.valid, batch=16, augment=Shift(2))),
        ],
        1,
    ):
        trained(Teacher(teacher, outputs=outputs), task)
        assert len(entries(tmp_path)) == count * STEPS


def test_a_damaged_entry_is_made_again(tmp_path: Path) -> None:
    running = trained(Teacher(Counting()))
    trained(Teacher(Counting(), outputs=TeacherOutputs(tmp_path)))
    cut, turned, *_ = entries(tmp_path)
    cut.write_bytes(cut.read_bytes()[:-7])
    raw = bytearray(turned.read_bytes())
    raw[-3] ^= 64
    turned.write_bytes(raw)
    teacher = Counting()
    assert same(running, trained(Teacher(teacher, outputs=TeacherOutputs(tmp_path))))
    assert teacher.asked == 3, "two, and one that is compared"


def test_at_the_limit_the_teacher_runs_for_the_rest(tmp_path: Path) -> None:
    running = trained(Teacher(Counting()))
    outputs = TeacherOutputs(tmp_path, limit_gib=5000 / 2**30)
    with pytest.warns(UserWarning, match="limit_gib; it runs for the rest of the batches") as warned:
        assert same(running, trained(Teacher(Counting(), outputs=outputs)))
    assert len(warned) == 1
    assert 1 < len(entries(tmp_path)) < STEPS
    assert sum(one.stat().st_size for one in entries(tmp_path)) <= 5000


def test_a_disk_that_fills_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running, write, room = trained(Teacher(Counting())), files.write, iter(range(4))

    def full(target: Path, *rest: Any, **options: Any) -> None:
        if target.suffix == ".out" and next(room, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(target, *rest, **options)

    monkeypatch.setattr(files, "write", full)
    with pytest.warns(
        UserWarning, match=r"cannot be written \(No space left on device\); it runs for the rest"
    ) as warned:
        assert same(running, trained(Teacher(Counting(), outputs=TeacherOutputs(tmp_path))))
    assert len(warned) == 1
    assert len(entries(tmp_path)) == 4
    assert not list(tmp_path.glob("*/.supernas*"))


class Late(Counting):
    """Gives something else for batches, but not for the example."""

    def forward(self, x: Tensor) -> Tensor:
        factor = self.factor * float(os.environ.get("FACTOR", "1"))
        return super().forward(x) * (factor if len(x) > 1 else 1.0)


def test_an_attribute_that_the_example_does_not_show_makes_another_teacher(tmp_path: Path) -> None:
    trained(Teacher(Late(), outputs=TeacherOutputs(tmp_path)))
    other = trained(Teacher(Late(factor=2.0), outputs=TeacherOutputs(tmp_path)))
    assert same(other, trained(Teacher(Late(factor=2.0))))
    assert len(entries(tmp_path)) == 2 * STEPS


def test_what_nobody_sees_is_found_where_an_entry_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, teacher = TeacherOutputs(tmp_path), Late()
    trained(Teacher(teacher, outputs=outputs))
    monkeypatch.setenv("FACTOR", "2")
    for again in (outputs, TeacherOutputs(tmp_path)):
        with pytest.raises(TrainError, match="holds other outputs than the teacher gives now for the same batch"):
            trained(Teacher(teacher, outputs=again))


def scale_data(teacher: Counting) -> None:
    teacher.body[4].weight.data.mul_(3.0)


def set_attribute(teacher: Counting) -> None:
    teacher.factor = 5.0


def replace_layer(teacher: Counting) -> None:
    torch.manual_seed(7)
    teacher.body[4] = nn.Linear(20, 10)


@pytest.mark.parametrize("change", [scale_data, set_attribute, replace_layer])
def test_a_teacher_that_changes_between_two_trainings_is_another(
    tmp_path: Path, change: Callable[[Counting], None]
) -> None:
    outputs, teacher = TeacherOutputs(tmp_path), Counting()
    trained(Teacher(teacher, outputs=outputs))
    change(teacher)
    assert same(trained(Teacher(teacher, outputs=outputs)), trained(Teacher(teacher)))
    assert len(entries(tmp_path)) == 2 * STEPS


def test_a_teacher_that_changes_cannot_be_stored(tmp_path: Path) -> None:
    class Drawing(Counting):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 0.1 * torch.randn(10)

    class Hidden(Counting):
        """Takes numbers from the generator that a student's dropout draws from."""

        def forward(self, x: Tensor) -> Tensor:
            torch.rand(1)
            return super().forward(x)

    for teacher in (Drawing(), Hidden()):
        with pytest.raises(TrainError, match="gives other outputs at each call in eval mode or draws random numbers"):
            trained(Teacher(teacher, outputs=TeacherOutputs(tmp_path)))

    class Moving(Teacher):
        def __call__(self, output: Any, batch: nas.train.Batch, step: nas.train.Step) -> Tensor:
            with torch.no_grad():
                next(self.module.parameters()).add_(0.1)
            return super().__call__(output, batch, step)

    with pytest.raises(TrainError, match="the weights of the teacher, a Counting, change while a network learns"):
        trained(Moving(Counting(), outputs=TeacherOutputs(tmp_path)))
    assert not entries(tmp_path)


def test_batches_that_cannot_be_asked_again_are_refused(tmp_path: Path) -> None:
    (x, y), (u, v) = blobs().train, blobs().valid
    with pytest.warns(UserWarning, match="cannot be asked again"):
        task = nas.Task.of(lambda: [(x, y)], (u, v), loss="cross_entropy", epoch_steps=1)
    with pytest.raises(
        TrainError, match="an order of their own, so that stored outputs of a teacher would never be found"
    ):
        Training(supernet(), task, loss=Teacher(Counting(), outputs=TeacherOutputs(tmp_path)), steps=1).run(False)


def test_inputs_whose_content_cannot_be_told_are_refused(tmp_path: Path) -> None:
    class Odd(Classification):
        @property
        def example(self) -> Any:
            return (super().example, object())

    plain = blobs()
    with pytest.raises(TrainError, match="hold what is no tensor, array, number or text"):
        TeacherOutputs(tmp_path).ready(Counting(), Training(supernet(), Odd(plain.train, plain.valid, batch=16)))


def test_the_most_probable_classes_and_the_rest_are_a_distribution() -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(6, 3, 10), torch.randn(6, 3, 10, requires_grad=True)
    taught = Taught.top(teacher, 4)
    assert taught.logits.shape == (6, 3, 5)
    whole = torch.softmax(teacher, -1)
    kept, indices = whole.topk(4)
    assert torch.allclose(torch.softmax(taught.logits, -1), torch.cat([kept, 1 - kept.sum(-1, keepdim=True)], -1))
    ours = torch.softmax(student, -1).gather(-1, indices)
    folded = torch.softmax(taught.of(student), -1)
    assert torch.allclose(folded, torch.cat([ours, 1 - ours.sum(-1, keepdim=True)], -1), atol=1e-6)
    nearly = Taught.top(teacher, 9)  # the rest is one class: all that there are
    expected = functional.kl_div(student.log_softmax(-1), whole, reduction="none").sum(-1).mean()
    found = nas.train.distillation(nearly.of(student), nearly.logits)
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(*(torch.autograd.grad(one, student)[0] for one in (found, expected)), atol=1e-6)


def test_few_classes_are_kept_of_many(tmp_path: Path) -> None:
    whole = trained(Teacher(Counting()), optimizer="sgd")
    teacher, loss = Counting(), Teacher(Counting(), outputs=TeacherOutputs(tmp_path, top=9))
    trained(loss, optimizer="sgd")
    again = trained(Teacher(teacher, outputs=TeacherOutputs(tmp_path, top=9)), optimizer="sgd")
    assert teacher.asked == 1
    for name, value in again.supernet.state_dict().items():
        assert torch.allclose(value, whole.supernet.state_dict()[name], atol=1e-5), name
    assert loss.describe()["top"] == 9
    assert "top" not in Teacher(Counting(), outputs=TeacherOutputs(tmp_path)).describe()
    trained(Teacher(teacher, outputs=TeacherOutputs(tmp_path)))
    assert len(entries(tmp_path)) == 2 * STEPS, "all classes are another entry"


def test_top_is_refused_where_it_means_nothing(tmp_path: Path) -> None:
    outputs = TeacherOutputs(tmp_path, top=3)
    with pytest.raises(TrainError, match="keeps what the forward KL at temperature 1 needs"):
        Teacher(Counting(), temperature=2.0, outputs=outputs)
    with pytest.raises(TrainError, match="Interpolated takes the mean of all logits"):
        Interpolated(Counting(), steps=3, outputs=outputs)
    with pytest.raises(TrainError, match=r"gives 10 classes and top=10 keeps some of them"):
        trained(Teacher(Counting(), outputs=TeacherOutputs(tmp_path, top=10)))
    x, y = torch.randn(40, 4), torch.randn(40, 5)
    numbers = nas.Regression((x, y), (x + 1, y), batch=8)
    with pytest.raises(TrainError, match="compares outputs by MeanSquares, and top=3 keeps the most probable"):
        Training(supernet(), numbers, loss=Teacher(copy.deepcopy(Counting()), outputs=outputs))
