"""Training a deep model module by module, each inside a small frozen model, then putting the modules together.

Ni et al. 2023, "Deep Incubation: Training Large Models by Divide-and-Conquering" (deep model assembling): a *meta model* has one
small module for each module of the target and is trained end to end; every target module then takes the place of its counterpart
in the frozen meta model and learns the task there, independently of the others; assembled, they are fine-tuned.  Lo et al. 2024,
"m2mKD: Module-to-Module Knowledge Distillation for Modular Transformers": a teacher's module in the same place of the same meta
model teaches it, (1 − α) · labels + α · T² · KL.

A model is a sequence of modules here, each taking what the one before gives.  `as_supernet` makes a supernet of one arch of any
ordinary module, so that `Training` trains it, with all that it can do; `Hybrid` may as well be what the model function of an
elastic family returns, whose subnets are then trained in the meta model with any sampler and loss.
"""

from __future__ import annotations

import copy
import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.checking import checked
from nas.errors import TrainError
from nas.space import Space, model
from nas.supernet import Supernet
from nas.supernet.inputs import Inputs, call
from nas.supernet.layouts import Corner
from nas.supernet.skeleton import buffers_of
from nas.train import rng
from nas.train.comparisons import channels_last
from nas.train.losses import Labels, Loss, Teacher
from nas.train.samplers import Uniform
from nas.train.task import Task, mixed
from nas.train.trainer import Training


class Channels(nn.Module):
    """A linear layer over channels: the second axis of (n, c, h, w), else the last."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """The same positions, other channels."""
        y: Tensor = self.linear(channels_last(x))
        return y.movedim(-1, 1) if x.ndim == 4 else y


class Hybrid(nn.Module):
    """A frozen meta model with one of its modules replaced.

    What is frozen has no gradients and stays in eval mode, so that its statistics stay too.

    Args:
        meta: the modules of the meta model.
        place: of the one that `part` replaces.
        part: takes what the meta model's module takes, and gives what it gives, up to `enter` and `leave`.
        enter: brings the meta model's features to `part`.
        leave: brings those of `part` back.
    """

    @checked(TrainError)
    def __init__(
        self,
        meta: Sequence[nn.Module],
        place: int,
        part: nn.Module,
        enter: nn.Module | None = None,
        leave: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.before = nn.Sequential(*meta[:place]).requires_grad_(False)
        self.enter = enter or nn.Identity()
        self.part = part
        self.leave = leave or nn.Identity()
        self.after = nn.Sequential(*meta[place + 1 :]).requires_grad_(False)
        self.train(self.training)

    def forward(self, x: Any) -> Any:
        """As the meta model."""
        return self.after(self.leave(self.part(self.enter(self.before(x)))))

    def train(self, mode: bool = True) -> Hybrid:
        """Of the part and what leads to it; what is frozen is in eval mode."""
        super().train(mode)
        for frozen in (self.before, self.after, *([] if learns(self.part) else [self.part])):
            frozen.eval()
        return self


@checked(TrainError)
def as_supernet(module: nn.Module, *, example: Inputs | None = None, name: str = "fixed") -> Supernet:
    """A supernet of one arch with a copy of the module's weights and buffers; what is frozen in the module is frozen in it.

    A module says nothing of how its buffers came about, so that all of them are kept in checkpoints.
    """
    kept = copy.deepcopy(module)
    space = Space(model(lambda: copy.deepcopy(kept))(), name=name)
    layouts = {glob.escape(name): Corner() for name in buffers_of(module)}
    supernet = Supernet(space, example=example, weights=module, layouts=layouts)
    for tensor_name, parameter in module.named_parameters():
        supernet.get_parameter(tensor_name).requires_grad_(parameter.requires_grad)
    return supernet


@checked(TrainError)
def train_modules(
    targets: Sequence[nn.Module],
    meta: Sequence[nn.Module],
    task: Task,
    *,
    teachers: Sequence[nn.Module] | None = None,
    weight: float = 0.5,
    temperature: float = 1.0,
    path: str | Path | None = None,
    progress: bool = False,
    seed: int = 0,
    **options: Any,
) -> nn.Sequential:
    """Each target module trained in its place of the frozen meta model; assembled, in eval mode, ready to be fine-tuned.

    Where channels differ a linear layer leads into the module and out of it; it is trained with the module and left behind.
    Those around a teacher's module are trained first, on the labels, with the same options.  Nothing that is given is changed.

    Args:
        targets: the modules of the model that is wanted.
        meta: those of the trained meta model, as many.
        task: data and loss.
        teachers: modules of a trained teacher, as many (m2mKD); None trains on the labels alone (Deep Incubation).  Only modules
            that fit the meta model teach: the authors' teacher was itself trained by Deep Incubation in the same meta model.
            What those of a teacher trained end to end do in its place is measured in `experiments/incubation`.
        weight: α, of the teacher.
        temperature: softens both distributions.
        path: folder; each module has a training of its own below it, which resumes.
        progress: show a bar or lines for each.
        seed: of the linear layers, and of each training.
        options: of each `Training`: steps, lr, device, …

    Raises:
        TrainError: the numbers of modules differ, or the modules do not follow one another on the task's example.
    """
    if teachers is None and (weight != 0.5 or temperature != 1.0):
        raise TrainError(
            f"weight={weight} and temperature={temperature} have no effect without teachers; give teachers"
        )
    for name in ("sampler", "loss"):
        if name in options:
            raise TrainError(f"train_modules chooses its own {name}; leave it out")
    _check_lengths(targets, meta, teachers)
    example = task.example
    folder = None if path is None else Path(path)

    def trained(hybrid: Hybrid, loss: Loss, name: str) -> Hybrid:
        net = as_supernet(hybrid, example=example, name=name)
        where = None if folder is None else folder / name
        Training(net, task, path=where, sampler=Uniform(1), loss=loss, seed=seed, **options).run(progress)
        made = net.to("cpu").extract(net.space.largest)
        assert isinstance(made, Hybrid)
        return made

    hybrids = _hybrids(targets, meta, example, "the target", seed)
    losses: list[Loss] = [Labels()] * len(hybrids)
    if teachers is not None:
        for place, hybrid in enumerate(_hybrids(teachers, meta, example, "the teacher", seed)):
            hybrid.part.requires_grad_(False)
            hybrid.train()  # which puts what is frozen in eval mode
            ready = trained(hybrid, Labels(), f"teacher{place}") if learns(hybrid) else hybrid
            losses[place] = Teacher(ready, weight=weight, temperature=temperature)
    parts = [trained(hybrid, losses[place], f"module{place}").part for place, hybrid in enumerate(hybrids)]
    return nn.Sequential(*parts).eval()


def learns(module: nn.Module) -> bool:
    """Whether a parameter of it is trained."""
    return any(one.requires_grad for one in module.parameters())


def _check_lengths(
    targets: Sequence[nn.Module], meta: Sequence[nn.Module], teachers: Sequence[nn.Module] | None
) -> None:
    counts = {"targets": len(targets), "meta": len(meta), **({} if teachers is None else {"teachers": len(teachers)})}
    if len(set(counts.values())) != 1 or len(meta) < 2:
        raise TrainError(
            f"modules are replaced one by one, and there are {', '.join(f'{n} {name}' for name, n in counts.items())}; "
            "give as many of each, two or more"
        )


def _hybrids(
    parts: Sequence[nn.Module], meta: Sequence[nn.Module], example: Inputs, whose: str, seed: int
) -> list[Hybrid]:
    """A copy of each part in its place of a copy of the meta model, with linear layers where channels differ."""
    own, others = _features(parts, example, whose), _features(meta, example, "the meta model")
    made = []
    for place, part in enumerate(parts):
        with rng.forked(mixed(seed, whose, place)):  # as the training is: a function of the seed
            enter = None if place == 0 else _bridge(others[place - 1], own[place - 1], place, whose)
            leave = _bridge(own[place], others[place], place, whose)
        made.append(Hybrid(copy.deepcopy(list(meta)), place, copy.deepcopy(part), enter, leave).cpu())
    return made


def _features(parts: Sequence[nn.Module], example: Inputs, whose: str) -> list[Tensor]:
    """What each module gives for the example, one after the other."""
    found: list[Tensor] = []
    with torch.no_grad():
        for place, part in enumerate(copy.deepcopy(list(parts))):  # a copy, whose mode may be changed
            part.cpu().eval()
            try:
                output = part(found[-1]) if found else call(part, example)
            except (RuntimeError, TypeError, ValueError) as error:
                what = f"what module {place - 1} gives, {tuple(found[-1].shape)}" if found else "the task's example"
                raise TrainError(f"module {place} of {whose} does not take {what}: {error}") from error
            if not isinstance(output, Tensor):
                raise TrainError(
                    f"module {place} of {whose} gives a {type(output).__name__}; modules pass one tensor from each to the next"
                )
            found.append(output)
    return found


def _bridge(source: Tensor, target: Tensor, place: int, whose: str) -> Channels | None:
    """From the features of one to the channels of the other; None where they agree."""
    inputs, outputs = channels_last(source), channels_last(target)
    if inputs.shape[:-1] != outputs.shape[:-1]:
        raise TrainError(
            f"module {place} of {whose} and that of the meta model differ in positions, {tuple(source.shape)} and "
            f"{tuple(target.shape)}; a linear layer changes channels only, so cut both models at the same resolutions"
        )
    if inputs.shape[-1] == outputs.shape[-1]:
        return None
    return Channels(inputs.shape[-1], outputs.shape[-1])
