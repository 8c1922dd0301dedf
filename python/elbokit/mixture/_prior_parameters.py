"""The fields of a mixture's prior as parameters of the estimator, for searches."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, cast

from elbokit.mixture._prior import MixturePrior

if TYPE_CHECKING:
    from elbokit.mixture.gaussian_mixture import GaussianMixture

__all__ = ["PriorParametersMixin"]

_PREFIX = "prior__"
_FIELDS = tuple(field.name for field in fields(MixturePrior))


class PriorParametersMixin:
    """`get_params` and `set_params` of :class:`GaussianMixture`, ``prior__mean_precision`` too."""

    prior: MixturePrior | None

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the estimator's parameters.

        Parameters
        ----------
        deep : bool, default=True
            With the fields of a `prior`, as ``prior__mean_precision``.

        Returns
        -------
        params : dict
            Names and values.
        """
        params: dict[str, Any] = super().get_params(deep=False)  # type: ignore[misc]
        if deep and isinstance(self.prior, MixturePrior):
            params |= {f"{_PREFIX}{name}": getattr(self.prior, name) for name in _FIELDS}
        return params

    def set_params(self, **params: Any) -> GaussianMixture:
        """Set parameters of the estimator.

        Parameters
        ----------
        **params
            Names and values. ``prior__mean_precision`` and the like make another `prior`, with that
            field changed; priors themselves do not change.

        Returns
        -------
        self : GaussianMixture

        Raises
        ------
        ValueError
            If there is no such parameter, or no prior whose field it could be.
        """
        of_prior = {n[len(_PREFIX) :]: v for n, v in params.items() if n.startswith(_PREFIX)}
        rest = {name: value for name, value in params.items() if not name.startswith(_PREFIX)}
        prior = rest.get("prior", self.prior)
        for name in of_prior:
            if name not in _FIELDS:
                raise ValueError(
                    f"`{_PREFIX}{name}` is no parameter, expected one of "
                    + ", ".join(f"`{_PREFIX}{field}`" for field in _FIELDS)
                )
            if not isinstance(prior, MixturePrior):
                raise ValueError(
                    f"`{_PREFIX}{name}` is a field of `prior`, which is {prior!r}, expected a "
                    "MixturePrior"
                )
        if of_prior:
            rest["prior"] = replace(cast(MixturePrior, prior), **of_prior)
        super().set_params(**rest)  # type: ignore[misc]
        return cast("GaussianMixture", self)
