"""What relates the samples of a batch to each other, computed over the batch of all ranks.

BatchNorm in training mode takes its statistics over all ranks' rows, and so does its backward (as in torch's SyncBatchNorm, which
is for GPUs only): without that a training on N processes normalises by batches of one Nth, and is another training.  A loss that
compares samples of a batch asks for `whole` features, and gets everybody's.  Outside the block of `synced` (evaluation,
calibration, training alone) both are what they always are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from nas.train.ranks import Ranks, Share, lost


@dataclass(frozen=True)
class _Now:
    """Whose step is made."""

    ranks: Ranks
    share: Share


_now: ContextVar[_Now | None] = ContextVar("nas_synced", default=None)


@contextlib.contextmanager
def synced(ranks: Ranks, share: Share) -> Iterator[None]:
    """The forward passes of one step; with one rank nothing is changed."""
    if ranks.size == 1:
        yield
        return
    token = _now.set(_Now(ranks, share))
    try:
        with _Norms(ranks):
            yield
    finally:
        _now.reset(token)


def whole(features: Tensor) -> Tensor:
    """The rows of all ranks in the order of the batch, of features whose first axis is the batch's (or a multiple of it).

    For a loss that is no mean over samples.  Every rank computes it on the same rows and hands its gradients to its own.
    """
    now = _now.get()
    if now is None:
        return features
    found: Tensor = _Whole.apply(features, now.share)  # type: ignore[no-untyped-call]
    return found


class _Whole(torch.autograd.Function):
    """Rows put where they belong; summed over ranks they are the batch."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, share: Share) -> Tensor:
        rows, more = divmod(len(own), share.stop - share.start)
        assert not more, "features have as many rows for each sample"
        full = own.new_zeros((share.total * rows, *own.shape[1:]))
        ctx.place = slice(share.start * rows, share.stop * rows)
        ctx.weight = share.weight
        full[ctx.place] = own
        with lost():
            distributed.all_reduce(full)
        return full

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # A rank's loss counts as much as its share, and what was computed of all rows is the same on all ranks.
        return gradients[0][ctx.place] / ctx.weight, None


class _Norms(TorchFunctionMode):
    """Takes the calls of `torch.nn.functional.batch_norm`: whoever makes them, nothing is changed in the model."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self._ranks = ranks

    def __torch_function__(
        self,
        function: Callable[..., Any],
        kinds: Any,
        given: tuple[Any, ...] = (),
        options: dict[str, Any] | None = None,
    ) -> Any:
        options = options or {}
        if function is not functional.batch_norm:
            return function(*given, **options)
        return _batch_norm(self._ranks, function, *given, **options)


def _batch_norm(  # noqa: PLR0917 (the order is torch's)
    ranks: Ranks,
    original: Callable[..., Any],
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """`functional.batch_norm` over the batch of all ranks."""
    if not training:
        return original(x, running_mean, running_var, weight, bias, training, momentum, eps)
    now = _now.get()
    assert now is not None
    if x.numel() == x.shape[1] and now.share.total == 1:
        raise ValueError(f"BatchNorm needs more than 1 value per channel when training, got {tuple(x.shape)}")
    mean, var, count = _statistics(x.detach(), ranks)
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        if running_var is not None:
            running_var.lerp_((var * (count / (count - 1))).to(running_var.dtype), momentum)
    return _Normalised.apply(x, weight, bias, mean, var, count, eps)  # type: ignore[no-untyped-call]


def _statistics(x: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance of each channel, and elements of a channel, over all ranks (Chan et al. 1979: no cancellation).

    Nothing here waits for a GPU.
    """
    dims = [0, *range(2, x.ndim)]
    x = x if x.dtype == torch.float64 else x.float()
    mean = x.mean(dims)
    # Two passes, which take a CPU a tenth of the time of torch.var_mean over such dimensions.
    var = (x - mean.view(1, -1, *[1] * (x.ndim - 2))).square_().mean(dims)
    own = torch.cat([mean, var, mean.new_full((1,), x.numel() / len(mean))])
    parts = [torch.empty_like(own) for _ in range(ranks.size)]
    with lost():
        distributed.all_gather(parts, own)
    means, variances, counts = torch.split(torch.stack(parts), [len(mean), len(mean), 1], 1)  # (ranks, channels) each
    count = counts.sum()
    shares = counts / count
    mean = (shares * means).sum(0)
    return mean, (shares * (variances + (means - mean) ** 2)).sum(0), count


class _Normalised(torch.autograd.Function):
    """y = weight · (x − mean) / √(var + eps) + bias, where mean and variance are functions of the x of all ranks."""

    @staticmethod
    def forward(  # noqa: PLR0917 (autograd gives them by place)
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        count: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps = eps
        # Straight to the operator: it must not come back to the mode that called this.
        return torch.batch_norm(x, weight, bias, mean, var, False, 0.0, eps, torch.backends.cudnn.enabled)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var, count = ctx.saved_tensors
        scale = torch.ones_like(mean) if weight is None else weight
        # As if the statistics were constants; on the way the sums come out that say what they are not.
        own, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(
            gradients[0], x, scale, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        if ctx.needs_input_grad[0]:
            sums = torch.stack([by_bias, by_weight]).to(mean.dtype)
            with lost():
                distributed.all_reduce(sums)
            inverse = (var + ctx.eps).rsqrt()
            shift, slope = (sums / count) * (scale * inverse)
            shape = (1, -1, *[1] * (x.ndim - 2))
            through = torch.addcmul(shift.view(shape), x - mean.view(shape), (slope * inverse).view(shape))
            own = (own - through).to(x.dtype)
        needs = ctx.needs_input_grad
        return (
            own if needs[0] else None,
            by_weight if needs[1] else None,
            by_bias if needs[2] else None,
            None,
            None,
            None,
            None,
        )
