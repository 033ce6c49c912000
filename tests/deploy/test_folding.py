"""Folding: layers go, outputs stay; what cannot be merged stays and says why."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import nas
from nas.deploy import Folded
from nas.errors import DeployError
from nas.supernet.inputs import call
from nas.supernet.rounding import first_difference, gap

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def stirred(module: nn.Module, seed: int = 0) -> nn.Module:
    """With numbers of their own in every tensor: defaults of ones and zeros would hide a wrong merge."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                low = 0.5 if name.endswith("running_var") else -1.0
                tensor.copy_(low + 1.5 * torch.rand(tensor.shape, generator=generator))
    return module.eval()


def folded(module: nn.Module, example: Any, **options: Any) -> Folded:
    """Folded, and compared with itself here, on inputs that `fold` has not seen."""
    before = copy.deepcopy(module.state_dict())
    done = nas.fold(module, example, **options)
    assert first_difference(before, module.state_dict()) is None
    assert type(done.module) is type(module)
    assert not done.module.training
    generator = torch.Generator().manual_seed(7)

    def other(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator).to(tensor) if tensor.is_floating_point() else tensor

    inputs = other(example) if isinstance(example, Tensor) else example
    with torch.no_grad():
        found = gap(module.eval(), lambda given: call(done.module, given), inputs)
    assert found.same, found
    return done


# -- layers


@settings(max_examples=25, deadline=None)
@given(
    axes=st.integers(1, 3),
    transposed=st.booleans(),
    bias=st.booleans(),
    affine=st.booleans(),
    groups=st.sampled_from([1, 2, 4]),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 1),
    mode=st.sampled_from(["zeros", "circular"]),
    type_=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 100),
)
def test_a_convolution_and_its_norm_become_one(
    axes: int,
    transposed: bool,
    bias: bool,
    affine: bool,
    groups: int,
    kernel: int,
    stride: int,
    padding: int,
    mode: str,
    type_: torch.dtype,
    seed: int,
) -> None:
    kind = getattr(nn, f"Conv{'Transpose' if transposed else ''}{axes}d")
    padding = padding if kernel > 1 else 0
    options = {"stride": stride, "padding": padding, "groups": groups, "bias": bias}
    options |= {} if transposed else {"padding_mode": mode}
    norm = getattr(nn, f"BatchNorm{axes}d")(8, affine=affine)
    model = stirred(nn.Sequential(kind(4, 8, kernel, **options), norm, nn.ReLU()), seed).to(type_)
    done = folded(model, torch.ones(2, 4, *(4,) * axes, dtype=type_))
    assert done.merged == {"1": ("0",)}
    assert isinstance(done.module[1], nn.Identity)  # type: ignore[index]
    assert next(done.module.parameters()).dtype == type_
    assert done.left == {}


@settings(max_examples=15, deadline=None)
@given(
    bias=st.booleans(),
    affine=st.booleans(),
    axes=st.integers(0, 2),
    groups=st.sampled_from([1, 2]),
    seed=st.integers(0, 100),
)
def test_a_norm_before_a_layer_goes_into_it(bias: bool, affine: bool, axes: int, groups: int, seed: int) -> None:
    layer = nn.Linear(4, 6, bias=bias)
    if axes:
        layer = getattr(nn, f"Conv{axes}d")(4, 6, 3, stride=2, groups=groups, bias=bias)
    norm = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d)[axes](4, affine=affine)
    done = folded(stirred(nn.Sequential(nn.ReLU(), norm, layer), seed), torch.ones(2, 4, *(5,) * axes))
    assert done.merged == {"1": ("2",)}


@pytest.mark.parametrize("type_", [torch.float32, torch.bfloat16])
def test_chains_of_linear_layers_become_one_where_that_is_smaller(type_: torch.dtype) -> None:
    model = stirred(nn.Sequential(nn.Linear(6, 8, bias=False), nn.Linear(8, 8), nn.Dropout(), nn.Linear(8, 4))).to(
        type_
    )
    done = folded(model, torch.ones(2, 6, dtype=type_))
    assert set(done.merged) == {"1", "3"}  # a dropout does nothing, and stays
    assert sum(parameter.numel() for parameter in done.module.parameters()) == 6 * 4 + 4
    narrow = stirred(nn.Sequential(nn.Linear(16, 2), nn.Linear(2, 16)))
    assert nas.fold(narrow, torch.ones(2, 16)).left == {"1": "one layer would have 256 weights, and the two have 64"}


@settings(max_examples=20, deadline=None)
@given(
    axes=st.integers(1, 3),
    wide=st.sampled_from(["first", "second"]),
    strides=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.integers(0, 1),
    biases=st.tuples(st.booleans(), st.booleans()),
    size=st.integers(5, 8),
)
def test_two_convolutions_become_one_where_padding_and_strides_allow(
    axes: int, wide: str, strides: tuple[int, int], padding: int, biases: tuple[bool, bool], size: int
) -> None:
    kind = getattr(nn, f"Conv{axes}d")
    first, second = ((3, padding), (1, 0)) if wide == "first" else ((1, 0), (3, padding))
    model = nn.Sequential(
        kind(4, 8, first[0], stride=strides[0], padding=first[1], bias=biases[0]),
        kind(8, 4, second[0], stride=strides[1], padding=second[1], bias=biases[1]),
    )
    done = folded(stirred(model), torch.ones(2, 4, *(size,) * axes))
    exact = wide == "first" or (strides[0] == 1 and not (padding and biases[0]))
    if exact:
        assert done.merged == {"1": ("0",)}
    else:
        assert done.left == {"1": "neither has a kernel of one place, or padding lies between"}


# -- other norms, by what they compute


class RepNorm(nn.Module):
    """A BatchNorm beside a scaled skip, over the last axis (Guo et al. 2024, "SLAB")."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1))
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        return (self.norm(x) + self.alpha * x).transpose(1, 2)


class Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma - 0.5


class Attention(nn.Module):
    """Three layers read the norm; the skip reads what is before it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = RepNorm(8)
        self.q, self.k, self.v = (nn.Linear(8, 8, bias=bias) for bias in (True, False, True))
        self.out, self.scale = nn.Linear(8, 8), Scale(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        mixed = F.scaled_dot_product_attention(self.q(y), self.k(y), self.v(y))
        return x + self.scale(self.out(mixed))


def test_a_norm_of_another_form_goes_into_all_layers_that_read_it() -> None:
    done = folded(stirred(Attention()), torch.ones(2, 5, 8))
    assert done.merged == {"norm": ("q", "k", "v"), "scale": ("out",)}
    assert isinstance(done.module.norm, nn.Identity)
    again = stirred(Attention())
    again.norm = nn.Identity()
    again.scale = nn.Identity()
    again.k.bias = nn.Parameter(torch.zeros(8))
    again.load_state_dict(done.module.state_dict())
    assert torch.equal(again(torch.ones(2, 5, 8)), done.module(torch.ones(2, 5, 8)))


class Transposed(nn.Module):
    """A BatchNorm over tokens, between two linear layers, by transposes or by counting tokens as samples."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.first, self.second = how, nn.Linear(6, 4), nn.Linear(4, 3)
        self.norm, self.other = nn.BatchNorm1d(4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)  # (n, tokens, 4)
        if self.how == "transposed":
            z = self.norm(y.transpose(1, 2)).permute(0, 2, 1)
            return self.second(self.other(z.relu().transpose(-1, -2)).mT)
        if self.how == "counted":
            z = self.norm(y.flatten(0, 1)).reshape_as(y)
            return self.second(self.other(z.relu().view(-1, 4)).unflatten(0, (len(x), -1)))
        return self.second(self.norm(y.reshape(len(x), 4, -1)).reshape(y.shape))


@pytest.mark.parametrize("how", ["transposed", "counted", "mixed"])
def test_channels_are_followed_through_transposes_and_reshapes(how: str) -> None:
    done = folded(stirred(Transposed(how)), torch.ones(2, 5, 6))
    if how == "mixed":  # the norm's channels are not the layer's
        assert done.merged == {}
        assert done.left == {"norm": "a reshape puts the channels together with other axes"}
    else:
        assert done.merged == {"norm": ("first",), "other": ("second",)}


class Active(nn.BatchNorm2d):
    """A norm that applies its activation itself."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.drop, self.act = nn.Identity(), nn.PReLU(width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.drop(super().forward(x)))
        return y


def test_a_norm_with_its_activation_leaves_the_activation() -> None:
    model = stirred(nn.Sequential(nn.Conv2d(3, 4, 3), Active(4), nn.Conv2d(4, 4, 1), nn.ReLU(), Active(4)))
    done = folded(model, torch.ones(2, 3, 5, 5))
    assert done.merged == {"1": ("0",)}
    assert done.left == {"4": "it follows 'relu' in '3', which is no layer, and does more than to scale"}
    assert torch.equal(done.module.state_dict()["1.act.weight"], model.state_dict()["1.act.weight"])


class Slope(nn.Module):
    def __init__(self, slope: float) -> None:
        super().__init__()
        self.register_buffer("slope", torch.tensor(slope))

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.slope, Tensor)
        return torch.lerp(F.relu(x), x, self.slope)


@pytest.mark.parametrize("slope", [1.0, 0.5])
def test_layers_around_an_activation_merge_once_it_is_linear(slope: float) -> None:
    model = stirred(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), Slope(0.0), nn.Conv2d(8, 4, 1)))
    model[2].slope.fill_(slope)
    done = folded(model, torch.ones(2, 3, 6, 6))
    assert list(done.merged) == (["1", "2", "3"] if slope == 1 else ["1"])


# -- what stays


class Skip(nn.Module):
    """The output of the convolution is read by another operator too."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.conv, self.bn, self.how = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), how

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        if self.how == "changed":
            z = self.bn(y)
            return z + y.relu_()
        if self.how == "twice":
            return self.bn(self.bn(y))
        if self.how == "weights":
            return self.bn(y) * self.conv.weight.sum()
        if self.how == "functional":
            return F.batch_norm(y, self.bn.running_mean, self.bn.running_var)
        return (self.bn(y), y) if self.how == "returned" else self.bn(y) + y


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("added", {"bn": "the output of 'conv' is read by 'add' too"}),
        ("returned", {"bn": "the output of 'conv' is read by the caller of the model too"}),
        ("changed", {"bn": "the output of 'conv' is read by 'relu_' too"}),
        ("twice", {"bn": "it is called 2 times"}),
        ("weights", {"bn": "the weights of 'conv' are read more than once"}),
        ("functional", {"": "it is one of several operations of Skip.forward"}),
    ],
)
def test_what_something_else_reads_is_not_merged(how: str, reason: dict[str, str]) -> None:
    done = folded(stirred(Skip(how)), torch.ones(2, 3, 4, 4))
    assert (done.merged, done.left) == ({}, reason)


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4))
    model[3].weight = model[0].weight
    return model


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    model[0].register_forward_hook(lambda module, given, output: None)
    return model


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (tied, {"1": "'0' shares its weights with '3.weight'"}),
        (hooked, {"1": "'0' has hooks"}),
        (
            lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False)),
            {"1": "it normalises by the statistics of its batch"},
        ),
        (
            lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm1d(4), nn.ReLU()),
            {"1": "it follows 'relu' in '0', and 'relu' in '2' reads it: no layer takes it up"},
        ),
    ],
)
def test_more_that_stays(make: Any, reason: dict[str, str]) -> None:
    done = folded(stirred(make()), torch.ones(2, 4))
    assert (done.merged, done.left) == ({}, reason)
    assert str(done).startswith("nothing could be folded; ")


def test_zeros_around_the_input_would_be_shifted() -> None:
    model = stirred(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, padding=1)))
    assert folded(model, torch.ones(1, 3, 5, 5)).left == {"1": "'2' pads its input with zeros, which would be shifted"}


class Capricious(nn.Conv2d):
    """Its own forward adds the bias twice: only the outputs tell."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(x, self.weight, self.bias)
        return y if self.bias is None or type(self.bn_like) is nn.BatchNorm2d else y + self.bias.reshape(-1, 1, 1)

    bn_like: nn.Module


def test_a_merge_that_changes_outputs_is_undone_and_a_required_one_refused() -> None:
    model = nn.Sequential(
        Capricious(3, 3, 1, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
    )
    object.__setattr__(model[0], "bn_like", None)
    stirred(model)
    done = folded(model, torch.ones(2, 3, 4, 4))
    assert list(done.merged) == ["4"]
    assert done.left["1"].startswith("outputs would change by ")
    assert isinstance(done.module[1], nn.BatchNorm2d)  # type: ignore[index]
    with pytest.raises(DeployError, match=r"^'1' cannot be folded: outputs would change by .* and rounding explains"):
        nas.fold(model, torch.ones(2, 3, 4, 4), required=["4", "1"])


def test_a_block_that_ends_with_zeros_hides_nothing() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Sequential(Capricious(3, 3, 1, bias=False), nn.BatchNorm2d(3))
            object.__setattr__(self.block[0], "bn_like", None)
            self.gamma = nn.Parameter(torch.zeros(3, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.gamma * self.block(x)

    model = stirred(Hidden())
    nn.init.zeros_(model.gamma)  # type: ignore[arg-type]
    assert folded(model, torch.ones(2, 3, 4, 4)).merged == {}


def test_numbers_beyond_half_precision_are_not_merged() -> None:
    model = stirred(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, eps=1e-12))).half()
    with torch.no_grad():
        model[0].weight.fill_(60.0)
        model[1].weight.fill_(6e4)
        model[1].running_var.fill_(1.0)
    assert "would be too large for float16" in nas.fold(model, torch.zeros(2, 4).half()).left["1"]


def test_a_parametrized_weight_stays() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.BatchNorm1d(4))
    done = folded(stirred(model), torch.ones(2, 4))
    assert done.merged == {}
    assert done.left["1"].startswith("it follows 'linear' in '0'")


# -- the whole


def test_folding_twice_changes_nothing_more() -> None:
    model = stirred(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)))
    once = folded(model, torch.ones(1, 3, 6, 6))
    twice = folded(once.module, torch.ones(1, 3, 6, 6))
    assert (twice.merged, twice.left, twice.difference) == ({}, {}, 0.0)
    assert first_difference(once.module.state_dict(), twice.module.state_dict()) is None
    assert str(once).startswith("folded 1 layer (1 into 0); outputs differ by at most ")


def test_weights_keep_their_order_in_memory_and_whether_they_are_trained() -> None:
    model = stirred(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model[0].weight.requires_grad_(False)
    layer = folded(model, torch.ones(1, 3, 6, 6)).module[0]  # type: ignore[index]
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    assert not layer.weight.requires_grad


def test_models_of_keywords_and_several_outputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm, self.head = nn.Embedding(9, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)

        def forward(self, ids: Tensor, scale: Tensor | None = None) -> dict[str, Tensor]:
            x = self.embed(ids)
            return {"hidden": x, "logits": self.head(self.norm(x))}

    assert folded(stirred(Two()), {"ids": torch.arange(4)}).merged == {"norm": ("head",)}


@pytest.mark.parametrize("ending", ["pt2", "onnx", "safetensors"])
def test_a_folded_network_is_exported(ending: str, tmp_path: Any) -> None:
    if ending == "onnx":
        pytest.importorskip("onnxscript")
    model = stirred(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
    done = nas.export(model, tmp_path / f"model.{ending}", example=torch.ones(1, 3, 6, 6), fold=True)
    assert done.folded is not None
    assert done.folded.merged == {"1": ("0",)}
    assert "; folded 1 layer (1 into 0); outputs differ" in str(done)
    with pytest.raises(DeployError, match="builds all layers; export a folded network as pt2, onnx or safetensors"):
        nas.export(model, tmp_path / "folder", "pretrained", torch.ones(1, 3, 6, 6), fold=True)


class Asking(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("model", "options", "text"),
    [
        (Asking(), {}, "Asking cannot be folded, since its graph is not known: "),
        (
            nn.Linear(4, 4, device="meta"),
            {},
            "Linear has tensors on the meta device, without values; load its weights first",
        ),
        (nn.Linear(5, 4), {}, "Linear cannot be called with the example: "),
        (nn.Linear(4, 4), {"required": ["norm"]}, "Linear has no module 'norm' to fold"),
        (nn.Sequential(nn.ReLU()), {"required": ["0"]}, "'0' cannot be folded: it does not scale and shift"),
    ],
)
def test_refusals(model: nn.Module, options: dict[str, Any], text: str) -> None:
    with pytest.raises(DeployError) as caught:
        nas.fold(model, torch.ones(2, 4), **options)
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


def test_a_layer_of_two_names_is_folded_around() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = self.second = nn.Linear(6, 6)
            self.head, self.norm = nn.Linear(6, 3), nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.head(self.second(F.relu(self.first(x)))))

    model = stirred(Twice())
    parameters = list(model.parameters())
    done = folded(model, torch.randn(3, 6))
    assert done.merged == {"norm": ("head",)}
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
