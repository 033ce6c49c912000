"""Networks that classify images and volumes, as people write them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from registry import floats, images, on
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Head(nn.Module):
    def __init__(self, channels: int, classes: int = 10) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.pool(x).flatten(1))


@on(images)
def conv_bn() -> nn.Module:
    return nn.Sequential(block(3, 16), block(16, 32, 2), block(32, 64, 2), Head(64))


@on(floats(2, 1, 28, 28))
class LeNet(nn.Module):
    """Sizes written into the view."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * 4 * 4, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(-1, 16 * 4 * 4)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


@on(images)
class LiteralView(nn.Module):
    """Batch, channels and pixels written as numbers in several views."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 4, 4)
        self.query, self.value = nn.Linear(32, 32), nn.Linear(32, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).view(-1, 32, 64).transpose(1, 2)
        q = self.query(x).view(-1, 64, 4, 8).transpose(1, 2)
        v = self.value(x).view(-1, 64, 4, 8).transpose(1, 2)
        y = (torch.softmax(q @ q.transpose(-1, -2) / 8**0.5, -1) @ v).transpose(1, 2).reshape(-1, 64, 32)
        return self.head((x + y).mean(1))


@on(images)
class UNet(nn.Module):
    """Ronneberger et al. 2015, small."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Sequential(block(3, width), block(width, width)), block(width, 2 * width)
        self.middle = block(2 * width, 4 * width)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2)
        self.merge2 = block(4 * width, 2 * width)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.merge1 = block(2 * width, width)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.middle(F.max_pool2d(b, 2))
        b = self.merge2(torch.cat([self.up2(c), b], dim=1))
        return self.head(self.merge1(torch.cat([a, self.up1(b)], dim=1)))


@on(floats(1, 1, 16, 16, 16))
class UNet3d(nn.Module):
    def __init__(self) -> None:
        super().__init__()

        def conv(i: int, o: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv3d(i, o, 3, padding=1), nn.InstanceNorm3d(o, affine=True), nn.LeakyReLU())

        self.a, self.b, self.c = conv(1, 8), conv(8, 16), conv(24, 8)
        self.head = nn.Conv3d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = F.interpolate(self.b(F.max_pool3d(a, 2)), scale_factor=2, mode="trilinear")
        return self.head(self.c(torch.cat([a, b], 1)))


@on(images)
class AttentionUNet(nn.Module):
    """Gates of one channel on the skips."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = block(3, 16), block(16, 32)
        self.up = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(32, 16, 3, padding=1))
        self.g, self.x, self.psi = (
            nn.Conv2d(16, 8, 1),
            nn.Conv2d(16, 8, 1),
            nn.Sequential(nn.Conv2d(8, 1, 1), nn.Sigmoid()),
        )
        self.merge, self.head = block(32, 16), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        u = self.up(self.b(F.max_pool2d(a, 2)))
        a = a * self.psi(F.relu(self.g(u) + self.x(a)))
        return self.head(self.merge(torch.cat((u, a), 1)))


class Inception(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.one = block(inputs, 8)
        self.three = nn.Sequential(block(inputs, 12), block(12, 16))
        self.five = nn.Sequential(block(inputs, 4), block(4, 8), block(8, 8))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(inputs, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)


@on(images)
def inception_net() -> nn.Module:
    return nn.Sequential(block(3, 16, 2), Inception(16), Inception(40), Head(40))


@on(images)
class DenseNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(16 + 12 * i), nn.ReLU(), nn.Conv2d(16 + 12 * i, 12, 3, padding=1, bias=False))
            for i in range(3)
        )
        self.transition = nn.Sequential(nn.BatchNorm2d(52), nn.ReLU(), nn.Conv2d(52, 26, 1), nn.AvgPool2d(2))
        self.head = Head(26)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.first(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return self.head(self.transition(torch.cat(features, 1)))


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1, attention: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.attention = attention or nn.Identity()
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.attention(self.bn2(self.conv2(out)))
        out += self.shortcut(x)
        return F.relu(out)


@on(images)
def cifar_resnet() -> nn.Module:
    return nn.Sequential(
        block(3, 16), Residual(16, 16), Residual(16, 32, 2), Residual(32, 32), Residual(32, 64, 2), Head(64)
    )


@on(images)
class PadShortcut(nn.Module):
    """ResNet's option A: strided shortcuts padded with zero channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.a, self.b, self.head = block(3, 16), block(16, 16), block(16, 32, 2), Head(32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.a(x)
        return self.head(self.b(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8)))


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // reduction),
            nn.ReLU(),
            nn.Linear(channels // reduction, channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        y = F.adaptive_avg_pool2d(x, 1).view(b, c)
        return x * self.fc(y).view(b, c, 1, 1).expand_as(x)


class Cbam(nn.Module):
    """Woo et al. 2018: channels by average and maximum, then places."""

    def __init__(self, channels: int, spatial: bool = True) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, channels // 4, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels // 4, channels, 1, bias=False),
        )
        self.place = nn.Conv2d(2, 1, 7, padding=3, bias=False) if spatial else None

    def forward(self, x: Tensor) -> Tensor:
        average = self.mlp(F.adaptive_avg_pool2d(x, 1))
        most = self.mlp(F.adaptive_max_pool2d(x, 1))
        x = x * torch.sigmoid(average + most)
        if self.place is None:
            return x
        both = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True).values], 1)
        return x * torch.sigmoid(self.place(both))


class MaximumOnly(nn.Module):
    """Channels' importance by amax over places."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(channels, channels // 4), nn.Linear(channels // 4, channels)

    def forward(self, x: Tensor) -> Tensor:
        most = torch.amax(x, dim=(2, 3)) + x.flatten(2).max(dim=2)[0]
        return x * torch.sigmoid(self.up(F.relu(self.down(most))))[:, :, None, None]


class EfficientChannels(nn.Module):
    """ECA: a convolution along the channels."""

    def __init__(self, _: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = x.mean((2, 3))[:, None]
        return x * torch.sigmoid(self.conv(y)).transpose(1, 2)[..., None]


class SelectiveKernel(nn.Module):
    """SK: two branches, softmax over them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=d, dilation=d) for d in (1, 2))
        self.down, self.up = nn.Linear(channels, 8), nn.ModuleList(nn.Linear(8, channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        each = torch.stack([branch(x) for branch in self.branches], dim=1)
        z = F.relu(self.down(each.sum(1).mean((-1, -2))))
        weights = torch.stack([up(z) for up in self.up], dim=1).softmax(dim=1)
        return (each * weights[..., None, None]).sum(dim=1)


class Coordinate(nn.Module):
    """Coordinate attention: both directions pooled, concatenated and split."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = block(channels, 8)
        self.h, self.w = nn.Conv2d(8, channels, 1), nn.Conv2d(8, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, _, h, w = x.shape
        both = torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)], dim=2)
        a, b = self.first(both).split([h, w], dim=2)
        return x * self.h(a).sigmoid() * self.w(b).transpose(2, 3).sigmoid()


for _name, _attention in (
    ("squeeze_excite", SqueezeExcite),
    ("cbam", Cbam),
    ("cbam_channels", lambda channels: Cbam(channels, spatial=False)),
    ("maximum_attention", MaximumOnly),
    ("efficient_channels", EfficientChannels),
    ("selective_kernel", SelectiveKernel),
    ("coordinate_attention", Coordinate),
):
    on(images, name=_name)(
        lambda attention=_attention: nn.Sequential(
            block(3, 16), Residual(16, 32, 2, attention(32)), Residual(32, 32, 1, attention(32)), Head(32)
        )
    )


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, expand: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expand
        self.skip = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.skip else self.conv(x)


@on(images)
def mobile_net() -> nn.Module:
    return nn.Sequential(block(3, 16), InvertedResidual(16, 24, 4, 2), InvertedResidual(24, 24, 4, 1), Head(24))


class Shuffle(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(block(half, half), nn.Conv2d(half, half, 3, 1, 1, groups=half), block(half, half))

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        x = torch.cat((a, self.branch(b)), dim=1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


@on(images)
def shuffle_net() -> nn.Module:
    return nn.Sequential(block(3, 32, 2), Shuffle(32), Shuffle(32), Head(32))


@on(images)
def resnext() -> nn.Module:
    return nn.Sequential(
        block(3, 32),
        nn.Conv2d(32, 64, 3, 2, 1, groups=8),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, 1, 1, groups=8),
        Head(64),
    )


@on(images)
class Ghost(nn.Module):
    """Half of the channels made from the other half, cheaply."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.cheap = block(3, 16), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.second, self.cheap2, self.head = block(32, 24, 2), nn.Conv2d(24, 24, 3, padding=1, groups=24), Head(40)

    def forward(self, x: Tensor) -> Tensor:
        a = self.first(x)
        b = self.second(torch.cat([a, self.cheap(a)], 1))
        return self.head(torch.cat([b, self.cheap2(b)], 1)[:, :40])


@on(images)
class GroupNormNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1),
            nn.GroupNorm(8, 32),
            nn.SiLU(),
            nn.Conv2d(32, 64, 3, 2, 1),
            nn.GroupNorm(4, 64),
            nn.SiLU(),
            nn.Conv2d(64, 64, 3, 1, 1),
            nn.GroupNorm(1, 64),
            nn.GELU(),
        )
        self.head = Head(64)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x))


class LayerNorm2d(nn.Module):
    """ConvNeXt's, written out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels)), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        u = x.mean(1, keepdim=True)
        s = (x - u).pow(2).mean(1, keepdim=True)
        x = (x - u) / torch.sqrt(s + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class ConvNextBlock(nn.Module):
    def __init__(self, width: int, response: bool) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(1e-6 * torch.ones(width))
        self.response = response
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, 4 * width))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, 4 * width))

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.up(self.norm(self.depthwise(x).permute(0, 2, 3, 1))))
        g = torch.norm(y, p=2, dim=(1, 2), keepdim=True) if self.response else torch.ones_like(y)
        n = g / (g.mean(dim=-1, keepdim=True) + 1e-6) if self.response else g
        y = self.down(self.gamma * (y * n) + self.beta + y)
        return x + (self.scale * y).permute(0, 3, 1, 2)


for _name, _response in (("conv_next", False), ("conv_next_response", True)):
    on(images, name=_name)(
        lambda response=_response: nn.Sequential(
            nn.Conv2d(3, 24, 4, 4),
            LayerNorm2d(24),
            ConvNextBlock(24, response),
            LayerNorm2d(24),
            nn.Conv2d(24, 48, 2, 2),
            ConvNextBlock(48, response),
            Head(48),
        )
    )


class StandardisedConv(nn.Conv2d):
    """Weight standardisation by mean and deviation (Qiao et al. 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        mean = weight.mean(dim=(1, 2, 3), keepdim=True)
        deviation = weight.view(weight.size(0), -1).std(dim=1).view(-1, 1, 1, 1) + 1e-5
        return F.conv2d(
            x, (weight - mean) / deviation, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class StandardisedConv2(nn.Conv2d):
    """The same by var_mean, with a gain (normaliser-free networks)."""

    def __init__(self, *arguments: int) -> None:
        super().__init__(*arguments)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(self.weight, dim=[1, 2, 3], keepdim=True)
        fan = self.weight[0].numel()
        weight = (self.weight - mean) * torch.rsqrt((var * fan).clamp(min=1e-4)) * self.gain
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


for _name, _conv in (("weight_standardisation", StandardisedConv), ("scaled_standardisation", StandardisedConv2)):
    on(images, name=_name)(
        lambda conv=_conv: nn.Sequential(
            conv(3, 32, 3, 2, 1), nn.GroupNorm(8, 32), nn.ReLU(), conv(32, 48, 3, 2, 1), nn.ReLU(), Head(48)
        )
    )


@on(images)
def spectral_discriminator() -> nn.Module:
    norm = parametrizations.spectral_norm
    return nn.Sequential(
        norm(nn.Conv2d(3, 16, 4, 2, 1)),
        nn.LeakyReLU(0.2),
        norm(nn.Conv2d(16, 32, 4, 2, 1)),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        norm(nn.Linear(32 * 64, 1)),
    )


@on(images)
def spectral_old() -> nn.Module:
    return nn.Sequential(
        spectral_norm(nn.Conv2d(3, 16, 4, 2, 1)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Conv2d(16, 32, 4, 2, 1)),
        nn.LeakyReLU(0.2),
        Head(32, 1),
    )


@on(floats(2, 20))
def orthogonal_layers() -> nn.Module:
    return nn.Sequential(
        parametrizations.orthogonal(nn.Linear(20, 20)), nn.Tanh(), nn.Linear(20, 48), nn.Tanh(), nn.Linear(48, 4)
    )
