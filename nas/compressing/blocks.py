"""`nas.Blocks`: alternatives of every block of a network, each taught by itself and kept, and networks composed of them.

library = nas.Blocks(supernet, task, "blocks")
library.learn()                                       # all single replacements; or a study's workers do it
study = nas.Study("blocks", space=supernet.space, objectives=["min divergence", "min macs"], evaluators=[library,
    nas.Costs(supernet)], algorithm=nas.Given(library.replacements), store=…, trials=len(library.replacements))
nas.Trained(task, "tuned", epochs=2, start=library)   # candidates begin as they were composed
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from nas import files
from nas.checking import Count, Positive, checked
from nas.compressing import distilling
from nas.compressing.calibration import Calibration
from nas.convert.elastic import ElasticSpace
from nas.convert.model import conditions
from nas.convert.plan import LINEAR
from nas.convert.spelling import keep
from nas.errors import EvaluationError, Infeasible, suggest
from nas.evaluate.subnets import OfSubnets, Source, Weights
from nas.space import Arch, Space
from nas.supernet.skeleton import quiet, statistics_of
from nas.train import Task, as_supernet
from nas.train.losses import digest
from nas.train.validate import calibrated

if TYPE_CHECKING:
    import pandas as pd

Changes = Mapping[str, Any]
"""Decisions of a block that are not as in the largest arch -> what is chosen."""
ERROR = "block_error"
FORMAT = 1
CALIBRATED = 2  # of a block with BatchNorm: its error was measured with the statistics of the teaching before


class Blocks(OfSubnets):
    """Networks composed of blocks that were taught one by one, and what composing them costs in quality.

    A block is a part of the network that can be left out, and its alternatives are what can be chosen inside of it: narrower,
    fewer heads, other ranks, a linear map, nothing.  An alternative begins with the supernet's weights and learns to give the
    block's output from the block's input, and stays as it began where that was better; a linear map and nothing are as they are.

    As an evaluator it teaches what an arch needs and nobody has taught yet, composes the network, and measures the loss and the
    divergence of its outputs from the original's on a few training batches, and the sum of the errors of its blocks.  Whatever is
    outside of blocks stays as in the largest arch; others are infeasible.

    Args:
        source: a supernet, a training or a checkpoint's folder, of a space of `nas.elastic`.
        task: gives the batches.
        folder: where taught blocks are kept, under a hash of all that they depend on; on a file system that all workers see.
            Another budget, or a run that was killed, finds them there.
        steps: of each alternative.
        lr: of its first step.
        batches: training batches that composed networks are measured on.

    Raises:
        EvaluationError: `steps`, `lr` or `batches` is no positive number, or the source holds no supernet.
    """

    weights: Weights
    task: Task

    @checked(EvaluationError)
    def __init__(
        self,
        source: Source,
        task: Task,
        folder: str | Path,
        *,
        steps: Count = 200,
        lr: Positive = 1e-3,
        batches: Count = 8,
    ) -> None:
        self.weights, self.task, self.folder = Weights(source), task, Path(folder)
        self.steps, self.lr, self.batches = steps, lr, batches
        self._judge = Calibration(source, task, batches=batches)
        self._judge.weights = self.weights
        self.metrics = (*self._judge.metrics, ERROR)

    # -- which blocks and alternatives

    @functools.cached_property
    def _decisions(self) -> dict[str, list[str]]:
        """Names of the decisions inside of each block, by its path.

        Raises:
            EvaluationError: the space has no blocks.
        """
        space = self._space
        plan = space.plan
        names = [unit.name for unit in plan.alone]
        outer = {keep(name): name for name in names if not any(name.startswith(f"{other}.") for other in names)}
        if not outer or plan.graph or plan.depths:
            why = (
                "its archs are captured graphs"
                if plan.graph
                else "one decision says how many there are; give the space that nas.elastic gave"
                if plan.depths
                else "nothing can be left out"
            )
            raise EvaluationError(f"space {space.name!r} has no blocks that could be taught one by one: {why}")
        inside = conditions(space.template.skeleton(), plan)
        found: dict[str, list[str]] = {name: [] for name in outer.values()}
        for decision in space.decisions:
            root = decision.name
            while root in inside:
                root = inside[root][0]
            if root in outer:
                found[outer[root]].append(decision.name)
        return found

    @property
    def _space(self) -> ElasticSpace:
        source = self.weights.loaded
        space = source.space if source is not None else getattr(self.weights.source, "space", None)
        if space is None:
            space = getattr(getattr(self.weights.source, "supernet", None), "space", None)
        if not isinstance(space, ElasticSpace):
            raise EvaluationError(
                "nas.Blocks needs a supernet of a space of nas.elastic, whose blocks are known"
                if space is not None
                else "nas.Blocks has no space yet; give a supernet, or evaluate an arch first"
            )
        return space

    @property
    def blocks(self) -> list[str]:
        """Paths of the blocks, in the model's order."""
        order = {name: place for place, (name, _) in enumerate(self._space.template.skeleton().named_modules())}
        return sorted(self._decisions, key=lambda name: order[name])

    def alternatives(self, block: str) -> list[dict[str, Any]]:
        """Every other choice of one decision inside of a block.

        Raises:
            EvaluationError: there is no such block.
        """
        if block not in self._decisions:
            raise EvaluationError(
                f"there is no block {block!r}{suggest(block, self._decisions)}; there are {', '.join(self.blocks)}"
            )
        inside, largest = set(self._decisions[block]), self._space.largest.choices
        return [
            {one.name: value}
            for one in self._space.decisions
            if one.name in inside
            for value in one.candidates
            if value != largest[one.name]
        ]

    @property
    def replacements(self) -> list[Arch]:
        """The largest arch, and those that differ from it in one alternative of one block, for `nas.Given`."""
        space = self._space
        single = [space._with(changes) for block in self.blocks for changes in self.alternatives(block)]
        return [space.largest, *single]

    def _changes(self, arch: Arch) -> dict[str, dict[str, Any]]:
        """What of each block an arch has otherwise.

        Raises:
            Infeasible: it has something else otherwise.
        """
        largest = arch.space.largest.choices
        owners = {name: block for block, names in self._decisions.items() for name in names}
        found: dict[str, dict[str, Any]] = {}
        for name, value in arch.choices.items():
            if value == largest[name]:
                continue
            if name not in owners:
                raise Infeasible(
                    f"the arch has {name} = {value!r} and the original {largest[name]!r}: what goes through all blocks, or is "
                    "outside of them, cannot be taught block by block; nas.elastic(…, include=[…]) with the blocks' names opens "
                    "what is inside alone"
                )
            found.setdefault(owners[name], {})[name] = value
        return found

    # -- teaching

    @checked(EvaluationError)
    def learn(self, blocks: Sequence[str] | None = None, alternatives: Sequence[Changes] | None = None) -> pd.DataFrame:
        """Teach what is not kept yet, all alternatives of a block together, and say how well each does.

        Blocks may be taught in any order, and by several processes at once.

        Args:
            blocks: paths; all of them by default.
            alternatives: choices of decisions inside of the one block; every other choice of one decision by default.

        Returns:
            A row for each: block, choices, and the error before and after, with BatchNorm statistics as `extract` gives them.

        Raises:
            EvaluationError: there is no such block, the data do not fit, or the folder cannot be written; what was taught before
                is kept.
            TrainError: a training diverged.
        """
        import pandas as pd

        wanted = list(blocks) if blocks is not None else self.blocks
        if alternatives is not None and len(wanted) != 1:
            raise EvaluationError(
                f"alternatives= are of one block, and {len(wanted)} are asked for; give blocks=[…] with one"
            )
        rows = []
        for block in wanted:
            some = self.alternatives(block) if alternatives is None else list(alternatives)
            for changes, kept in zip(some, self._taught(block, some), strict=True):
                rows.append({"block": block, "choices": dict(changes), "before": kept.before, "error": kept.error})
        return pd.DataFrame(rows, columns=["block", "choices", "before", "error"])

    def _taught(self, block: str, alternatives: Sequence[Changes]) -> list[_Kept]:
        """What is kept of alternatives of a block, after teaching those of which nothing is."""
        net = self.weights.get(self._space)
        modules = [net.extract(self._space._with(changes)).get_submodule(block) for changes in alternatives]
        paths = [self._path(block, changes, module) for changes, module in zip(alternatives, modules, strict=True)]
        found = [_read(path) for path in paths]
        missing = [at for at, kept in enumerate(found) if kept is None]
        if missing:
            with quiet(0):
                made = self._teach(block, [modules[at] for at in missing], [alternatives[at] for at in missing])
            for at, kept in zip(missing, made, strict=True):
                _write(paths[at], kept)
                found[at] = kept
        return [kept for kept in found if kept is not None]

    def _teach(self, block: str, modules: Sequence[nn.Module], alternatives: Sequence[Changes]) -> list[_Kept]:
        whole = distilling.Block(self._original, block)
        distilling.errors(whole, [], islice(self.task.calibration_inputs(), 1))  # refuses data that do not fit
        before = self._errors(whole, modules, alternatives)
        begun = [_state(module) for module in modules]
        key = keep(block)
        pupils = [
            module
            for module, changes in zip(modules, alternatives, strict=True)
            if changes.get(key) not in (False, LINEAR) and any(one.requires_grad for one in module.parameters())
        ]
        if pupils:
            distilling.learn(whole, pupils, distilling.endless(self.task), self.steps, self.lr)
        after = self._errors(whole, modules, alternatives) if pupils else before
        return [  # what was nearly right to begin with may be worse after a few long steps
            _Kept(start if first <= last else _state(module), first, min(first, last))
            for module, start, first, last in zip(modules, begun, before, after, strict=True)
        ]

    def _errors(
        self, whole: distilling.Block, modules: Sequence[nn.Module], alternatives: Sequence[Changes]
    ) -> list[float]:
        """Errors of alternatives as composed networks have them: with BatchNorm statistics of their own."""
        net = self.weights.get(self._space)

        def composed(module: nn.Module, changes: Changes) -> nn.Module:
            if not statistics_of(module):
                return module
            network = net.extract(self._space._with(changes))
            network.get_submodule(whole.name).load_state_dict(module.state_dict())
            return self._calibrated(network).get_submodule(whole.name)

        with quiet():  # what is drawn here is no part of the teaching
            measured = [composed(module, changes) for module, changes in zip(modules, alternatives, strict=True)]
        return distilling.errors(whole, measured, self.task.calibration_inputs())

    def _calibrated(self, network: nn.Module) -> nn.Module:
        """The network with BatchNorm statistics of the calibration data."""
        alone = as_supernet(network, example=self.task.example)
        return alone.extract(alone.space.largest, calibrated(alone, alone.space.largest, self.task))

    @property
    def _original(self) -> nn.Module:
        net = self.weights.get(self._space)
        return net.extract(net.space.largest)

    @functools.cached_property
    def _parent(self) -> dict[str, str]:
        return digest(self._original)

    def _path(self, block: str, changes: Changes, module: nn.Module) -> Path:
        """Where an alternative is kept: everything that it depends on is in the name."""
        content = {
            "format": CALIBRATED if statistics_of(module) else FORMAT,
            "parent": self._parent,
            "block": block,
            "alternative": {name: changes[name] for name in sorted(changes)},
            "start": digest(module),
            "task": self.task.describe(),
            "steps": self.steps,
            "lr": self.lr,
        }
        named = sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]
        return self.folder / f"{named}.safetensors"

    # -- composed networks

    def extract(self, arch: Arch) -> nn.Module:
        """The network composed of taught blocks, an ordinary module of the model's class, in eval mode.

        Raises:
            Infeasible: the arch has something outside of blocks otherwise than the largest.
            EvaluationError: as `learn`.
        """
        return self._composed(arch)[0]

    def _composed(self, arch: Arch) -> tuple[nn.Module, float]:
        net = self.weights.get(arch.space)
        module, total = net.extract(arch), 0.0
        for block, changes in self._changes(arch).items():
            (kept,) = self._taught(block, [changes])
            module.get_submodule(block).load_state_dict(kept.state)
            total += kept.error
        if statistics_of(module) and total:
            module = self._calibrated(module)
        return module.eval(), total

    def __call__(self, arch: Arch) -> dict[str, float]:
        """Loss, divergence, and the sum of the errors of the blocks that are replaced."""
        module, total = self._composed(arch)
        return {**self._judge.measure_module(module), ERROR: total}

    def check(self, space: Space) -> None:
        """Whether the supernet is there and trained, its space has blocks, and the folder can be written."""
        super().check(space)
        self.alternatives(self.blocks[0])
        with files.explained(self.folder, EvaluationError):
            self.folder.mkdir(parents=True, exist_ok=True)

    def describe(self) -> dict[str, Any]:
        """JSON-able name, weights and options; the folder is no part."""
        return {
            "name": "Blocks",
            "supernet": self.weights.describe(),
            "task": self.task.describe(),
            "steps": self.steps,
            "lr": self.lr,
            "batches": self.batches,
        }

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_decisions", "_parent")}


class _Kept:
    """A taught alternative.

    Attributes:
        state: of its module.
        before: its error as it began.
        error: now.
    """

    def __init__(self, state: dict[str, Tensor], before: float, error: float) -> None:
        self.state, self.before, self.error = state, before, error


def _state(module: nn.Module) -> dict[str, Tensor]:
    """A copy; tensors that are tied have one for each name."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in module.state_dict().items()}


def _read(path: Path) -> _Kept | None:
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as stored:
            told = stored.metadata()
            state = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no mapping)
        return _Kept(state, float(told["before"]), float(told["error"]))
    except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise EvaluationError(
            f"'{path}' holds no taught block ({error}); remove the file, and it is taught again"
        ) from error


def _write(path: Path, kept: _Kept) -> None:
    body = safetensors.torch.save(kept.state, metadata={"before": repr(kept.before), "error": repr(kept.error)})
    with files.explained(path, EvaluationError):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, body)
