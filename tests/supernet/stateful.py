"""Models with more state than parameters and constants; importable, so that their spaces travel to workers."""

from __future__ import annotations

import functools
import math
import os
import random
import secrets
import time
import uuid

import numpy as np
import pyglove as pg
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

import nas


class Drawn(nn.Module):
    """Four inputs, three outputs; `make(self, width)` draws something, `use(self, hidden)` computes with it."""

    def __init__(self, width, make, use):
        super().__init__()
        self.first = nn.Linear(4, width)
        self.last = nn.Linear(width, 3)
        self._use = use
        make(self, width)

    def forward(self, x):
        return self.last(self._use(self, self.first(x)))


def buffer(draw, **options):
    """The constructor keeps what `draw(module, width)` gives in a buffer."""

    def make(module, width):
        module.register_buffer("kept", draw(module, width), **options)

    return make


def attribute(draw):
    def make(module, width):
        module.kept = draw(module, width)

    return make


def scaled(module, x):
    return x * module.kept


def matrix(module, x):
    return x @ module.kept


def picked(module, x):
    return x[:, torch.as_tensor(module.kept)]


def weight(module):
    return module.first.weight.detach()


HELD = {
    "normal": (buffer(lambda _, w: torch.randn(w)), scaled),
    "from numpy": (buffer(lambda _, w: torch.from_numpy(np.random.rand(w)).float()), scaled),
    "from numpy's generator without a seed": (
        buffer(lambda _, w: torch.from_numpy(np.random.default_rng().random(w)).float()),
        scaled,
    ),
    "from python": (buffer(lambda _, w: torch.tensor([random.random() for _ in range(w)])), scaled),
    "from the system": (
        buffer(lambda _, w: torch.frombuffer(bytearray(os.urandom(w)), dtype=torch.uint8) / 255),
        scaled,
    ),
    "from secrets": (buffer(lambda _, w: torch.tensor([secrets.randbelow(9) / 9 for _ in range(w)])), scaled),
    "from torch's generator without a seed": (buffer(lambda _, w: torch.rand(w, generator=unseeded())), scaled),
    "mask": (buffer(lambda _, w: torch.rand(w) > 0.5), scaled),
    "mask of whole numbers": (buffer(lambda _, w: (torch.rand(w) > 0.5).long()), scaled),
    "matrix": (buffer(lambda _, w: torch.randn(w, w) / math.sqrt(w)), matrix),
    "one number": (buffer(lambda *_: torch.rand(())), scaled),
    "copy of the weights": (buffer(lambda m, _: weight(m).clone()), lambda m, x: x * m.kept.sum(1)),
    "size of the weights": (buffer(lambda m, _: weight(m).abs().amax(1)), scaled),
    "scale read from the weights": (buffer(lambda m, _: torch.tensor(weight(m).std().item())), scaled),
    "sum of the weights as a float": (buffer(lambda m, _: torch.tensor(float(weight(m).sum()))), scaled),
    "weights through numpy": (buffer(lambda m, _: torch.from_numpy(weight(m).numpy().std(1))), scaled),
    "sign of the weights": (buffer(lambda m, _: weight(m).sign()), lambda m, x: x * m.kept.sum(1)),
    "weights that outgrow a number": (buffer(lambda m, _: (weight(m).abs() > weight(m).abs().mean()).any(1)), scaled),
}
"""Buffers that the supernet must hold."""


def unseeded():
    generator = torch.Generator()
    generator.seed()
    return generator


INDICES = {
    "permutation": (buffer(lambda _, w: torch.randperm(w)), picked),
    "permutation from numpy": (buffer(lambda _, w: torch.from_numpy(np.random.permutation(w))), picked),
    "places": (buffer(lambda _, w: torch.randint(w, (w,))), picked),
}
"""Tables that no arch can share with another."""


class Closure:
    def __init__(self, values):
        self.values = values

    def __call__(self, x):
        return x * self.values


ACTIVATIONS = [functional.silu, functional.relu6, functional.mish, functional.selu]


def hidden_in_a_list(module, width):
    module.parts = [nn.Linear(width, width)]


def hidden_hook(module, width):
    noise = torch.randn(width)
    module.first.register_forward_hook(lambda _m, _i, output: output * noise)


def hidden_closure(module, width):
    noise = torch.randn(width)
    module.kept = lambda x: x * noise


REFUSED = {
    "tensor": (attribute(lambda _, w: torch.randn(w)), scaled),
    "tensor of no dimension": (attribute(lambda *_: torch.rand(())), scaled),
    "array": (attribute(lambda _, w: np.random.rand(w)), lambda m, x: x * torch.from_numpy(m.kept).float()),
    "list": (attribute(lambda _, w: [random.random() for _ in range(w)]), lambda m, x: x * torch.tensor(m.kept)),
    "permutation in a list": (attribute(lambda _, w: random.sample(range(w), w)), picked),
    "permutation in a tuple": (attribute(lambda _, w: tuple(np.random.permutation(w).tolist())), picked),
    "dict of tensors": (attribute(lambda _, w: {"a": torch.randn(w)}), lambda m, x: x * m.kept["a"]),
    "tuple of tensors": (attribute(lambda _, w: (torch.randn(w),)), lambda m, x: x * m.kept[0]),
    "nested": (
        attribute(lambda _, w: {"a": [(np.random.rand(w),)]}),
        lambda m, x: x * torch.tensor(m.kept["a"][0][0]).float(),
    ),
    "partial": (attribute(lambda _, w: functools.partial(torch.mul, torch.randn(w))), lambda m, x: m.kept(x)),
    "closure": (hidden_closure, lambda m, x: m.kept(x)),
    "object": (attribute(lambda _, w: Closure(torch.randn(w))), lambda m, x: m.kept(x)),
    "bound method": (attribute(lambda _, w: Closure(torch.randn(w)).__call__), lambda m, x: m.kept(x)),
    "functions": (attribute(lambda *_: secrets.SystemRandom().choices(ACTIVATIONS, k=9)), lambda m, x: m.kept[0](x)),
    "bytes": (attribute(lambda *_: os.urandom(8)), lambda m, x: x * m.kept[0]),
    "layer in a list": (hidden_in_a_list, lambda m, x: m.parts[0](x)),
    "hook": (hidden_hook, lambda _, x: x),
    "scale of the weights": (attribute(lambda m, _: weight(m).abs().amax(1)), scaled),
    "buffer that is not persistent": (buffer(lambda _, w: torch.randn(w), persistent=False), scaled),
    "indices without a seed": (buffer(lambda _, w: torch.from_numpy(np.random.default_rng().permutation(w))), picked),
    "indices from the weights": (buffer(lambda m, _: weight(m).sum(1).argsort()), picked),
}
"""What no checkpoint has."""

NUMBERS = {
    "python": (attribute(lambda *_: random.random()), scaled),
    "numpy": (attribute(lambda *_: np.random.rand()), scaled),
    "numpy without a seed": (attribute(lambda *_: np.random.default_rng().random()), scaled),
    "torch": (attribute(lambda *_: torch.rand(()).item()), scaled),
    "clock": (attribute(lambda *_: time.perf_counter_ns() % 1000), scaled),
    "system": (attribute(lambda *_: int.from_bytes(os.urandom(4))), scaled),
    "weights": (attribute(lambda m, _: weight(m).std().item()), scaled),
    "whole number": (attribute(lambda *_: secrets.randbelow(10**6)), scaled),
    "text": (attribute(lambda *_: secrets.token_hex(4)), lambda m, x: x * int(m.kept, 16)),
    "in a dict": (attribute(lambda *_: {"a": Closure(random.random())}), lambda m, x: m.kept["a"](x)),
    "only in training": (attribute(lambda *_: random.random()), lambda m, x: x * m.kept if m.training else x),
    "rate of a dropout": (attribute(lambda *_: nn.Dropout(random.random())), lambda m, x: m.kept(x)),
}
"""Single numbers that matter."""

HARMLESS = {
    "nothing": (lambda *_: None, lambda _, x: x),
    "time stamp": (attribute(lambda *_: time.time_ns()), lambda _, x: x),
    "name": (attribute(lambda *_: str(uuid.uuid4())), lambda _, x: x),
    "seeded": (attribute(lambda _, w: torch.randn(w, generator=torch.Generator().manual_seed(0))), scaled),
    "seeded numpy": (attribute(lambda _, w: torch.from_numpy(np.random.default_rng(0).random(w)).float()), scaled),
    "seeded buffer": (
        buffer(lambda _, w: torch.randn(w, generator=torch.Generator().manual_seed(w)), persistent=False),
        scaled,
    ),
    "generator": (attribute(lambda *_: np.random.default_rng()), lambda _, x: x),
    "ones like the weights": (buffer(lambda m, _: torch.ones_like(weight(m))), lambda m, x: x * m.kept.sum(1)),
    "table": (attribute(lambda _, w: torch.linspace(0, 1, w).tolist()), lambda m, x: x * torch.tensor(m.kept)),
    "function": (attribute(lambda *_: functional.gelu), lambda m, x: m.kept(x)),
    "lambda": (attribute(lambda _, w: lambda x: x * w), lambda m, x: m.kept(x)),
    "module that is known": (attribute(lambda m, _: [m.first]), lambda _, x: x),
    "old weight norm": (lambda m, _: setattr(m, "last", old_weight_norm(m.last)), lambda _, x: x),
}
"""What is left alone."""


def old_weight_norm(layer):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(layer)


# -- what forward changes


def start(**values):
    """Buffers of one number a channel."""

    def make(module, width):
        for name, value in values.items():
            module.register_buffer(name, torch.full((width,), float(value)))

    return make


def normalised(update):
    def use(module, x):
        if not module.training:
            return (x - module.mean) / module.var.add(1e-5).sqrt()
        with torch.no_grad():
            update(module, x.mean(0), x.var(0))
        return (x - x.mean(0)) / x.var(0).add(1e-5).sqrt()

    return use


def in_place(module, mean, var):
    module.mean.lerp_(mean, 0.3)
    module.var.lerp_(var, 0.3)


def assigned(module, mean, var):
    module.mean = 0.7 * module.mean + 0.3 * mean
    module.var = 0.7 * module.var + 0.3 * var


def through_data(module, mean, var):
    module.mean.data.mul_(0.7).add_(0.3 * mean)
    module.var.data.copy_(0.7 * module.var + 0.3 * var)


def codebook(module, width):
    module.register_buffer("codes", torch.randn(6, width))
    module.register_buffer("used", torch.zeros(6))
    module.register_buffer("ready", torch.tensor(False))


def quantised(module, x):
    if module.training and not module.ready:
        module.codes.data.copy_(x.detach()[torch.arange(6) % len(x)])
        module.ready.fill_(True)
    nearest = torch.cdist(x, module.codes).argmin(1)
    if module.training:
        one_hot = functional.one_hot(nearest, 6).float()
        module.used.data.mul_(0.9).add_(0.1 * one_hot.sum(0))
        module.codes.data.lerp_(one_hot.T @ x.detach() / one_hot.sum(0).clamp(min=1)[:, None], 0.1)
    return x + (module.codes[nearest] - x).detach()


def annealed(module, x):
    if module.training:
        module.steps += 1
    return x / (1 + 0.01 * module.steps)


def late(module, x):
    if module.training:
        module.steps += 1
        if module.steps > 3:
            module.mean.lerp_(x.detach().mean(0), 0.2)
    return x - module.mean


def late_start(module, width):
    start(mean=0)(module, width)
    module.register_buffer("steps", torch.zeros((), dtype=torch.long))


LEARNT = {
    "in place": (start(mean=0, var=1), normalised(in_place)),
    "assigned": (start(mean=0, var=1), normalised(assigned)),
    "through data": (start(mean=0, var=1), normalised(through_data)),
    "codebook": (codebook, quantised),
    "counter": (buffer(lambda *_: torch.zeros((), dtype=torch.long)), lambda m, x: counted(m, x)),
    "annealing": (
        lambda m, _: m.register_buffer("steps", torch.zeros((), dtype=torch.long)),
        annealed,
    ),
    "late": (late_start, late),
    "spectral norm": (
        lambda m, w: setattr(m, "first", parametrizations.spectral_norm(nn.Linear(4, w))),
        lambda _, x: x,
    ),
    "BatchNorm": (lambda m, w: setattr(m, "norm", nn.BatchNorm1d(w)), lambda m, x: m.norm(x)),
}
"""Buffers that training changes."""


def counted(module, x):
    if module.training:
        module.kept += 1
    return x / (1 + 0.1 * module.kept)


def tracked(module, x):
    if module.training:
        module.kept = 0.9 * module.kept + 0.1 * x.detach().mean()
    return x - module.kept


def first_seen(module, x):
    if module.kept is None:
        module.kept = x.detach().mean(0)
    return x - module.kept


def remembered(module, x):
    module.kept.append(float(x.detach().mean()))
    return x - module.kept[0]


def moved(module, x):
    if module.training:
        module.kept.values = 0.9 * module.kept.values + 0.1 * x.detach().mean(0)
    return module.kept(x)


def always(module, x):
    module.mean.lerp_(x.detach().mean(0), 0.1)
    return x - module.mean


def made_in_forward(module, x):
    if not hasattr(module, "late"):
        module.late = nn.Linear(x.shape[1], x.shape[1])
    return module.late(x)


FORGOTTEN = {
    "tensor": (attribute(lambda *_: torch.zeros(())), tracked),
    "number": (attribute(lambda *_: 0.0), lambda m, x: tracked_number(m, x)),
    "counter": (attribute(lambda *_: 0), counted),
    "made at the first call": (attribute(lambda *_: None), first_seen),
    "list": (attribute(lambda *_: []), remembered),
    "object": (attribute(lambda _, w: Closure(torch.zeros(w))), moved),
    "buffer that is not persistent": (buffer(lambda *_: torch.zeros(()), persistent=False), tracked),
}
"""State that no checkpoint has."""


def tracked_number(module, x):
    if module.training:
        module.kept = 0.9 * module.kept + 0.1 * float(x.detach().mean())
    return x - module.kept


def shown(module, x):
    module.shown = x.detach()
    return x


def logged(module, x):
    module.kept += 1
    return x


def cached(module, x):
    if module.kept is None or len(module.kept) < len(x):
        module.kept = torch.linspace(0, 1, max(16, len(x)))
    return x + module.kept[: len(x), None]


PASSING = {
    "features": (lambda *_: None, shown),
    "log": (attribute(lambda *_: 0), logged),
    "table": (attribute(lambda *_: None), cached),
    "table in a buffer": (buffer(lambda *_: torch.zeros(0), persistent=False), cached),
    "moved": (buffer(lambda _, w: torch.ones(w)), lambda m, x: moved_only(m, x)),
}
"""State that changes, and changes nothing."""


def moved_only(module, x):
    module.kept = module.kept.to(x.device).clone()
    return x * module.kept


CASES = {"learnt": LEARNT, "forgotten": FORGOTTEN, "passing": PASSING}
CASES |= {"held": HELD, "indices": INDICES, "refused": REFUSED, "numbers": NUMBERS, "harmless": HARMLESS}


@nas.model
def drawing(group, case, width):
    return Drawn(width, *CASES[group][case])


def drawing_space(group, case, widths=(4, 8)):
    return nas.Space(drawing(group, case, pg.oneof(list(widths))), name="drawing")


# -- layers that read their weights when they are made


def spectral(width):
    return nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, width)), nn.ReLU(), nn.Linear(width, 3))


def old_spectral(width):
    return nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, width)), nn.ReLU(), nn.Linear(width, 3))


def weight_normed(width):
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(4, width)), nn.ReLU(), nn.Linear(width, 3))


def orthogonal_start(width):
    net = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))
    nn.init.orthogonal_(net[0].weight)
    return net


def numpy_start(width):
    net = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))
    net[0].weight.data = torch.from_numpy(np.random.randn(width, 4)).float()
    return net


def copied_from_numpy(width):
    net = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))
    with torch.no_grad():
        net[0].weight.copy_(torch.from_numpy(np.random.randn(width, 4)))
        net[2].weight /= net[2].weight.norm()
    return net


def scaled_by_a_number(width):
    net = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))
    net[0].weight.data.mul_(float(1 / net[0].weight.abs().sum()))
    return net


def asserted(width):
    net = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))
    if not net[0].weight.isfinite().all() or net[0].weight.numpy(force=True).std() == 0:
        raise ValueError("degenerate")
    return net


def pruned(width):
    net = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))
    prune.random_unstructured(net[0], "weight", amount=0.5)
    prune.l1_unstructured(net[2], "weight", amount=0.3)
    return net


class Tied(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = nn.Linear(4, width, bias=False)
        self.last = nn.Linear(4, width, bias=False)
        self.last.weight = nn.Parameter(self.first.weight)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.first(x)) + self.last(x))


READERS = [
    spectral,
    old_spectral,
    weight_normed,
    orthogonal_start,
    numpy_start,
    copied_from_numpy,
    scaled_by_a_number,
    asserted,
    pruned,
    Tied,
]
BY_NAME = {function.__name__: function for function in READERS}


@nas.model
def reading(name, width):
    return BY_NAME[name](width)


def reading_space(name, widths=(4, 8)):
    return nas.Space(reading(name, pg.oneof(list(widths))), name="reading")
