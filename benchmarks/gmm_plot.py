"""Bars of how many times longer the others take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from gmm_report import Section

COLOURS = {
    "scikit-learn": "#f28e2b",
    "pomegranate": "#9c755f",
    "gmmx": "#bab0ac",
    "oneDAL": "#4e79a7",
}


def draw(section: Section, path: Path) -> None:
    """One panel for each kind of data: time of each peer over ours, and the goal for oneDAL."""
    kinds = list(dict.fromkeys(case.data for case in section.measured))
    names = [name for name in COLOURS if name in section.peers()]
    height = 0.8 / len(names)
    figure, axes = plt.subplots(
        1, len(kinds), figsize=(11, 0.75 * len(section.measured) / len(kinds) + 1.6), sharey=True,
        sharex=True, layout="constrained", squeeze=False,
    )  # fmt: skip
    for axis, data in zip(axes[0], kinds, strict=True):
        cases = [case for case in section.measured if case.data == data]
        for i, name in enumerate(names):
            places = [at + (i - (len(names) - 1) / 2) * height for at in range(len(cases))]
            ratios = [case.ratio(name) or 0 for case in cases]
            bars = axis.barh(
                places, [max(r, 0) for r in ratios], height, color=COLOURS[name], label=name
            )
            labels = [f"{r:,.0f}" if r >= 100 else f"{r:.1f}" if r > 0 else "" for r in ratios]
            axis.bar_label(bars, labels, padding=6, fontsize=7)
        goals = [(section.goal(case), at) for at, case in enumerate(cases) if section.goal(case)]
        at_onedal = (
            (names.index("oneDAL") - (len(names) - 1) / 2) * height if "oneDAL" in names else 0
        )
        axis.scatter(
            [goal for goal, _ in goals], [at + at_onedal for _, at in goals],
            marker="|", s=130, linewidths=2.5, color="black", zorder=3, label="goal against oneDAL",
        )  # fmt: skip
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set(title=f"{data} data", xlabel="time per iteration ÷ elbokit's", xscale="log")
        axis.set_yticks(range(len(cases)), [str(case.shape) for case in cases])
        axis.set_ylim(-0.6, len(cases) - 0.4)
        axis.grid(axis="x", which="major", alpha=0.4)
        axis.set_axisbelow(True)
    axes[0][0].invert_yaxis()
    axes[0][0].set_xlim(0.5, 3 * axes[0][0].get_xlim()[1])  # room for the labels
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    figure.savefig(path, dpi=130)
    plt.close(figure)
