"""Teaching layers inside a network: any loss, and with it the features of named layers.

The teacher is a module of its own, or the largest arch of the same step.  The student's features come from hooks on the very
forward that is trained (`nas.train.taps`), so that they cost nothing but the comparison.

Multi-exit self-distillation (Zhang et al. 2019, "Be Your Own Teacher") is the features of exits beside `InPlace`: see
`nas.train.exits`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nas.checking import checked
from nas.errors import TrainError
from nas.supernet.inputs import Inputs, call, tensors_in
from nas.supernet.skeleton import quiet
from nas.train import taps
from nas.train.comparisons import Comparison
from nas.train.losses import Around, Labels, Loss, Step, digest, look
from nas.train.task import Batch, mixed, to_device
from nas.train.validate import device_of, evaluating

if TYPE_CHECKING:
    from nas.space import Arch, Space
    from nas.train.trainer import Training


@checked(TrainError)
@dataclass(frozen=True, eq=False)
class Features(Around):
    """`loss`, and `weight` times the distance of some layers' outputs from a teacher's, summed over the layers.

    Args:
        layers: names of the subnets' layers, or name -> that of the teacher's layer.  They are layers of the largest arch; an
            arch that does not have one of them (a shallower one) is not taught it.
        compare: `Hint()`, `Relative()`, `AttentionTransfer()`, `RKD()`, `SimilarityPreserving()`.
        loss: what the outputs learn; any.
        weight: of the comparison.  Comparisons have different scales: their docstrings name the authors' weights.
        teacher: a module that takes the task's inputs, put in eval mode and never trained; None is the largest arch of the
            same step, which is added first where the sampler did not choose it and whose features are held fixed.

    Raises:
        TrainError: an option is not what it must be; when a training begins, a layer that is not there, or features that
            cannot be compared.
    """

    layers: str | Sequence[str] | Mapping[str, str]
    compare: Comparison
    loss: Loss = field(default_factory=Labels)
    weight: float = 1.0
    teacher: nn.Module | None = None

    def __post_init__(self) -> None:
        if not self.pairs or not all(self.pairs) or not all(self.pairs.values()):
            raise TrainError(f"Features has layers={self.layers!r}; give the names of layers, such as 'blocks.3'")
        if not isinstance(self.compare, Comparison):
            raise TrainError(f"Features has compare={self.compare!r}; it is a nas.train.Comparison such as RKD()")
        if not isinstance(self.loss, Loss):
            raise TrainError(f"Features has loss={self.loss!r}; it is a nas.train.Loss such as InPlace()")
        if not 0.0 < self.weight < float("inf"):
            raise TrainError(
                f"Features has weight={self.weight}; it is a positive number, and without features use the loss"
            )

    @property
    def pairs(self) -> dict[str, str]:
        """Student's layer -> teacher's."""
        if isinstance(self.layers, str):
            return {self.layers: self.layers}
        return dict(self.layers) if isinstance(self.layers, Mapping) else {name: name for name in self.layers}

    @property
    def taps(self) -> Sequence[str]:
        """The student's layers; in place the teacher's too."""
        names = list(self.pairs) if self.teacher is not None else [*self.pairs, *self.pairs.values()]
        return tuple(dict.fromkeys(names))

    def archs(self, archs: Sequence[Arch], space: Space) -> list[Arch]:
        """The loss's; in place the largest first."""
        wanted = self.loss.archs(archs, space)
        if self.teacher is not None:
            return wanted
        return [space.largest, *(arch for arch in wanted if arch != space.largest)]

    def prepare(self, device: torch.device) -> None:
        """The teacher goes to `device`, in eval mode."""
        if self.teacher is not None:
            self.teacher.to(device).eval()

    def keep(self, training: Training) -> nn.Module | None:
        """The projections of the comparison, which are trained with the supernet; all that can be checked is, on one sample."""
        net, theirs = training.supernet, list(self.pairs.values())
        example, binding = to_device(training.task.example, device_of(net)), net.bind(net.space.largest)
        taps.check(binding.module, self.taps, f"the largest arch of space {net.space.name!r}")
        with evaluating(net):
            ours = features_of(binding.module, lambda: binding(example), self.taps)
        taught = ours
        if self.teacher is not None:
            taps.check(self.teacher, theirs, f"the teacher, a {type(self.teacher).__name__},")
            teacher = self.teacher
            taught = features_of(teacher, lambda: call(teacher, example), theirs)
        draw = torch.Generator().manual_seed(mixed(training.seed, "projections"))
        made = [self.compare.adapt(one, ours[one], taught[other], draw) for one, other in self.pairs.items()]
        projections = nn.ModuleList(one for one in made if one is not None)
        return projections if len(projections) else None

    def __call__(self, output: Any, batch: Batch, step: Step) -> Tensor:
        """The loss's, and the comparison's for the layers that this arch has."""
        theirs = self._taught(batch, step)
        value = self.loss(output, batch, step)
        if self.teacher is None and step.arch == step.space.largest:
            return value
        kept = step.kept.get(self)
        for place, (name, other) in enumerate(self.pairs.items()):
            if name in step.features:
                projection = kept[place] if isinstance(kept, nn.ModuleList) else None  # for each layer or for none
                value = value + self.weight * self.compare(step.features[name], theirs[other], projection)
        return value

    def _taught(self, batch: Batch, step: Step) -> Mapping[str, Tensor]:
        """The teacher's features; in place what the largest arch left, which comes first."""
        if self.teacher is not None:
            return look(self.teacher, batch, step, list(self.pairs.values()))[1]
        key = f"features {id(self)}"
        if step.arch == step.space.largest:
            step.shared[key] = {name: step.features[name].detach() for name in self.pairs.values()}
        found: Mapping[str, Tensor] = step.shared[key]
        return found

    def describe(self) -> dict[str, Any]:
        """Options, the loss's own, and a digest of the teacher's weights."""
        options = {"layers": self.pairs, "compare": self.compare.describe(), "weight": self.weight}
        teacher = None if self.teacher is None else digest(self.teacher)
        return {"class": "Features", "loss": self.loss.describe(), **options, "teacher": teacher}


def alike(student: nn.Module, teacher: nn.Module, example: Inputs) -> list[str]:
    """Layers of the same name and shape of outputs: elements of lists of blocks, the outermost, that hold parameters.

    A student that is a part of its teacher has layers of the same name where both have the same weights; those whose channels
    were cut have other shapes.

    Args:
        student: any module.
        teacher: another.
        example: inputs that both take.
    """
    ours, theirs = (_shapes(one, example) for one in (student, teacher))
    found: list[str] = []
    for name, shape in ours.items():
        is_within = any(name.startswith(f"{outer}.") for outer in found)
        if not is_within and len(shape) > 1 and theirs.get(name) == shape:
            found.append(name)
    return found


def _shapes(module: nn.Module, example: Inputs) -> dict[str, tuple[int, ...]]:
    """Of what each element of a list of layers gives: of those that hold parameters, are called, and do not give the output."""
    lists = [name for name, one in module.named_modules() if isinstance(one, (nn.ModuleList, nn.Sequential))]
    names = [
        name
        for name, one in module.named_modules()
        if name and name.rpartition(".")[0] in lists and any(True for _ in one.parameters())
    ]
    device = device_of(module)
    with torch.no_grad(), quiet(), evaluating(module), taps.tapped(module, names, strict=False) as caught:
        output = tensors_in(call(module, to_device(example, device)))
    given = {
        name: tensor
        for name, tensor in caught.items()
        if not any(one.shape == tensor.shape and torch.equal(one, tensor) for one in output)
    }
    return {name: tuple(given[name].shape) for name in names if name in given}


def features_of(module: nn.Module, run: Callable[[], Any], names: Sequence[str]) -> Mapping[str, Tensor]:
    """Of the layers `names` while `run` calls `module`."""
    with torch.no_grad(), taps.tapped(module, names) as found:
        run()
    for name in names:
        if name not in found:
            raise TrainError(
                f"layer {name!r} of a {type(module).__name__} is there and is not called, so that it has no features; "
                "name the layer around it"
            )
    return found
