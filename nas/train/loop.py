"""The loop over the steps of a training, and what of it a checkpoint holds."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import random
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nas.errors import Infeasible, TrainError
from nas.supernet.ragged import enough
from nas.train import rng, state
from nas.train.best import Best, judged
from nas.train.compiling import Compiler
from nas.train.health import Health
from nas.train.learner import COLUMNS, Learner
from nas.train.log import Log, Reporter
from nas.train.losses import Loss, Step
from nas.train.ranks import Ranks, Share
from nas.train.rows import lent
from nas.train.synced import synced
from nas.train.task import Batch, mixed
from nas.train.trunk import featured, groups
from nas.train.validate import subnet_metrics

if TYPE_CHECKING:
    from nas.space import Arch, Space
    from nas.supernet import Supernet
    from nas.train.trainer import Training

LOG_EVERY = 10


class Run:
    """One run of a training, from a checkpoint or from the start.

    Args:
        training: its settings.
        found: the committed state of the training's path, None to start.
        ranks: the processes that share it.
    """

    def __init__(self, training: Training, found: state.State | None, ranks: Ranks) -> None:
        self.ranks, self.stopping, self.ended = ranks, False, False
        self.training, self.supernet, self.task = training, training.supernet, training.task
        if ranks.size > 1 and not self.task.repeatable:
            raise TrainError(
                f"{ranks.size} processes share every batch, and each would get other batches from training data with an order of "
                "their own; give a data set, or exact=True if an epoch is the same each time that it is read"
            )
        if ranks.size > 1 and training.compile is not None:
            raise TrainError(f"compile={training.compile!r} trains in one process, not in {ranks.size}; leave it out")
        self.compiler = Compiler(training.compile) if training.compile is not None else None
        self.supernet.to(training.device)
        self.kept = keep(training)
        modules = nn.ModuleList(self.kept.values())
        self.optimizer = training.make_optimizer(modules)
        self.scaler = torch.amp.GradScaler(training.device.type, enabled=training.precision == "fp16")
        self.state = found or state.State(config=training.config)
        self.state.config = training.config  # an earlier version has noted less of the same
        if found is None:
            training.sampler.check(training.steps)
            # Before anything is learnt with units that are mixed.
            self.supernet.prove_once(training.task.example)
        self.supernet.zero_grad(set_to_none=True)
        if found is not None and training.path is not None:
            state.load(training.path, found, self.supernet, None if found.finished else self.optimizer, modules)
            rng.restore(found.rng)
            if found.scaler:
                self.scaler.load_state_dict(found.scaler)
        self.learner = Learner(training, ranks, self.state.policy) if training.policy is not None else None
        self.health = Health(**self.state.health)
        self.best = Best(**self.state.best) if self.state.best else None
        self.best_weights: dict[str, Tensor] = {}  # of a training without a path
        self.watched = watched(self.supernet, training.seed)
        self.modules = modules  # what the losses keep
        self.taps = tuple(dict.fromkeys(name for loss in training.loss.within() for name in loss.taps))
        self.parameters = [*self.supernet.parameters(), *modules.parameters()]
        self.started = time.monotonic() - self.state.seconds
        self.unseen: list[tuple[int, Tensor]] = []  # (step, loss and gradient norm) that nobody has looked at yet
        # Looking at a number makes the CPU wait for the GPU.
        self.look_every = 1 if training.device.type == "cpu" else LOG_EVERY

    def finish(self, progress: bool, interrupted: Callable[[], bool], until: int) -> None:
        """Makes the steps that are left up to `until`, and commits.  A finished training has none."""
        if self.state.finished or self.state.step >= until:
            self.supernet.eval()
            return
        columns = [f"{label}_{name}" for label in self.watched for name in self.task.metric_names]
        path = self.training.path if self.ranks.first else None
        columns += COLUMNS if self.learner is not None else ()
        log = Log(path, ["step", "epoch", "lr", "loss", "seconds", *columns], self.state.history)
        compiling = self.compiler.running() if self.compiler is not None else contextlib.nullcontext()
        try:
            with compiling, self.training.reporter(self.state.step, show=progress and self.ranks.first) as reporter:
                self._loop(log, reporter, interrupted, until)
        finally:
            log.close()
            self.supernet.zero_grad()
            self.supernet.eval()

    def _loop(self, log: Log, reporter: Reporter, interrupted: Callable[[], bool], until: int) -> None:
        training, steps = self.training, self.training.steps
        if self.learner is not None and self.learner.told:
            reporter.say(self.learner.told)
        self.supernet.train()
        self.ranks.agree(self.parameters)
        self.ranks.settle(self.supernet, begin=True)
        for batches in itertools.islice(self._batches(), until - self.state.step):
            self._step(batches, interrupted)
            done = self.state.step
            measure = done % training.validate_every == 0 or done == steps
            if measure or done % LOG_EVERY == 0:
                self._look()
                self._row(log, reporter, measure=measure)
            if measure and training.watch is not None and training.watch.patience is not None:
                # The first rank has measured.
                self.ended = self.ranks.told(self.best is not None and self.best.waited >= training.watch.patience)
            stop = self.stopping and done < steps and not self.ended
            if done % training.checkpoint_every == 0 or done == until or stop or self.ended:
                self._look()
                self._commit()
            if self.ended:
                if done < steps and self.best is not None:
                    reporter.say(
                        f"stopped early after step {done} of {steps}; the best is that of step {self.best.step}"
                    )
                return
            if stop:
                kept = f"; '{training.path}' holds a checkpoint" if training.path else ""
                reporter.say(f"interrupted after step {done} of {steps}{kept}")
                raise KeyboardInterrupt

    def _batches(self) -> Iterator[list[Batch]]:
        """Those of each step, from the first that was not yet trained on, epoch after epoch; an epoch's last may have fewer."""
        data = self.training.data
        per_epoch, count = data.steps_per_epoch, self.training.accumulate
        if per_epoch < 1:
            raise TrainError("the task has no training batches; give it more data or a smaller batch")
        first, skip = divmod(self.state.step, self.training.steps_per_epoch)
        for epoch in itertools.count(first):
            batches = lent(itertools.islice(data.train_batches(epoch), per_epoch), data, per_epoch)
            rest = itertools.islice(batches, skip * count if epoch == first else 0, None)
            while together := list(itertools.islice(rest, count)):
                yield together

    def _step(self, batches: list[Batch], interrupted: Callable[[], bool]) -> None:
        """One optimizer step; the gradients of its batches and archs are summed, then those of the ranks."""
        training, number = self.training, self.state.step
        look = len(self.unseen) + 1 >= self.look_every
        self.ranks.seed(training.seed, number)
        for group in self.optimizer.param_groups:
            group["lr"] = training.schedule(number)
        training.sampler.begin(self.supernet, self.optimizer, number)
        for keeper, module in self.kept.items():
            keeper.begin(training, module, number)
        mixes = self.learner is not None and self.learner.mixes(number)
        archs = [] if mixes else self.ranks.archs(functools.partial(self._archs, number), self.supernet.space)
        sizes = [self.task.samples(batch) for batch in batches]
        loss = torch.zeros((), device=training.device)
        for batch, size in zip(batches, sizes, strict=True):
            loss += self._teach(batch, archs, number, size / sum(sizes))
        self.ranks.settle(self.supernet)
        loss, self.stopping = self.ranks.reduce(self.parameters, loss, interrupted(), look)
        self.state.step += 1
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, training.clip or math.inf)
        if self.scaler.is_enabled():  # an overflow is the scaler's business: it skips the step
            norm = torch.zeros_like(norm)
        self.unseen.append((self.state.step, torch.stack([loss, norm])))
        if look:
            self._look()  # before the weights are touched
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.supernet.zero_grad()
        self.modules.zero_grad(set_to_none=False)
        if self.learner is not None:
            self.learner.step(number)

    def _teach(self, batch: Batch, archs: list[Arch], number: int, weight: float) -> Tensor:
        """Forward and backward of each arch on this rank's rows; this rank's part of the mean of their losses, times `weight`.

        Without archs that of a policy's mixture.
        """
        training, space = self.training, self.supernet.space
        share = self.ranks.share(self.task.samples(batch))
        batch = (share.of(batch, self.task.example) if self.ranks.size > 1 else batch).to(training.device)
        weight *= share.weight
        if not archs:
            return self._teach_mixture(batch, share, weight)
        step = Step(number, self.task, space, archs, archs[0], kept=self.kept)
        total = torch.zeros((), device=training.device)
        if self.compiler is not None:
            for arch in archs:
                self.compiler.take(self.supernet.bind(arch))
        for group in groups(self.supernet, archs):
            with training.autocast(), synced(self.ranks, share), enough(TrainError, "a training batch is too small"):
                losses = []
                for step.arch, output, step.features in featured(self.supernet, group, batch.inputs, self.taps):
                    losses.append(training.loss(output, batch, step))
                loss = functools.reduce(torch.add, losses)
            if weight != 1.0:
                loss = loss * weight
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach().float()
        return total / len(archs)

    def _teach_mixture(self, batch: Batch, share: Share, weight: float) -> Tensor:
        """Forward and backward of the mixture of all options on this rank's rows; this rank's part of its loss."""
        assert self.learner is not None
        with self.training.autocast(), synced(self.ranks, share), enough(TrainError, "a training batch is too small"):
            loss = self.task.loss(self.learner.mixed(batch.inputs), batch) * weight
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach().float()

    def _archs(self, number: int) -> list[Arch]:
        """Those of step `number`; drawn again, without the archs that cannot be built, where one of them is such."""
        try:
            archs = self._drawn(number)
            buildable = all(map(self.supernet.has, archs))
        except Infeasible:
            buildable = False
        if not buildable:
            self.supernet.forbid_unbuildable()
            archs = list(filter(self.supernet.has, self._drawn(number)))
        if not archs:
            raise TrainError(f"{self.training.sampler!r} gave no arch for step {number + 1} that can be built")
        return archs

    def _drawn(self, number: int) -> list[Arch]:
        training, space = self.training, self.supernet.space
        if self.learner is not None and self.learner.follows(number):
            assert training.policy is not None
            followed = self.learner.drawn(number)[: training.policy.follow]
            return training.loss.archs(list(dict.fromkeys(followed)), space)
        draw = random.Random(mixed(training.seed, "archs", number))
        return training.loss.archs(training.sampler.archs(space, number, draw), space)

    def _look(self) -> None:
        """Reads the losses that are still on the device, and stops where one of them is wrong."""
        for number, values in self.unseen:
            loss, norm = values.tolist()
            try:
                self.health.look(number, loss, norm, self.training.divergence)
            except TrainError as error:
                kept = f"; '{self.training.path}' keeps the last checkpoint" if self.training.path else ""
                raise TrainError(f"{error}{kept}") from None
            self.state.recent.append(loss)
        self.unseen.clear()

    def _row(self, log: Log, reporter: Reporter, *, measure: bool) -> None:
        """One row of the history: mean loss since the last one, and the watched subnets if `measure`."""
        done, recent = self.state.step, self.state.recent
        if not self.ranks.first:
            recent.clear()
            return
        self.state.seconds = time.monotonic() - self.started
        row: dict[str, float] = {
            "step": done,
            "epoch": done / self.training.steps_per_epoch,
            "lr": self.training.schedule(done - 1),
            "loss": sum(recent) / len(recent),
            "seconds": round(self.state.seconds, 3),
        }
        recent.clear()
        if self.learner is not None:
            row |= self.learner.row()
        if measure:
            measured = {label: subnet_metrics(self.supernet, arch, self.task) for label, arch in self.watched.items()}
            row |= {f"{label}_{name}": value for label, values in measured.items() for name, value in values.items()}
            first = self.task.metric_names[0]
            shown = "  ".join(f"{label} {values[first]:.4f}" for label, values in measured.items())
            reporter.measured(done, f"loss {row['loss']:.4f}  {first}: {shown}")
            self._judge(measured)
        self.state.history.append(row)
        log.add(row)
        reporter.step(done, f"loss {row['loss']:.4f}")

    def _judge(self, measured: dict[str, dict[str, float]]) -> None:
        """Keeps the weights where they are the best so far."""
        watch, path = self.training.watch, self.training.path
        if watch is None:
            return
        self.best = judged(watch, self.best, self.state.step, watch.value(measured))
        if self.best.step == self.state.step and path is not None:
            state.keep_best(path, self.best, self.supernet)
        elif self.best.step == self.state.step:
            self.best_weights = {name: one.detach().clone() for name, one in self.supernet.state_dict().items()}

    def _take_best(self) -> None:
        """Gives the supernet the weights that the training ends with."""
        if self.best is None or self.best.step == self.state.step:
            return
        weights = self.best_weights
        if self.training.path is not None:
            self.state.finished = False
            stored = state.load_best(self.training.path, self.state, type(self.supernet), self.supernet.space)
            self.state.finished, weights = True, stored.state_dict()
        with torch.no_grad():
            self.supernet.load_state_dict({**self.supernet.state_dict(), **weights})

    def _commit(self) -> None:
        self.state.finished = self.ended or self.state.step == self.training.steps
        if self.learner is not None:
            self.state.policy = self.learner.record()
            self.learner.policy.take(self.supernet.space, self.state.policy)
        self.ranks.agree(self.parameters)
        self.state.best = None if self.best is None else self.best.record()
        if self.state.finished and self.ranks.first:
            self._take_best()
        if self.training.path is None or not self.ranks.first:
            return
        self.state.seconds = time.monotonic() - self.started
        self.state.rng = rng.capture()
        self.state.health = vars(self.health).copy()
        self.state.scaler = self.scaler.state_dict() if self.scaler.is_enabled() else None
        state.write(self.training.path, self.state, self.supernet, self.optimizer, self.modules)


def keep(training: Training) -> dict[Loss, nn.Module]:
    """What each of a training's losses keeps from step to step; the losses are made ready first."""
    losses = list(training.loss.within())
    for loss in losses:
        loss.prepare(training.device)
    made = [(loss, loss.keep(training)) for loss in losses]
    return {loss: module.to(training.device) for loss, module in made if module is not None}


def watched(net: Supernet, seed: int) -> dict[str, Arch]:
    """The subnets whose metrics a training shows: largest, smallest, and two random ones, the same throughout."""
    archs = _watched(net.space, seed)
    if not all(map(net.has, archs.values())):
        net.forbid_unbuildable()
        archs = _watched(net.space, seed)
    labels: dict[Arch, str] = {}
    for label, arch in archs.items():
        labels.setdefault(arch, label)
    return {label: arch for arch, label in labels.items()}


def _watched(space: Space, seed: int) -> dict[str, Arch]:
    draw = random.Random(mixed(seed, "watched"))
    extremes = {"largest": space.largest, "smallest": space.smallest}
    return {**extremes, "random1": space.sample(draw), "random2": space.sample(draw)}
