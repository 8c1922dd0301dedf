"""Mixture models fitted by EM, with scikit-learn's estimator interface."""

from __future__ import annotations

from elbokit.mixture._conditional import ConditionalMixtures
from elbokit.mixture._fit_mixtures import fit_mixtures
from elbokit.mixture.gaussian_mixture import GaussianMixture

__all__ = ["ConditionalMixtures", "GaussianMixture", "fit_mixtures"]
