"""How a run of EM ended."""

from __future__ import annotations

from enum import IntEnum

from elbokit._types import singular_covariance

__all__ = ["FitStatus", "fit_error"]


class FitStatus(IntEnum):
    """Outcome of one mixture's run; all but ``OK`` are failures."""

    OK = 0
    #: A component's covariance is not positive definite.
    SINGULAR_COVARIANCE = 1
    #: The density of every sample under every component is zero.
    NO_COMPONENT = 2
    #: The sums overflow float64.
    OVERFLOW = 3


def fit_error(status: int, component: int, covariance_type: str) -> ValueError | None:
    """Return the exception that an outcome of the core stands for, or None."""
    if status == FitStatus.OK:
        return None
    if status == FitStatus.SINGULAR_COVARIANCE:
        return singular_covariance(None if covariance_type == "tied" else component)
    if status == FitStatus.NO_COMPONENT:
        return ValueError(
            "no component explains any sample: the density of every sample under every "
            "component is zero; check weights_init, means_init and precisions_init"
        )
    return ValueError("`X` has values so large that their squares overflow float64; scale the data")
