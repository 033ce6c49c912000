"""Buffers that models learn or draw are the same on all processes of a training."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import distributed

from nas.supernet import Supernet
from nas.train import Classification, Training
from nas.train.ranks import Group
from tests.supernet.stateful import drawing_space
from tests.train.ranks import Found, in_ranks

CASES = [
    ("learnt", "in place"),
    ("learnt", "assigned"),
    ("learnt", "codebook"),
    ("learnt", "annealing"),
    ("learnt", "spectral norm"),
    ("held", "from numpy's generator without a seed"),
    ("held", "mask"),
    ("indices", "permutation"),
    ("harmless", "nothing"),
]


def task() -> Classification:
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return Classification(train=(x[:48], y[:48]), valid=(x[48:], y[48:]), batch=16)


def learnt() -> Found:
    torch.manual_seed(distributed.get_rank())
    found: Found = {}
    for group, case in CASES:
        net = Supernet(drawing_space(group, case))
        before = {name: tensor.clone() for name, tensor in net.named_buffers()}
        state = Training(net, task(), steps=5).run(progress=False, ranks=Group()).supernet.state_dict()
        found |= {f"{group} {case} {name}": value for name, value in state.items()}
        if group == "held":
            found[f"{case} stays"] = torch.tensor(torch.equal(before["kept"], state["kept"]))
    return found


def test_ranks_agree_about_every_buffer(tmp_path: Path) -> None:
    ours, theirs = in_ranks(2, learnt, tmp_path)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if not name.endswith("stays"))
    assert ours["mask stays"]
    assert theirs["mask stays"]
    assert ours["from numpy's generator without a seed stays"], "the first rank's are everybody's"
    assert ours["learnt in place mean"].abs().min() > 0
    assert ours["learnt annealing steps"] > 0
