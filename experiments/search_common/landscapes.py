"""Made-up landscapes of any number of decisions: error in percent against operations of a network."""

from __future__ import annotations

import numpy as np
from search_common.rings import Ring

CANDIDATES = 4
KINDS = ("additive", "pairwise", "rugged")
TOGETHER = 0.7  # standard deviation of what two neighbouring decisions add together


def landscape(kind: str, decisions: int) -> Ring:
    """Error falls with the cost of each decision, or is rugged.

    *additive*: quality is concave in the size of each decision, and cost is linear in it with a factor of the decision's
    own.  *pairwise*: neighbouring decisions also add something normally distributed together.  *rugged*: what a decision
    adds to the quality is drawn for each combination of its candidate and those of the two decisions before it
    (Kauffman, Levin 1987, "Towards a general theory of adaptive walks on rugged landscapes"; N decisions, K = 2); cost is
    a sum.
    """
    draw = np.random.default_rng(7)
    shape = (decisions, CANDIDATES, CANDIDATES, CANDIDATES)
    size = np.sort(draw.gamma(2.0, 1.0, (decisions, CANDIDATES)), 1)
    weight = draw.gamma(1.0, 1.0, (decisions, 1))
    cost = size * draw.uniform(0.2, 1.8, (decisions, 1)) * draw.uniform(0.7, 1.3, size.shape)
    together = draw.normal(0.0, 1.0, (decisions - 1, CANDIDATES, CANDIDATES))
    drawn = draw.random(shape)
    quality = np.broadcast_to((weight * np.sqrt(size))[:, None, None], shape).copy()
    if kind == "pairwise":
        quality[1:] -= TOGETHER * together[:, None]
    if kind == "rugged":
        quality = drawn.transpose(0, 3, 2, 1)
    base = 1.0 / decisions
    error = 60.0 * base - (20.0 * base) * quality
    operations = 1e7 * base + 2e6 * np.broadcast_to(cost[:, None, None], shape)
    return Ring(np.stack([error, operations]))
