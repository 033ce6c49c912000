"""Candidates of a model-based search, screened by what can be known of them without an evaluation."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nas.search.archive import Archive, Seen
from nas.search.beliefs import Beliefs

if TYPE_CHECKING:
    from nas.search.insight import Knowledge
    from nas.space import Arch, Space

Floats = NDArray[np.float64]
New = Callable[[Sequence["Arch"], Mapping[str, "Arch"]], dict[str, "Arch"]]

BEST, SHORT_LIST = 32, 128  # candidates that have children; candidates that the archs of one wave are chosen from
LOOKS = 2  # times that more is found out about some candidates, in each wave
LOOKED = 512  # archs that were looked at in earlier waves and are candidates again
REFUSED = 96  # of them, those found infeasible that a model learns from: each costs time when kernels are fitted
SPREAD, DRAWN = (
    20,
    400,
)  # random archs that are wanted, and how many are drawn until so many are not known to be infeasible
ROUNDING = 1e-9  # of violations


class Screening:
    """What is known of candidates, and which of them are not worth an evaluation.

    Args:
        space: that is searched.
        knowledge: of the study.
        archive: trials that finished.
        exact: of how many candidates more is found out at a time.
    """

    def __init__(self, space: Space, knowledge: Knowledge, archive: Archive, exact: int) -> None:
        self._space, self._knowledge, self._archive, self._exact = space, knowledge, archive, exact

    def is_useless(self, arch: Arch) -> bool:
        """Whether an arch is known to be infeasible, or to compute what another did, without gain."""
        if self.violates(arch):
            return True
        return self._knowledge.remembers and self._is_vain(self._knowledge.objectives(arch))

    def violates(self, arch: Arch) -> bool:
        """Whether an arch is known to violate a constraint; it is looked at if there is time."""
        if self._knowledge.about_constraints:
            self._knowledge.look([arch])
        return self._knowledge.excess(arch) > 0

    def sample(self, rng: random.Random) -> list[Arch]:
        """Up to 20 random archs, known to be feasible as far as that can be; if none is found, the nearest to being so."""
        drawn: list[Arch] = []
        allowed: list[Arch] = []
        while len(allowed) < SPREAD and len(drawn) < DRAWN and not (drawn and self._knowledge.exhausted):
            drawn.append(self._space.sample(rng))
            if not self.violates(drawn[-1]):
                allowed.append(drawn[-1])
        return allowed or [min(drawn, key=self._knowledge.excess)]

    def with_refused(self, seen: Seen) -> Seen:
        """Trials, and archs that were looked at and found to be infeasible: for what says where to look."""
        looked = [(arch, self._knowledge.excess(arch)) for arch in self._knowledge.looked(LOOKED)]
        refused = [(arch, over) for arch, over in looked if over > 0][-REFUSED:]
        values = np.full((len(refused), seen.values.shape[1]), np.nan)
        violations = np.append(self._with_slack(seen.archs, seen.violations, dear=False), [over for _, over in refused])
        return Seen([*seen.archs, *(arch for arch, _ in refused)], np.vstack([seen.values, values]), violations)

    def undecided(self, seen: Seen) -> Seen:
        """Trials less the violations that can be computed: for what chooses among archs that are known to have none."""
        if not self._knowledge.about_constraints:
            return Seen(seen.archs, seen.values, self._with_slack(seen.archs, seen.violations, dear=True))
        rest = seen.violations - np.array([self._knowledge.excess(arch) for arch in seen.archs])
        violations = np.where(rest > ROUNDING, rest, 0.0)
        tells = np.flatnonzero((violations > 0) | ~np.isnan(seen.values).any(1)).tolist()
        if not tells:
            return seen
        archs = [seen.archs[at] for at in tells]
        return Seen(archs, seen.values[tells], self._with_slack(archs, violations[tells], dear=True))

    def _with_slack(self, archs: Sequence[Arch], violations: Floats, dear: bool) -> Floats:
        """Violations, negative for feasible trials by how much those keep to the constraints, if that is known of all."""
        feasible = np.flatnonzero(violations <= 0).tolist()
        slack = np.array([self._knowledge.slack(archs[at], dear) for at in feasible])
        if np.isnan(slack).any():
            return violations
        signed = violations.copy()
        signed[feasible] = slack
        return signed

    def look_closer(
        self, beliefs: Beliefs, short: Mapping[str, Arch], new: New, rng: random.Random
    ) -> tuple[dict[str, Arch], dict[str, dict[int, float]]]:
        """Candidates with all that can be known of them, and their known objectives: those of before, and `exact` more twice.

        First come the best by what the model believes of decisions alone, then children of the best by what is known.  Where
        all that there was time for is not worth an evaluation there are none: `unknown` has those that nobody looked at.

        Args:
            beliefs: of a model that knows what is known.
            short: candidates by key, the best first.
            new: of some archs those that may be proposed and are not among others, by key.
            rng: for the children.
        """
        pool = new(self._knowledge.looked(LOOKED), {})
        known = self._worth_a_look(pool, len(pool))
        fresh = dict(short)
        gains: Floats = np.zeros(0)
        for _ in range(LOOKS):
            found = self._worth_a_look(fresh, self._exact)
            self._knowledge.look([fresh[key] for key in found])
            known |= {key: values for key, values in found.items() if self._knowledge.has(fresh[key])}
            pool |= fresh
            pool = {key: pool[key] for key in known}
            best = self._archive.parents
            if pool:
                view = beliefs.view(list(pool.values()))
                view.know_all(known.values())
                gains = view.gains()
                best = [list(pool.values())[at] for at in np.argsort(-gains, kind="stable")[:BEST]]
            children = [self._space.mutate(best[at % len(best)], rng) for at in range(2 * self._exact)]
            fresh = new(children, pool)
        items = list(pool.items())
        chosen = dict(items[at] for at in np.argsort(-gains, kind="stable")[:SHORT_LIST])
        return chosen, {key: known[key] for key in chosen}

    def unknown(self, archs: Mapping[str, Arch]) -> dict[str, Arch]:
        """Those of the archs of which nothing could be found out yet."""
        return {key: arch for key, arch in archs.items() if not self._knowledge.has(arch)}

    def _worth_a_look(self, archs: Mapping[str, Arch], most: int) -> dict[str, dict[int, float]]:
        """The known objectives of the first `most` of the archs that may gain something."""
        found: dict[str, dict[int, float]] = {}
        for count, (key, arch) in enumerate(archs.items()):
            if len(found) >= most or (count and most < len(archs) and self._knowledge.exhausted):
                break
            if self.violates(arch):
                continue
            known = self._knowledge.objectives(arch)
            if not self._is_vain(known):
                found[key] = known
        return found

    def _is_vain(self, known: Mapping[int, float]) -> bool:
        """Whether all objectives are known, and the front has something as good."""
        front = self._archive.front
        if len(known) < front.shape[1]:
            return False
        point = np.array([known[at] for at in range(front.shape[1])])
        return bool((front <= point).all(1).any())
