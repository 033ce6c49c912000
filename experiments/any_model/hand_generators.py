"""Restoration, generators, detection, pairs of images and video, as people write them."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from hand_images import Head, block
from registry import floats, images, on
from torch import Tensor, nn


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
