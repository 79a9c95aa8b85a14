"""Estimation of what methods need besides the model: the patterns of PatternNet and PatternAttribution."""

from ...rules.patterns import Patterns
from .files import load_patterns, load_statistics, save_patterns, save_statistics
from .fit import Plan, fit_patterns, gather
from .quality import Quality, quality, rho
from .solve import ESTIMATORS, patterns_of
from .statistics import Statistics, merge

__all__ = [
    "ESTIMATORS",
    "Patterns",
    "Plan",
    "Quality",
    "Statistics",
    "fit_patterns",
    "gather",
    "load_patterns",
    "load_statistics",
    "merge",
    "patterns_of",
    "quality",
    "rho",
    "save_patterns",
    "save_statistics",
]
