"""Mixture models fitted by EM, with scikit-learn's estimator interface."""

from __future__ import annotations

from elbokit.mixture._conditional import ConditionalMixtures
from elbokit.mixture._fit_mixtures import fit_mixtures
from elbokit.mixture._history import FitHistory
from elbokit.mixture._prior import MixturePrior
from elbokit.mixture._select_n_components import select_n_components
from elbokit.mixture._selection import Candidate, ComponentSelection, SelectionTable
from elbokit.mixture.gaussian_mixture import GaussianMixture

__all__ = [
    "Candidate",
    "ComponentSelection",
    "ConditionalMixtures",
    "FitHistory",
    "GaussianMixture",
    "MixturePrior",
    "SelectionTable",
    "fit_mixtures",
    "select_n_components",
]
