"""Studies: a search that is declared once, run anywhere, and never forgotten.

Study       space + metrics + algorithm + store: ask, tell, run, front, best, extract
Asked       a trial to evaluate by hand
Summary     where a study stands when a run ends
Winner      a trial's network, taken home
"""

from __future__ import annotations

from nas.study.driver import Summary
from nas.study.study import Asked, Study
from nas.study.take_home import Winner

__all__ = ["Asked", "Study", "Summary", "Winner"]
