"""Archs as sequences of choices, for whatever walks down the tree of a space or draws from a distribution over it.

- `nas.choosing.steps`: what may be chosen next, given what was.
- `nas.choosing.distribution`: a softmax for every decision.

Imports neither torch nor PyGlove.
"""
