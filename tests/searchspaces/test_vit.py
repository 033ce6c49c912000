"""The vision transformer family."""

from __future__ import annotations

import torch

from searchspaces import vit
from tests.conformance.supernet import SupernetConformance, corner


class TestViT(SupernetConformance):
    def make(self):
        return vit.supernet(vit.space(widths=(24, 32), depths=(1, 2, 3), heads=(1, 2, 3), ratios=(1, 2.5), head=8))

    def layouts(self, net):
        return {
            "*.qkv.weight": vit.nas.Layout("(qkv heads dim) in", qkv=3, dim=8),
            "*.qkv.bias": vit.nas.Layout("(qkv heads dim)", qkv=3, dim=8),
        }

    def inputs(self, samples):
        return torch.randn(samples, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def expected(self, name, state, shape):
        if ".qkv." not in name:
            return corner(state[name], shape)
        queries, keys, values = state[name].chunk(3)
        parts = [corner(each, (shape[0] // 3, *shape[1:])) for each in (queries, keys, values)]
        return torch.cat(parts)

    def expected_macs(self, arch):
        choices = arch.choices
        tokens, width, total = 16, choices["width"], 0
        total += tokens * 4 * width  # 2×2 patches of one channel
        for block in range(choices["depth"]):
            inner = choices[f"heads[{block}]"] * 8
            hidden = int(choices[f"ratios[{block}]"] * width)
            total += tokens * width * 3 * inner + 2 * tokens * tokens * inner + tokens * inner * width
            total += 2 * tokens * width * hidden
        return total + width * 10
