"""Times artifacts, and refuses to say more than the samples allow.

Every model runs in a process of its own, and all of them in turns; the first one runs twice, which shows the noise. See
`measure` for all of it and `benchmark` for one line about one artifact.
"""

from demitasse_validation.benchmark.results import Plan, Report, Result, load
from demitasse_validation.benchmark.selection import Contender, select
from demitasse_validation.benchmark.suite import benchmark, measure

__all__ = ["Contender", "Plan", "Report", "Result", "benchmark", "load", "measure", "select"]
