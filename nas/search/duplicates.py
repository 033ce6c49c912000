"""Which archs measure the same, learnt from trials whose values are exactly equal.

Where a decision has no effect in some context (an operation whose output nothing reads), or two decisions can be exchanged
(two edges between the same nodes), archs measure the same values to the last digit, and another evaluation of one of them
teaches nothing.  A rule says so: a decision is dead, or two can be exchanged, where up to two decisions are as they are.  How
often it held among pairs of trials that differ in little else is how likely it is to hold.  Nothing is assumed of a space,
and where no two trials are equal nothing is learnt.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nas.search.archive import Seen
from nas.search.breeding import Genes, genes_of

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Flags = NDArray[np.bool_]
Ints = NDArray[np.intp]

APART = 3  # decisions in which two trials that are evidence differ at most
EXCHANGE = 0  # kind of a pair in which two decisions have each other's values
PAIRS = 4000  # of trials that are evidence: the nearest
PASSES = 3  # of estimating how likely rules are, and from that what speaks against them
LITERALS, RULES = 64, 12  # values of decisions that contexts are made of, and contexts, of one decision or exchange
DOUBT = 1.0  # counterexamples that every rule is taken to have had
LEAST = 0.3  # probability of rules that are used
SHARP = 4  # power of the discount
FAINT = 0.05  # counterexamples that weigh less are left out
PAIR, ALWAYS = 0.99, 0.95  # how contexts of two literals, and of none, count beside those of one that are as likely


class Rules(NamedTuple):
    """Contexts in which one decision is dead, or two can be exchanged."""

    first: Ints
    second: Ints
    """(r,) the two literals that each context consists of; the last literal of all is always true."""
    chance: Floats
    """(r,) how likely the rule is to hold there."""

    def at(self, held: Singles) -> Floats:
        """(n,) how likely one of the rules is to hold, 0.0 where none applies, for (n, literals) that hold."""
        return np.asarray((held[:, self.first] * held[:, self.second] * self.chance).max(1))


class Duplicates:
    """Rules on what makes archs measure the same, and the archs that were measured.

    Args:
        genes: (n, decisions) rows of trials' archs.
        outcomes: (n,) the same number for trials that measured exactly the same.
    """

    def __init__(self, genes: Genes, outcomes: Ints) -> None:
        self._genes = _filled(genes)
        self._literals = [
            (at, value) for at in range(self._genes.shape[1]) for value in np.unique(self._genes[:, at]).tolist()
        ]
        self._held = self._hold(self._genes)
        # Two archs share the literal that is always true, whatever they are.
        apart = self._genes.shape[1] + 1 - self._held @ self._held.T
        far, equal = np.triu(apart > APART, 1), outcomes[:, None] == outcomes
        coincidence = float((far & equal).sum()) / max(1, int(far.sum()))
        left, right = np.nonzero(np.triu(apart <= APART, 1))
        kind, same = apart[left, right], equal[left, right]
        nearest = np.argsort(kind - 0.5 * same, kind="stable")[:PAIRS]
        left, right, same, kind = left[nearest], right[nearest], same[nearest], kind[nearest]
        differ = self._genes[left] != self._genes[right]
        exchanges = self._exchanges(left, right, differ)
        for rows in exchanges.values():
            kind[rows] = EXCHANGE
        proof = _proof(kind, same, coincidence)
        self._exchanged: dict[tuple[int, int], Rules] = {}
        for pair, rows in exchanges.items():
            # What the two decisions are, in whichever order, may be part of a context.
            held = np.maximum(self._held[left[rows]], self._held[right[rows]])
            if (rules := _rules(held, same[rows], np.where(same, proof, 1.0)[rows])) is not None:
                self._exchanged[pair] = rules
        clean = same & (kind != EXCHANGE)  # where two decisions were exchanged, neither needs to be dead
        self._dead = _learn_dead(self._held[left] * self._held[right], differ, same, clean, proof)

    def chance(self, genes: Genes, others: Genes | None = None) -> Floats:
        """(n,) how likely the arch of each row is to measure what one of `others` does: by default, one of the trials."""
        best = np.zeros(len(genes))
        known = self._genes if others is None else _filled(others)
        held_by_known = self._held if others is None else self._hold(known)
        genes, origin, chance = self._images(_filled(genes))
        held = self._hold(genes)
        may = np.zeros(genes.shape, dtype=bool)  # be another without an effect
        for at, rules in self._dead.items():
            may[:, at] = rules.at(held) > 0
        must = held.copy()
        must[:, :-1] *= ~may[:, [at for at, _ in self._literals]]
        rows, columns = np.nonzero(must @ held_by_known.T == (~may).sum(1)[:, None] + 1)
        shared, differ = held[rows] * held_by_known[columns], genes[rows] != known[columns]
        both = chance[rows]
        for at, rules in self._dead.items():
            here = differ[:, at]
            # One cause often makes several decisions dead: the least likely counts, not the product.
            both[here] = np.minimum(both[here], rules.at(shared[here]))
        np.maximum.at(best, origin[rows], both)
        return best

    def _images(self, genes: Floats) -> tuple[Floats, Ints, Floats]:
        """Genes, and those after an exchange; of which row each is, and how likely it is to measure the same."""
        held, rows = self._hold(genes), np.arange(len(genes))
        images, origin, chance = [genes], [rows], [np.ones(len(genes))]
        for (one, other), rules in self._exchanged.items():
            image = genes.copy()
            image[:, [one, other]] = image[:, [other, one]]
            likely = rules.at(np.maximum(held, self._hold(image)))
            some = rows[(likely > 0) & (genes[:, one] != genes[:, other])]
            images.append(image[some])
            origin.append(some)
            chance.append(likely[some])
        return np.concatenate(images), np.concatenate(origin), np.concatenate(chance)

    def _hold(self, genes: Floats) -> Singles:
        """(n, literals + 1) 1.0 where a decision has a value."""
        held = [genes[:, at] == value for at, value in self._literals]
        return np.stack([*held, np.ones(len(genes), dtype=bool)], 1).astype(np.float32)

    def _exchanges(self, left: Ints, right: Ints, differ: Flags) -> dict[tuple[int, int], list[int]]:
        """The pairs of trials in which exactly two decisions have each other's values, by these decisions."""
        found: dict[tuple[int, int], list[int]] = {}
        two = np.flatnonzero(differ.sum(1) == 2)
        one, other = np.nonzero(differ[two])[1].reshape(-1, 2).T
        a, b = self._genes[left[two]], self._genes[right[two]]
        at = np.arange(len(two))
        crossed = (a[at, one] == b[at, other]) & (a[at, other] == b[at, one])
        places = zip(one[crossed].tolist(), other[crossed].tolist(), strict=True)
        for place, row in zip(places, two[crossed].tolist(), strict=True):
            found.setdefault(place, []).append(row)
        return found


def duplicates(seen: Seen) -> Duplicates | None:
    """What trials say of archs that measure the same; None where no two of them measured exactly the same in everything."""
    rows = np.flatnonzero(~np.isnan(seen.values).any(1))
    table = np.column_stack([seen.values[rows], np.maximum(seen.violations[rows], 0.0)])
    different, outcomes = np.unique(table, axis=0, return_inverse=True)
    if len(different) == len(rows):
        return None
    archs = [seen.archs[at] for at in rows.tolist()]
    return Duplicates(genes_of(archs, len(archs[0].genome)), outcomes.reshape(-1))


def discount(chance: Floats) -> Floats:
    """Factors of the gains of archs that measure what another does, each with such a (n,) probability.

    Less than the probability that they do not: near what was measured a model overrates gains where decisions are dead, since
    it takes for doubt what is certain.
    """
    return np.asarray((1.0 - chance) ** SHARP)


def _filled(genes: Genes) -> Floats:
    """-1.0 for an inactive decision, which equals itself."""
    return np.where(np.isnan(genes), -1.0, genes)


def _proof(kind: Floats, same: Flags, coincidence: float) -> Floats:
    """(p,) how much it says that the two archs of a pair measured the same, if so many pairs do by coincidence.

    Where objectives take few values, archs that are far apart are equal about as often as those that are near.  So many as
    that, and two standard deviations more, are taken to be equal by coincidence.

    Args:
        kind: (p,) of pairs: in how many decisions they differ, or `EXCHANGE`.
        same: (p,) whether they measured the same.
        coincidence: share of pairs that are far apart and measured the same.
    """
    proof = np.zeros(len(same))
    for one in np.unique(kind[same]).tolist():
        here = kind == one
        expected = coincidence * here.sum()
        proof[here] = max(0.0, 1.0 - (expected + 2.0 * np.sqrt(expected)) / same[here].sum())
    return proof


def _learn_dead(shared: Singles, differ: Flags, same: Flags, clean: Flags, proof: Floats) -> dict[int, Rules]:
    """Of each decision the contexts in which it is dead.

    Values that differ speak against one decision as far as the others in which the archs differ are dead there.

    Args:
        shared: (p, literals) what the two archs of each pair share.
        differ: (p, decisions) in which decisions they differ.
        same: (p,) whether they measured the same.
        clean: (p,) whether that says that all these decisions are dead.
        proof: (p,) how much it says.
    """
    found: dict[int, Rules] = {}
    weight = (differ.sum(1) == 1)[:, None] * np.ones(differ.shape)
    for _ in range(PASSES):
        chance = np.where(differ, 0.0, 1.0)
        for at in np.flatnonzero((differ & clean[:, None]).any(0)).tolist():
            rows = np.flatnonzero(differ[:, at] & (clean | (~same & (weight[:, at] > FAINT))))
            rules = _rules(shared[rows], clean[rows], np.where(clean, proof, weight[:, at])[rows])
            if rules is None:
                found.pop(at, None)
                continue
            found[at] = rules
            chance[differ[:, at], at] = rules.at(shared[differ[:, at]])
        one = np.ones((len(differ), 1))
        before = np.cumprod(np.hstack([one, chance[:, :-1]]), 1)
        after = np.cumprod(np.hstack([one, chance[:, :0:-1]]), 1)[:, ::-1]
        weight = before * after
    return found


def _rules(held: Singles, same: Flags, weight: Floats) -> Rules | None:
    """Contexts that cover what measured the same, the most likely first.

    Args:
        held: (p, literals) what holds for both archs of each pair.
        same: (p,) whether they measured the same.
        weight: (p,) of each pair as evidence.
    """
    if not same.any():
        return None
    often = held[same][:, :-1].sum(0)
    some = np.append(np.sort(np.argsort(-often, kind="stable")[:LITERALS]), held.shape[1] - 1)
    some = some[held[same][:, some].any(0)]
    equal, unequal = held[np.ix_(same, some)], held[np.ix_(~same, some)]
    proof, blame = weight[same, None].astype(np.float32), weight[~same, None].astype(np.float32)
    against = unequal.T @ (unequal * blame)
    factor = np.full(against.shape, PAIR)
    factor[:, -1], factor[-1, -1] = 1.0, ALWAYS
    found: list[tuple[int, int, float]] = []
    while len(equal) and len(found) < RULES:
        # What other rules cover speaks for none but them: a context pays for what it is wider than they are.
        count = equal.T @ (equal * proof)
        chance = np.triu(count / (count + against + DOUBT))
        first, second = divmod(int(np.argmax(chance * factor)), len(some))
        if chance[first, second] < LEAST:
            break
        found.append((int(some[first]), int(some[second]), float(chance[first, second])))
        others = equal[:, first] * equal[:, second] == 0
        equal, proof = equal[others], proof[others]
    if not found:
        return None
    firsts, seconds, chances = zip(*found, strict=True)
    return Rules(np.array(firsts), np.array(seconds), np.array(chances))
