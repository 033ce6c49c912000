"""Checkpoints: atomic, mapped, never code; every way in which one can be wrong."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import threading

import pytest
import torch

from nas import sealed
from nas.errors import CheckpointError, SupernetError
from nas.supernet import CentreCrop, KernelTransform, Layout, Supernet, checkpoint
from tests.supernet import families


@pytest.fixture(scope="module")
def space():
    return families.linear_space()


@pytest.fixture
def saved(space, tmp_path):
    net = Supernet(space, example=torch.zeros(2, 3))
    net.save(tmp_path / "net")
    return tmp_path / "net"


def weights(folder):
    return next(folder.glob("*.safetensors"))


def edit(folder, change):
    index, _ = sealed.unseal((folder / "supernet.json").read_bytes())
    change(index)
    (folder / "supernet.json").write_bytes(sealed.seal(index))


def test_everything_is_kept(tmp_path):
    layouts = {"0.weight": KernelTransform((7, 5, 3)), "2.weight": CentreCrop((2, 3))}
    net = Supernet(families.kernels_space(), layouts=layouts, example={"input": torch.zeros(1, 2, 9, 9), "flag": True})
    net.get_parameter("0.bias").requires_grad_(False)
    net.save(tmp_path)
    again = Supernet.load(tmp_path, net.space)
    assert {name: p.requires_grad for name, p in again.named_parameters()} == {
        name: p.requires_grad for name, p in net.named_parameters()
    }
    assert again.example["input"].shape == (1, 2, 9, 9)
    assert again.example["flag"] is True
    x = torch.randn(1, 2, 9, 9)
    for arch in net.space.enumerate():
        torch.testing.assert_close(again(x, arch), net(x, arch))


def test_forms_of_examples(space, tmp_path):
    for example in (torch.zeros(2, 3, dtype=torch.int64), (torch.zeros(1, 3), 2.5), {"a": torch.ones(1)}, None):
        net = Supernet(space, example=example)
        net.save(tmp_path)
        again = Supernet.load(tmp_path, space).example
        assert type(again) is type(example)
        if isinstance(example, torch.Tensor):
            assert (again.shape, again.dtype) == (example.shape, example.dtype)


def test_layout_is_kept(tmp_path):
    net = Supernet(families.attention_mlp_space(), layouts={"attention.in_proj_weight": Layout("(a b c) in", a=3, b=2)})
    net.save(tmp_path)
    again = Supernet.load(tmp_path, net.space)
    arch = net.space.smallest
    assert torch.equal(again.cut(arch)["attention.in_proj_weight"], net.cut(arch)["attention.in_proj_weight"])
    assert not torch.equal(
        again.cut(arch)["attention.in_proj_weight"],
        Supernet(net.space).cut(arch)["attention.in_proj_weight"],
    )


def test_nothing_in_it_is_code(saved):
    assert sorted(path.suffix for path in saved.iterdir()) == [".json", ".safetensors"]


def test_writes_to_mapped_weights_stay_private(saved, space):
    content = weights(saved).read_bytes()
    first, second = Supernet.load(saved, space), Supernet.load(saved, space)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()
    assert all(parameter.any() for parameter in second.parameters())
    assert weights(saved).read_bytes() == content
    assert Supernet.load(saved, space).source == second.source


def test_saving_again_replaces(saved, space):
    net = Supernet.load(saved, space)
    old, source = weights(saved), net.source
    with torch.no_grad():
        net.get_parameter("0.weight").add_(1)
    assert net.source is None
    digest = net.save(saved)
    assert net.source == (saved, digest) != source
    assert not old.exists()
    assert len(list(saved.iterdir())) == 2
    assert torch.equal(Supernet.load(saved, space).get_parameter("0.weight"), net.get_parameter("0.weight"))


def test_an_interrupted_save_leaves_the_old_one(saved, space, monkeypatch):
    net = Supernet(space, seed=5)
    before = Supernet.load(saved, space)
    for step in ("_write_weights", "_write"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, step, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                net.save(saved)
        assert Supernet.load(saved, space).source == before.source
    assert net.source is None
    net.save(saved)
    assert len(list(saved.iterdir())) == 2


def test_saves_while_others_load(saved, space):
    """A reader sees one save or another, never a mixture."""
    nets = [Supernet(space, seed=seed) for seed in range(2)]
    digests = {net.save(saved) for net in nets}
    stop = threading.Event()

    def save():
        while not stop.is_set():
            for net in nets:
                net.save(saved)

    thread = threading.Thread(target=save)
    thread.start()
    try:
        for _ in range(30):
            assert Supernet.load(saved, space).source[1] in digests
    finally:
        stop.set()
        thread.join()


def test_a_checkpoint_replaced_while_it_is_read_is_read_again(saved, space, monkeypatch):
    read, digests = checkpoint._read_weights, []

    def late(*arguments, **keywords):
        if not digests:  # between the index and the weights
            digests.append(Supernet(space, seed=7).save(saved))
        return read(*arguments, **keywords)

    monkeypatch.setattr(checkpoint, "_read_weights", late)
    assert Supernet.load(saved, space).source[1] == digests[0]


def test_weights_taken_away_while_they_are_hashed_are_looked_for_again(saved, space, monkeypatch):
    digest, digests = sealed.digest, []

    def late(path):
        if not digests:
            digests.append("")
            digests.append(Supernet(space, seed=7).save(saved))
        return digest(path)

    monkeypatch.setattr(checkpoint.sealed, "digest", late)
    assert Supernet.load(saved, space).source[1] == digests[1]


# -- what is wrong with it


def refusal(folder, space, **options):
    with pytest.raises(CheckpointError) as error:
        Supernet.load(folder, space, **options)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_missing(tmp_path, space):
    assert "does not exist; give the folder" in refusal(tmp_path / "nowhere", space)


def test_foreign(tmp_path, space):
    assert "is not a supernet checkpoint: it has no supernet.json" in refusal(tmp_path, space)
    (tmp_path / "supernet.json").write_text("[1, 2]")
    assert "was not written by Supernet.save" in refusal(tmp_path, space)
    (tmp_path / "supernet.json").write_text('{"format": "other"}')
    assert "was not written by Supernet.save" in refusal(tmp_path, space)
    (tmp_path / "file").write_text("x")
    assert "is not a supernet checkpoint" in refusal(tmp_path / "file", space)


def test_truncated_index(saved, space):
    index = saved / "supernet.json"
    index.write_text(index.read_text()[:-30])
    assert "cannot be read" in refusal(saved, space)
    index.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in refusal(saved, space)


def test_incomplete_index(saved, space):
    edit(saved, lambda index: index.pop("names"))
    assert "lacks names" in refusal(saved, space)
    edit(saved, lambda index: index.update(names=["0.weight"], parameters={}))
    assert "cannot be read" in refusal(saved, space)


def test_newer(saved, space):
    edit(saved, lambda index: index.update(version=2))
    assert "has format version 2, and this code reads up to 1; upgrade supernas" in refusal(saved, space)


def test_another_space(saved, space):
    other = families.linear_space((4, 9), name="other")
    text = refusal(saved, other)
    assert "is of space 'linear' version 1" in text
    assert "not of 'other' version 1" in text


def test_weights_missing_truncated_or_altered(saved, space):
    file = weights(saved)
    content = file.read_bytes()
    file.unlink()
    assert "are missing" in refusal(saved, space)
    file.write_bytes(content[:-10])
    assert f"have {len(content) - 10} bytes and were saved with {len(content)}" in refusal(saved, space)
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "their hash differs" in refusal(saved, space)
    Supernet.load(saved, space, verify=False)
    file.write_bytes(b"\x00" * len(content))
    assert "cannot be read" in refusal(saved, space, verify=False)


def test_weights_of_other_names_or_shapes(saved, space):
    edit(saved, lambda index: index["parameters"]["0.weight"].update(shape=[9, 3]))
    assert "has no weights for '0.weight' of shape (9, 3)" in refusal(saved, space)


def test_unknown_cut(saved, space):
    edit(saved, lambda index: index["parameters"]["0.weight"].update(cut={"kind": "diagonal"}))
    assert "parameter '0.weight': cut of kind 'diagonal' is unknown" in refusal(saved, space)
    edit(saved, lambda index: index["parameters"]["0.weight"].update(cut={"kind": "centre_crop", "sides": 3}))
    assert "parameter '0.weight'" in refusal(saved, space)


def test_folder_that_cannot_be_written(tmp_path, space):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="supernet cannot be saved in"):
        Supernet(space).save(tmp_path / "file" / "net")


# -- travelling


def test_a_supernet_travels_as_its_path_and_hash(saved, space):
    net = Supernet.load(saved, space)
    data = pickle.dumps(net)
    assert len(data) < 4_000
    revived = pickle.loads(data)
    assert "not loaded yet" in repr(revived)
    assert revived.source == net.source
    assert revived.space.name == "linear"
    assert pickle.loads(pickle.dumps(revived)).source == net.source  # still without reading anything
    assert "not loaded yet" in repr(revived)
    assert revived.eval().training is False
    x = torch.randn(2, 3)
    torch.testing.assert_close(revived(x, space.smallest), net(x, space.smallest))
    assert pickle.loads(data) is revived  # once a process


def test_a_revived_supernet_that_was_written_to_is_not_given_out_again(saved, space):
    data = pickle.dumps(Supernet.load(saved, space))
    revived = pickle.loads(data)
    with torch.no_grad():
        revived.get_parameter("0.weight").zero_()
    again = pickle.loads(data)
    assert again is not revived
    assert again.get_parameter("0.weight").any()


def test_never_saved_or_changed_since_says_so(saved, space):
    with pytest.raises(SupernetError, match="never saved or changed since; save it first"):
        pickle.dumps(Supernet(space))
    changes = [
        lambda net: net.load_state_dict(net.state_dict()),
        lambda net: torch.optim.SGD(net.parameters(), lr=0.1).step(),
        lambda net: net.double(),
    ]
    for change in changes:
        net = Supernet.load(saved, space)
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
        pickle.dumps(net)
        change(net)
        with pytest.raises(SupernetError, match="save it first"):
            pickle.dumps(net)


def test_training_statistics_count_as_a_change(tmp_path):
    net = Supernet(families.mixed_space())
    net.save(tmp_path)
    net.eval()(torch.randn(4, 5), net.space.smallest)
    assert net.source is not None
    net.train()(torch.randn(4, 5), net.space.smallest)
    assert net.source is None


def test_a_checkpoint_saved_again_is_another(saved, space):
    data = pickle.dumps(Supernet.load(saved, space))
    Supernet(space, seed=9).save(saved)
    with pytest.raises(CheckpointError, match="it was saved again since"):
        pickle.loads(data).params(space.largest)


def test_a_checkpoint_that_is_gone_is_an_error_at_first_use(saved, space):
    revived = pickle.loads(pickle.dumps(Supernet.load(saved, space)))
    shutil.rmtree(saved)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="does not exist"):
            revived(torch.zeros(1, 3), space.largest)


def test_another_process_computes_the_same(saved, space):
    net = Supernet.load(saved, space).eval()
    code = (
        "import pickle, sys, torch\n"
        "net = pickle.load(sys.stdin.buffer).eval()\n"
        "print(net(torch.ones(1, 3), net.space.smallest).tolist())"
    )
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(net),
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), paths])},
    )
    assert done.stdout.decode().strip() == str(net(torch.ones(1, 3), space.smallest).tolist())
