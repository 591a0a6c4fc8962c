"""Aggregators, by name and as classes.

Each is called as ``rule(vectors, *, context=None, state=None)`` with an ``(n, d)`` tensor or array,
or a list of n vectors, and returns one vector of the caller's kind.  Rows with a NaN, an infinity
or a norm above 1e18 are dropped, up to ``f`` of them, and the rule runs with the rest of ``f``.

``computable(n)`` and ``guarantee(n)`` return, with numbers, why a rule cannot be
computed, or promises nothing, for n rows; ``laws`` are the laws of
`byzpy_tw.testing.properties` that it obeys with these parameters.
"""

from byzpy_tw.aggregators.averages import Mean, NormBound
from byzpy_tw.aggregators.bulyan import Bulyan
from byzpy_tw.aggregators.centered_clipping import CenteredClipping
from byzpy_tw.aggregators.clusters import FLAME, ClippedClustering, SignGuard
from byzpy_tw.aggregators.coordinatewise import (
    MeanAroundMedian,
    Median,
    Phocas,
    RobustLearningRate,
    SignMajority,
    TrimmedMean,
)
from byzpy_tw.aggregators.filters import CAF, DnC
from byzpy_tw.aggregators.foolsgold import FoolsGold
from byzpy_tw.aggregators.geometric_median import GeometricMedian
from byzpy_tw.aggregators.krum import Krum, MultiKrum
from byzpy_tw.aggregators.nearest import CGE, MoNNA
from byzpy_tw.aggregators.pipeline import Pipeline
from byzpy_tw.aggregators.rule import Outcome
from byzpy_tw.aggregators.subsets import MDA, SMEA
from byzpy_tw.aggregators.trusted import FLTrust, Zeno

__all__ = [
    "BUILTIN",
    "CAF",
    "CGE",
    "FLAME",
    "MDA",
    "SMEA",
    "Bulyan",
    "CenteredClipping",
    "ClippedClustering",
    "DnC",
    "FLTrust",
    "FoolsGold",
    "GeometricMedian",
    "Krum",
    "Mean",
    "MeanAroundMedian",
    "Median",
    "MoNNA",
    "MultiKrum",
    "NormBound",
    "Outcome",
    "Phocas",
    "Pipeline",
    "RobustLearningRate",
    "SignGuard",
    "SignMajority",
    "TrimmedMean",
    "Zeno",
]

# name, class, aliases
BUILTIN: tuple[tuple[str, type, tuple[str, ...]], ...] = (
    ("mean", Mean, ()),
    ("median", Median, ()),
    ("trimmed-mean", TrimmedMean, ()),
    ("meamed", MeanAroundMedian, ()),
    ("krum", Krum, ()),
    ("multi-krum", MultiKrum, ()),
    ("geometric-median", GeometricMedian, ("rfa",)),
    ("centered-clipping", CenteredClipping, ()),
    ("mda", MDA, ()),
    ("monna", MoNNA, ()),
    ("smea", SMEA, ()),
    ("cge", CGE, ()),
    ("caf", CAF, ()),
    ("bulyan", Bulyan, ()),
    ("phocas", Phocas, ()),
    ("dnc", DnC, ()),
    ("sign-guard", SignGuard, ()),
    ("clipped-clustering", ClippedClustering, ()),
    ("sign-majority", SignMajority, ()),
    ("norm-bound", NormBound, ()),
    ("rlr", RobustLearningRate, ()),
    ("foolsgold", FoolsGold, ()),
    ("flame", FLAME, ()),
    ("fltrust", FLTrust, ()),
    ("zeno", Zeno, ()),
)
