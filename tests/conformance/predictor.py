"""What every predictor must do; each implementation inherits the suite and says how it is made.

The device is a closed form: a base, plus what each decision adds, plus one product.  Every implementation must follow it.
"""

from __future__ import annotations

import itertools
import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyglove as pg
import pytest
import torch
from torch import nn

import nas
from nas.errors import PredictorError
from nas.predict import Packed, Predictor, scores
from nas.space import Arch, Space

EXAMPLE = torch.zeros(1, 8)


@nas.model
def mlp(*, width: int, layers: int, last: int) -> nn.Module:
    """`layers` hidden layers of `width`, then one of `last`."""
    model = nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise([8, *[width] * layers])))
    model.head = nn.Linear(width, last)
    return model


@cache
def space() -> Space:
    """225 archs."""
    value = mlp(
        width=pg.oneof([8, 12, 16, 20, 24]),
        layers=pg.oneof([1, 2, 3, 4, 5]),
        last=pg.oneof([4, 5, 6, 7, 8, 9, 10, 11, 12]),
    )
    return Space(value, name="toy")


@cache
def other() -> Space:
    return Space(mlp(width=pg.oneof([8, 16]), layers=pg.oneof([1, 2]), last=4), name="other")


def truth(arch: Arch, speed: float = 1.0) -> float:
    """Milliseconds: operations and layers."""
    choices = arch.choices
    width, layers, last = choices["width"], choices["layers"], choices["last"]
    macs = 8 * width + (layers - 1) * width**2 + width * last
    return speed * (0.2 + 0.001 * macs + 0.05 * (layers + 1))


def archs(count: int, seed: int) -> list[Arch]:
    rng = random.Random(seed)
    found: dict[Arch, None] = {}
    while len(found) < count:
        found[space().sample(rng)] = None
    return list(found)


class PredictorConformance:
    """Inherit it and give `make`; `least` and `good` say what may be expected."""

    shots = 60
    good = 0.15
    """Largest mean relative error on unseen archs."""

    def make(self) -> Predictor:
        raise NotImplementedError

    def fit(self, speed: float = 1.0) -> Predictor:
        shots = archs(self.shots, 1)
        return self.make().fit(shots, [truth(arch, speed) for arch in shots])

    def fitted(self) -> Predictor:
        """One for all tests of a class: asking it, or keeping it, does not change it."""
        return _fitted(type(self))

    def test_unseen_archs_are_predicted(self) -> None:
        unseen = archs(80, 2)
        value, spread = self.fitted().predict(unseen)
        assert value.shape == spread.shape == (80,)
        assert (value > 0).all()
        assert (spread > 0).all()
        found = scores(np.array([truth(arch) for arch in unseen]), value)
        assert found["mape"] <= self.good
        assert found["spearman"] >= 0.9

    def test_the_held_out_error_is_kept(self) -> None:
        one = self.fitted()
        assert set(one.errors) >= {"mape", "within10", "spearman", "archs"}
        assert one.errors["archs"] == self.shots
        assert 0.0 <= one.errors["mape"] <= 2 * self.good

    def test_twice_the_time_is_twice_the_prediction(self) -> None:
        unseen = archs(20, 2)
        once, twice = (one.predict(unseen)[0] for one in (self.fitted(), self.fit(speed=2.0)))
        assert twice == pytest.approx(2 * once, rel=0.02)

    def test_the_same_data_gives_the_same_predictor(self) -> None:
        unseen = archs(20, 3)
        for a, b in zip(self.fitted().predict(unseen), self.fit().predict(unseen), strict=True):
            assert a == pytest.approx(b, rel=1e-9)

    def test_the_order_of_questions_does_not_matter(self) -> None:
        one, unseen = self.fitted(), archs(20, 3)
        value = one.predict(unseen)[0]
        assert one.predict(unseen[::-1])[0][::-1] == pytest.approx(value, rel=1e-9)
        assert one.predict(unseen[5:6])[0][0] == pytest.approx(value[5], rel=1e-9)

    def test_saved_and_loaded_it_predicts_the_same(self, tmp_path: Path) -> None:
        one, unseen = self.fitted(), archs(30, 4)
        one.save(tmp_path / "p.npz")
        again = Predictor.load(tmp_path / "p.npz", space())
        assert type(again) is type(one)
        assert (again.device, again.errors) == (one.device, one.errors)
        for ours, theirs in zip(one.predict(unseen), again.predict(unseen), strict=True):
            assert theirs == pytest.approx(ours, rel=1e-6)

    def test_what_is_kept_is_json_and_plain_arrays(self) -> None:
        packed = self.fitted().pack()
        text = json.dumps(packed.state, allow_nan=False)
        for array in packed.arrays.values():
            assert array.dtype.kind in "fiu"
        again = Packed.of_bytes(packed.kind, json.loads(text), packed.array_bytes())
        value = Predictor.unpack(again, space()).predict(archs(3, 5))[0]
        assert value == pytest.approx(self.fitted().predict(archs(3, 5))[0], rel=1e-6)

    def test_nothing_asked_is_nothing_told(self) -> None:
        value, spread = self.fitted().predict([])
        assert value.shape == spread.shape == (0,)

    def test_another_space_is_one_sentence(self, tmp_path: Path) -> None:
        one = self.fitted()
        with pytest.raises(PredictorError, match=r"knows space 'toy' .* was asked about an arch of space 'other'"):
            one.predict([other().smallest])
        one.save(tmp_path / "p.npz")
        with pytest.raises(PredictorError, match=r"knows space 'toy' .* asked about space 'other'.*nas predictor fit"):
            Predictor.load(tmp_path / "p.npz", other())

    @pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
    def test_a_latency_that_is_none_is_refused(self, value: float) -> None:
        some = archs(self.shots, 1)
        with pytest.raises(PredictorError, match="is no positive number"):
            self.make().fit(some, [value, *[1.0] * (self.shots - 1)])

    def test_too_few_and_uneven_data_are_refused(self) -> None:
        some = archs(6, 1)
        with pytest.raises(PredictorError, match="give one for each arch"):
            self.make().fit(some, [1.0])
        with pytest.raises(PredictorError, match="1 measurements are too few"):
            self.make().fit(some[:1], [1.0])

    def test_an_unfitted_predictor_says_so(self) -> None:
        for ask in (lambda: self.make().predict(archs(1, 1)), lambda: self.make().pack()):
            with pytest.raises(PredictorError, match="is not fitted; call fit first"):
                ask()

    def test_a_damaged_file_is_one_sentence(self, tmp_path: Path) -> None:
        one = self.fitted()
        one.save(tmp_path / "p.npz")
        content = (tmp_path / "p.npz").read_bytes()
        for broken in (content[: len(content) // 2], b"nothing", b""):
            (tmp_path / "p.npz").write_bytes(broken)
            with pytest.raises(PredictorError, match="holds no predictor"):
                Predictor.load(tmp_path / "p.npz", space())
        packed: Any = one.pack()
        with pytest.raises(PredictorError, match="are damaged"):
            Packed.of_bytes(packed.kind, packed.state, b"PK\x03\x04")


@cache
def _fitted(suite: type[PredictorConformance]) -> Predictor:
    return suite().fit()
