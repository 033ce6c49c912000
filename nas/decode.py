"""Generating text token by token: greedily, with early exits, and with an early exit that drafts for the full depth.

One cache of keys and values serves all exits of a model, because a shallow exit runs the first layers of the deep one.  What
a token has not passed yet waits between two exits (`_Session`), so no layer ever sees a token twice: an early exit's missing
keys and values are computed when a deeper layer is first needed, all waiting tokens at once, and a verification goes on
from where the draft stopped (Elhoushi et al. 2024, "LayerSkip"; Kavehzadeh et al. 2024, "Sorted LLaMA").

- `greedy`: the reference.
- `early_exit`: each token comes from the first exit that is sure of it.
- `speculative`: an early exit drafts, the full depth verifies; the same tokens as `greedy`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from nas.errors import DecodeError

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 2e-2}
"""How near the two best logits may be, as a fraction of the largest magnitude, before the order of summation may swap them."""


class Cache:
    """Keys and values of every layer, for as many positions as each has seen.

    Args:
        layers: of the model.
        capacity: positions that there is room for.
    """

    def __init__(self, layers: int, capacity: int) -> None:
        self.capacity = capacity
        self.lengths = [0] * layers
        self._keys: list[Tensor | None] = [None] * layers
        self._values: list[Tensor | None] = [None] * layers

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Those of new positions, (n, heads, new, head), are added; gives those of all positions, as views."""
        start = self.lengths[layer]
        stop = start + keys.shape[2]
        held = []
        for tables, new in ((self._keys, keys), (self._values, values)):
            table = tables[layer]
            if table is None:
                table = tables[layer] = new.new_empty(*new.shape[:2], self.capacity, new.shape[3])
            table[:, :, start:stop] = new
            held.append(table[:, :, :stop])
        self.lengths[layer] = stop
        return held[0], held[1]

    def truncate(self, length: int) -> None:
        """Forget the positions from `length` on."""
        self.lengths = [min(length, held) for held in self.lengths]


class Decoder(Protocol):
    """A language model whose layers can be run apart.

    Attributes:
        extent: number of layers.
        context: positions that it can tell apart.
    """

    extent: int
    context: int

    def embed(self, tokens: Tensor) -> Tensor:
        """(n, new) -> (n, new, width)."""

    def run(self, x: Tensor, start: int, stop: int, cache: Cache | None = None) -> Tensor:
        """Layers start … stop − 1 on the positions that come after those in the cache, which is extended."""

    def head(self, x: Tensor) -> Tensor:
        """The exit that all depths share: (n, new, width) -> logits (n, new, vocabulary)."""


@dataclass
class Generated:
    """What was generated, and what it took."""

    tokens: Tensor
    """(n, new) int64, without the prompt."""
    passes: int = 0
    """Times that the deepest layers were run after the prompt."""
    drafted: int = 0
    accepted: int = 0
    """Drafted tokens that the full depth agreed with."""
    replayed: int = 0
    """Steps of the reference that near ties asked for."""
    exits: list[int] = field(default_factory=list)
    """Depth that each token came from (`early_exit`)."""


@torch.no_grad()
def greedy(model: Decoder, prompt: Tensor, new: int) -> Generated:
    """The likeliest token at each step, by the full depth.

    Args:
        model: in eval mode.
        prompt: (n, length) int64.
        new: tokens to generate.

    Raises:
        DecodeError: the prompt is empty, or too long for the model with what is to be generated.
    """
    session = _Session(model, _checked(model, prompt, new), new, [model.extent])
    tokens = [_best(session.logits()[:, -1:])]
    while len(tokens) < new:
        session.push(tokens[-1])
        tokens.append(_best(session.logits()[:, -1:]))
    return Generated(torch.cat(tokens, 1), passes=new - 1)


@torch.no_grad()
def early_exit(model: Decoder, prompt: Tensor, new: int, *, exits: Sequence[int], confidence: float) -> Generated:
    """Each token from the first exit whose largest probability is `confidence` or more, else from the full depth.

    Schuster et al. 2022, "Confident Adaptive Language Modeling", with one deviation: deeper layers get the keys and values
    that they would have computed, not copies of the exit's, so a token's text alone decides what follows it.

    Args:
        model: in eval mode.
        prompt: (1, length) int64.
        new: tokens to generate.
        exits: depths to ask, besides the full one.
        confidence: in (0, 1]; above it a token leaves.

    Raises:
        DecodeError: as `greedy`; an exit is no depth of the model; the confidence is not a probability.
    """
    if not 0.0 < confidence <= 1.0:
        raise DecodeError(f"confidence={confidence} is not a probability in (0, 1]")
    depths = _depths(model, exits)
    session = _Session(model, _single(_checked(model, prompt, new)), new, depths)
    result = Generated(prompt)
    tokens: list[Tensor] = []
    while len(tokens) < new:
        if tokens:
            session.push(tokens[-1])
        for place, depth in enumerate(depths, 1):
            scores = session.logits(place)[:, -1:]
            if depth == model.extent or float(scores.float().softmax(-1).max()) >= confidence:
                break
        tokens.append(_best(scores))
        result.exits.append(depth)
        result.passes += depth == model.extent and len(tokens) > 1
    result.tokens = torch.cat(tokens, 1)
    return result


@torch.no_grad()
def speculative(model: Decoder, prompt: Tensor, new: int, *, exit_: int, draft: int = 4) -> Generated:
    """The tokens of `greedy`, faster where an exit is often right: it drafts some, the other layers verify all at once.

    Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding", for greedy choices.  Verifying several
    positions at once sums in another order than one at a time, which may swap two logits that are nearly the same: where the
    best two are nearer than `TOLERANCE`, the full model is run one token at a time, as `greedy` does, and its choice is taken.

    Args:
        model: in eval mode.
        prompt: (1, length) int64.
        new: tokens to generate.
        exit_: depth that drafts.
        draft: tokens drafted before each verification.

    Raises:
        DecodeError: as `greedy`; the exit is no depth of the model, or its last; nothing is to be drafted.
    """
    if draft < 1:
        raise DecodeError(f"draft={draft} drafts nothing; choose 1 or more")
    depths = _depths(model, [exit_])
    if exit_ == model.extent:
        raise DecodeError(
            f"exit_={exit_} is the model's full depth and cannot draft for itself; choose 1 to {exit_ - 1}"
        )
    session = _Session(model, _single(_checked(model, prompt, new)), new, depths)
    reference = _Reference(model, prompt, new)
    result = Generated(prompt)
    tokens = _verified(session.logits()[0, -1:], [], reference)
    while len(tokens) < new:
        start = session.length
        session.push(_row(session.device, tokens[-1]))
        guesses: list[int] = []
        for _ in range(min(draft, new - len(tokens) - 1)):
            guesses.append(int(_best(session.logits(1)[:, -1:])))
            session.push(_row(session.device, guesses[-1]))
        scores = session.logits()[0]  # (1 + guesses, vocabulary)
        right = 0
        for right, guess in enumerate([*guesses, None]):
            tokens += _verified(scores[right : right + 1], tokens, reference)
            if tokens[-1] != guess:
                break
        session.truncate(start + 1 + right)
        result.passes += 1
        result.drafted += len(guesses)
        result.accepted += right
    result.tokens = torch.tensor([tokens], device=prompt.device)
    result.replayed = reference.steps
    return result


class _Session:
    """A text on its way through a model: which tokens have passed which exit, and their features there.

    Args:
        model: runs them.
        prompt: pushed at once.
        new: tokens that there must be room for.
        depths: where features may wait, ascending; the last is the full depth.
    """

    def __init__(self, model: Decoder, prompt: Tensor, new: int, depths: Sequence[int]) -> None:
        self.model, self.depths = model, [0, *depths]
        self.cache = Cache(model.extent, prompt.shape[1] + new)
        self.passed = [0] * len(self.depths)  # positions that have reached each depth
        self.waiting: list[list[Tensor]] = [[] for _ in self.depths]  # between this depth and the next
        self.device = prompt.device
        self.push(prompt)

    @property
    def length(self) -> int:
        """Tokens pushed."""
        return self.passed[0]

    def push(self, tokens: Tensor) -> None:
        """(n, new) tokens begin their way."""
        self.waiting[0].append(self.model.embed(tokens))
        self.passed[0] += tokens.shape[1]

    def logits(self, place: int = -1) -> Tensor:
        """Of the tokens that had not yet reached depth number `place` (by default the full one): (n, those, vocabulary)."""
        place %= len(self.depths)
        for index, (start, stop) in enumerate(itertools.pairwise(self.depths[: place + 1])):
            if not self.waiting[index]:
                continue
            here = self.waiting[index]
            x = self.model.run(here[0] if len(here) == 1 else torch.cat(here, 1), start, stop, self.cache)
            self.waiting[index] = []
            self.waiting[index + 1].append(x)
            self.passed[index + 1] = self.passed[index]
        arrived = self.waiting[place][-1]
        if place == len(self.depths) - 1:
            self.waiting[place] = []
        return self.model.head(arrived)

    def truncate(self, length: int) -> None:
        """Forget the tokens from `length` on."""
        self.cache.truncate(length)
        self.passed = [min(length, passed) for passed in self.passed]
        for index, (ours, theirs) in enumerate(itertools.pairwise(self.passed)):
            if self.waiting[index]:
                kept = torch.cat(self.waiting[index], 1)[:, : ours - theirs]
                self.waiting[index] = [kept] if kept.shape[1] else []


class _Reference:
    """What `greedy` would compute, one token at a time; run only as far as somebody asks."""

    def __init__(self, model: Decoder, prompt: Tensor, new: int) -> None:
        self._model, self._prompt, self._new = model, prompt, new
        self._session: _Session | None = None
        self._seen = 0
        self.steps = 0

    def after(self, tokens: Sequence[int]) -> int:
        """The full model's choice after the prompt and these tokens, which grow from call to call."""
        if self._session is None:
            self._session = _Session(self._model, self._prompt, self._new, [self._model.extent])
            self._best = int(_best(self._session.logits()[:, -1:]))
        for token in tokens[self._seen :]:
            self._session.push(_row(self._session.device, token))
            self._best = int(_best(self._session.logits()[:, -1:]))
            self.steps += 1
        self._seen = len(tokens)
        return self._best


def _verified(scores: Tensor, tokens: Sequence[int], reference: _Reference) -> list[int]:
    """The choice after `tokens`, by (1, vocabulary) logits, or by the reference where these cannot tell."""
    first, second = scores[0].float().topk(2).values.tolist()
    near = TOLERANCE.get(scores.dtype, 0.1) * max(1.0, float(scores.abs().max()))
    if first - second > near:
        return [int(scores.argmax())]
    return [reference.after(tokens)]


def _best(scores: Tensor) -> Tensor:
    """(n, 1, vocabulary) -> (n, 1)."""
    return scores.argmax(-1)


def _row(device: torch.device, token: int) -> Tensor:
    return torch.tensor([[token]], device=device)


def _checked(model: Decoder, prompt: Tensor, new: int) -> Tensor:
    if prompt.dim() != 2 or not prompt.shape[1]:
        raise DecodeError(f"the prompt is of shape {tuple(prompt.shape)}; give (samples, tokens) with a token or more")
    if new < 1:
        raise DecodeError(f"new={new} generates nothing; choose 1 or more")
    if prompt.shape[1] + new > model.context:
        raise DecodeError(
            f"{prompt.shape[1]} tokens of prompt and {new} new ones are more than the model's context of {model.context}"
        )
    return prompt


def _single(prompt: Tensor) -> Tensor:
    if prompt.shape[0] != 1:
        raise DecodeError(
            f"{prompt.shape[0]} prompts were given; texts leave at exits of their own, so give one at a time"
        )
    return prompt


def _depths(model: Decoder, exits: Sequence[int]) -> list[int]:
    for depth in exits:
        if not 1 <= depth <= model.extent:
            raise DecodeError(
                f"exit {depth} is no depth of a model of {model.extent} layers; choose 1 to {model.extent}"
            )
    return sorted({*exits, model.extent})
