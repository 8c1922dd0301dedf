"""Progress bars: tqdm, loaded where one is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["close_bar", "new_bar", "optional_bar"]

# Seconds between two drawings of a bar: more often nobody reads it.
_MIN_INTERVAL = 0.05


def new_bar(asked_by: str, **options: Any) -> Any:
    """Make a progress bar on standard error.

    Parameters
    ----------
    asked_by : str
        What needs the bar, for the error.
    **options
        Passed on to ``tqdm.tqdm``.

    Returns
    -------
    bar : tqdm.tqdm

    Raises
    ------
    ImportError
        If tqdm is not installed.
    """
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError(
            f"{asked_by} needs tqdm, which is not installed: pip install elbokit[progress]"
        ) from error
    # miniters=1: without it tqdm would guess how many steps to let pass, and after quick ones
    # would stay silent through slow ones.
    return tqdm(**({"mininterval": _MIN_INTERVAL, "miniters": 1} | options))


def close_bar(bar: Any, failed: bool) -> None:
    """Leave a finished bar on the screen, and wipe off one that broke off."""
    bar.leave = not failed
    bar.close()


@contextmanager
def optional_bar(wanted: bool, asked_by: str, **options: Any) -> Iterator[Any]:
    """Yield a bar as from :func:`new_bar`, or None where it is not `wanted`; close it."""
    if not wanted:
        yield None
        return
    bar = new_bar(asked_by, **options)
    try:
        yield bar
    except BaseException:
        close_bar(bar, failed=True)
        raise
    close_bar(bar, failed=False)
