"""Networks of images, volumes and generators, as people write them."""

from __future__ import annotations

from itertools import pairwise

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


@on(floats(2, 3, 16, 16))
class SuperResolution(nn.Module):
    """Pixel shuffle after residual blocks (EDSR)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 24, 3, padding=1)
        self.body = nn.ModuleList(
            nn.Sequential(nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1)) for _ in range(3)
        )
        self.up = nn.Sequential(
            nn.Conv2d(24, 24 * 4, 3, padding=1), nn.PixelShuffle(2), nn.PReLU(24), nn.Conv2d(24, 3, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = first = self.first(x)
        for each in self.body:
            x = x + 0.1 * each(x)
        return self.up(x + first)


@on(images)
class PixelUnshuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.down, self.second, self.head = block(3, 8), nn.PixelUnshuffle(2), block(32, 24), Head(24)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.down(self.first(x))))


@on(floats(2, 784))
def autoencoder() -> nn.Module:
    sizes = [784, 512, 256, 8]
    down = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    up = [layer for a, b in pairwise(sizes[::-1]) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*down[:-1], *up[:-1], nn.Sigmoid())


@on(images)
class Vae(nn.Module):
    """In eval, the mean is what is decoded; three outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(block(3, 16, 2), block(16, 32, 2), nn.Flatten())
        self.mean, self.log_var = nn.Linear(32 * 64, 12), nn.Linear(32 * 64, 12)
        self.first = nn.Linear(12, 32 * 64)
        self.decoder = nn.Sequential(nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 3, 4, 2, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mean, log_var = self.mean(h), self.log_var(h)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_var) if self.training else mean
        return self.decoder(self.first(z).view(-1, 32, 8, 8)), mean, log_var


@on(images)
class VectorQuantised(nn.Module):
    """Nearest entry of a code book."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(block(3, 16, 2), nn.Conv2d(16, 24, 3, 2, 1))
        self.codes = nn.Embedding(32, 24)
        self.decoder = nn.Sequential(nn.ConvTranspose2d(24, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 3, 4, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        z = self.encoder(x).permute(0, 2, 3, 1)
        nearest = torch.cdist(z.reshape(-1, 24), self.codes.weight).argmin(1)
        return self.decoder(self.codes(nearest).view(z.shape).permute(0, 3, 1, 2))


@on(floats(2, 32, 1, 1))
def gan_generator() -> nn.Module:
    def up(i: int, o: int, *shape: int) -> list[nn.Module]:
        return [nn.ConvTranspose2d(i, o, *shape, bias=False), nn.BatchNorm2d(o), nn.ReLU(True)]  # type: ignore[arg-type]

    return nn.Sequential(
        *up(32, 64, 4, 1, 0), *up(64, 32, 4, 2, 1), *up(32, 16, 4, 2, 1), nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh()
    )


@on(floats(2, 32))
class StyleGenerator(nn.Module):
    """A constant, modulated and demodulated by a style."""

    def __init__(self) -> None:
        super().__init__()
        self.mapping = nn.Sequential(nn.Linear(32, 48), nn.LeakyReLU(0.2), nn.Linear(48, 48), nn.LeakyReLU(0.2))
        self.constant = nn.Parameter(torch.randn(1, 32, 4, 4))
        self.styles = nn.ModuleList([nn.Linear(48, 32), nn.Linear(48, 24)])
        self.weights = nn.ParameterList(
            [nn.Parameter(torch.randn(24, 32, 3, 3) * 0.1), nn.Parameter(torch.randn(16, 24, 3, 3) * 0.1)]
        )
        self.to_rgb = nn.Conv2d(16, 3, 1)

    def forward(self, z: Tensor) -> Tensor:
        w = self.mapping(z)
        x = self.constant.expand(z.shape[0], -1, -1, -1)
        for style, weight in zip(self.styles, self.weights, strict=True):
            b, c, h, side = x.shape
            kernel = weight[None] * (style(w) + 1)[:, None, :, None, None]
            kernel = kernel * torch.rsqrt(kernel.pow(2).sum((2, 3, 4), keepdim=True) + 1e-8)
            x = F.conv2d(x.reshape(1, b * c, h, side), kernel.reshape(-1, c, 3, 3), padding=1, groups=b).view(
                b, -1, h, side
            )
            x = F.leaky_relu(F.interpolate(x, scale_factor=2), 0.2)
        return self.to_rgb(x)


@on(floats(2, 3, 16, 16), floats(2))
class DiffusionUNet(nn.Module):
    """Time embedding added to group-normalised blocks, attention in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 32))
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.norm1, self.conv1, self.shift1 = nn.GroupNorm(4, 16), nn.Conv2d(16, 32, 3, padding=1), nn.Linear(32, 64)
        self.norm2 = nn.GroupNorm(8, 32)
        self.qkv, self.out = nn.Conv2d(32, 96, 1), nn.Conv2d(32, 32, 1)
        self.up = nn.Conv2d(48, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angle = t[:, None] * torch.exp(-torch.arange(8.0))[None]
        time = self.time(torch.cat([angle.sin(), angle.cos()], -1))
        skip = self.first(x)
        h = self.conv1(F.silu(self.norm1(F.avg_pool2d(skip, 2))))
        scale, shift = self.shift1(F.silu(time))[:, :, None, None].chunk(2, dim=1)
        h = h * (1 + scale) + shift
        b, c, side, _ = h.shape
        q, k, v = self.qkv(self.norm2(h)).reshape(b, 3, 4, c // 4, side * side).unbind(1)
        h = h + self.out(
            (v @ torch.softmax(q.transpose(-1, -2) @ k * (c // 4) ** -0.5, -1).transpose(-1, -2)).reshape(
                b, c, side, side
            )
        )
        return self.last(F.silu(self.up(torch.cat([F.interpolate(h, scale_factor=2), skip], 1))))


@on(images)
class FeaturePyramid(nn.Module):
    """Top-down sums, several outputs in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.c2, self.c3, self.c4 = block(3, 16, 2), block(16, 32, 2), block(32, 64, 2)
        self.lateral = nn.ModuleList(nn.Conv2d(c, 24, 1) for c in (16, 32, 64))
        self.smooth = nn.ModuleList(nn.Conv2d(24, 24, 3, padding=1) for _ in range(3))
        self.classes, self.boxes = nn.Conv2d(24, 6, 3, padding=1), nn.Conv2d(24, 4, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        c2 = self.c2(x)
        c3 = self.c3(c2)
        levels = [lateral(c) for lateral, c in zip(self.lateral, (c2, c3, self.c4(c3)), strict=True)]
        for i in (1, 0):
            levels[i] = levels[i] + F.interpolate(levels[i + 1], size=levels[i].shape[-2:], mode="nearest")
        levels = [smooth(level) for smooth, level in zip(self.smooth, levels, strict=True)]
        return {
            "classes": [self.classes(level) for level in levels],
            "boxes": [self.boxes(level).exp() for level in levels],
        }


@on(images)
class Yolo(nn.Module):
    """C2f blocks: split, chain, concatenate; a head whose view holds anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.cv1 = block(3, 16, 2), block(16, 32)
        self.inner = nn.ModuleList(nn.Sequential(block(16, 16), block(16, 16)) for _ in range(2))
        self.cv2 = block(64, 32)
        self.spp, self.spp2 = block(32, 16), block(64, 32)
        self.head = nn.Conv2d(32, 3 * 7, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.cv1(self.first(x)).chunk(2, 1))
        parts.extend(layer(parts[-1]) for layer in self.inner)
        x = self.spp(self.cv2(torch.cat(parts, 1)))
        pooled = [x]
        for _ in range(3):
            pooled.append(F.max_pool2d(pooled[-1], 5, 1, 2))
        x = self.head(self.spp2(torch.cat(pooled, 1)))
        b, _, h, w = x.shape
        return x.view(b, 3, 7, h, w).permute(0, 1, 3, 4, 2).contiguous()


@on(images)
class Aspp(nn.Module):
    """Dilated branches and global context, resized and concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = block(3, 32, 2)
        self.branches = nn.ModuleList(nn.Conv2d(32, 16, 3, padding=d, dilation=d) for d in (1, 2, 4))
        self.context = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 16, 1), nn.ReLU())
        self.merge, self.head = block(64, 24), nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        each = [branch(y) for branch in self.branches]
        each.append(F.interpolate(self.context(y), size=y.shape[-2:], mode="bilinear", align_corners=False))
        return F.interpolate(
            self.head(self.merge(torch.cat(each, 1))), size=x.shape[-2:], mode="bilinear", align_corners=False
        )


@on(images)
class Siamese(nn.Module):
    """One network called on two halves of the image, then a distance and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            block(3, 16, 2), block(16, 32, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 24)
        )
        self.head = nn.Linear(24, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.net(x[..., :16]) - self.net(x[..., 16:])).abs())


@on(floats(2, 3, 32, 32), floats(2, 3, 32, 32))
class SimilarityTwoImages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            block(3, 16, 2), block(16, 32, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 24)
        )

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return F.cosine_similarity(self.net(a), self.net(b), dim=-1)


@on(images)
class SpatialTransformer(nn.Module):
    """A grid that the network itself computes."""

    def __init__(self) -> None:
        super().__init__()
        self.locate = nn.Sequential(
            block(3, 8, 2),
            block(8, 16, 2),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(256, 32),
            nn.ReLU(),
            nn.Linear(32, 6),
        )
        self.net = nn.Sequential(block(3, 24, 2), Head(24))

    def forward(self, x: Tensor) -> Tensor:
        grid = F.affine_grid(self.locate(x).view(-1, 2, 3), list(x.size()), align_corners=False)
        return self.net(F.grid_sample(x, grid, align_corners=False))


@on(images)
class Capsules(nn.Module):
    """Primary capsules, squashed, and one step of routing by agreement."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.primary = nn.Conv2d(3, 32, 5, 2), nn.Conv2d(32, 8 * 4, 5, 3)
        self.weight = nn.Parameter(torch.randn(1, 128, 5, 6, 4) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        u = self.primary(F.relu(self.conv(x))).view(x.shape[0], 8, 4, -1).permute(0, 1, 3, 2).reshape(x.shape[0], -1, 4)
        u = u * u.norm(dim=-1, keepdim=True) / (1 + u.pow(2).sum(-1, keepdim=True))
        votes = (self.weight[:, : u.shape[1]] @ u[:, :, None, :, None]).squeeze(-1)
        s = votes.mean(dim=1)
        agreement = (votes * s[:, None]).sum(-1, keepdim=True).softmax(dim=2)
        return (agreement * votes).sum(1).norm(dim=-1)


@on(images)
class FourierOperator(nn.Module):
    """FNO: weights on the lowest frequencies, complex by two real parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.modes = nn.Conv2d(3, 16, 1), 6
        self.real = nn.ParameterList(nn.Parameter(torch.randn(16, 16, 6, 6) * 0.05) for _ in range(2))
        self.imaginary = nn.ParameterList(nn.Parameter(torch.randn(16, 16, 6, 6) * 0.05) for _ in range(2))
        self.point = nn.ModuleList(nn.Conv2d(16, 16, 1) for _ in range(2))
        self.head = nn.Sequential(nn.Conv2d(16, 32, 1), nn.GELU(), nn.Conv2d(32, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        for real, imaginary, point in zip(self.real, self.imaginary, self.point, strict=True):
            spectrum = torch.fft.rfft2(x)[:, :, : self.modes, : self.modes]
            a, b = spectrum.real, spectrum.imag
            re = torch.einsum("bixy,ioxy->boxy", a, real) - torch.einsum("bixy,ioxy->boxy", b, imaginary)
            im = torch.einsum("bixy,ioxy->boxy", a, imaginary) + torch.einsum("bixy,ioxy->boxy", b, real)
            out = torch.zeros(x.shape[0], re.shape[1], 32, 17, dtype=torch.complex64)
            out[:, :, : self.modes, : self.modes] = torch.complex(re.float(), im.float())
            x = F.gelu(torch.fft.irfft2(out, s=(32, 32)).to(x.dtype) + point(x))
        return self.head(x)


@on(images)
class MaxoutNet(nn.Module):
    """The maximum over pieces of a product."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear, self.head = nn.Conv2d(3, 32, 3, 2, 1), nn.Linear(16, 24 * 2), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = x.view(x.shape[0], 16, 2, 16, 16).max(dim=2).values
        x = self.linear(x.mean((-1, -2)))
        return self.head(x.view(x.shape[0], 24, 2).amax(-1))


@on(images)
class RepVgg(nn.Module):
    """Three branches, each with its BatchNorm, summed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = block(3, 24, 2)
        self.three, self.one, self.norm = nn.Conv2d(24, 24, 3, padding=1), nn.Conv2d(24, 24, 1), nn.BatchNorm2d(24)
        self.bn3, self.bn1, self.head = nn.BatchNorm2d(24), nn.BatchNorm2d(24), Head(24)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(F.relu(self.bn3(self.three(x)) + self.bn1(self.one(x)) + self.norm(x)))


@on(images)
class Highway(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shrink, self.first = nn.AvgPool2d(4), nn.Linear(3 * 8 * 8, 48)
        self.gates, self.paths = (
            nn.ModuleList(nn.Linear(48, 48) for _ in range(2)),
            nn.ModuleList(nn.Linear(48, 48) for _ in range(2)),
        )
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.shrink(x).flatten(1))
        for gate, path in zip(self.gates, self.paths, strict=True):
            g = torch.sigmoid(gate(x))
            x = g * F.relu(path(x)) + (1 - g) * x
        return self.head(x)


@on(floats(2, 6, 3, 32, 32))
class FramesThenGru(nn.Module):
    """Frames through one CNN by folding time into the batch, then a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(block(3, 16, 2), block(16, 32, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.gru, self.head = nn.GRU(32, 48, batch_first=True), nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        b, t = x.shape[:2]
        return self.head(self.gru(self.cnn(x.flatten(0, 1)).view(b, t, -1))[0][:, -1])


@on(floats(2, 4, 3, 16, 16))
class ConvLstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.conv, self.head = 16, nn.Conv2d(3 + 16, 64, 3, padding=1), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = c = torch.zeros(x.shape[0], self.hidden, *x.shape[-2:])
        for frame in x.unbind(1):
            i, f, o, g = torch.split(self.conv(torch.cat([frame, h], dim=1)), self.hidden, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return self.head(h)
