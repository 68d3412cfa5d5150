"""The course of a training as a table and as a figure."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

BOOKKEEPING = ("epoch", "step", "seconds", "learning_rate")
MOST_METRICS = 8  # more lines than this cannot be told apart


def write_curves(history: pd.DataFrame, folder: Path, watch: str, mode: Literal["max", "min"] = "max") -> None:
    """Write ``curves.csv`` and ``curves.png`` of a history with one row per epoch.

    Metrics are missing (NaN) where no validation took place. ``watch`` names the deciding one, whose best
    value, the largest or smallest as ``mode`` says, is marked.
    """
    table, picture = folder / "curves.csv", folder / "curves.png"
    history.to_csv(_beside(table), index=False)
    os.replace(_beside(table), table)
    draw_curves(history, watch, mode).savefig(_beside(picture), dpi=110, format="png")
    os.replace(_beside(picture), picture)


def draw_curves(history: pd.DataFrame, watch: str, mode: Literal["max", "min"] = "max") -> Figure:
    """Draw losses over the epochs, and beside them metrics where there are other ones."""
    losses = [name for name in history.columns if _is_loss(name)]
    metrics = [name for name in history.columns if name not in BOOKKEEPING and not _is_loss(name)]
    alone = not metrics and watch in losses
    figure = Figure(figsize=(6 if alone else 10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    drawn = figure.subplots(1, 1 if alone else 2, squeeze=False)[0]
    _draw_losses(drawn[0], history, losses)
    if not alone:
        _draw_metrics(drawn[1], history, _foremost(metrics, watch), watch, mode)
    for axes in drawn:
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_losses(axes: Axes, history: pd.DataFrame, names: Sequence[str]) -> None:
    for name in names:
        axes.plot(history["epoch"], history[name], label=name, linewidth=1.8 if name == "loss" else 1.0)
    axes.set_title("losses")
    smallest = history[list(names)].min().min() if names else 0
    if smallest > 0 and history[list(names)].max().max() > 20 * smallest:
        axes.set_yscale("log")
    if names:
        axes.legend(frameon=False, loc="upper right")


def _draw_metrics(
    axes: Axes, history: pd.DataFrame, names: Sequence[str], watch: str, mode: Literal["max", "min"]
) -> None:
    for name in names:
        seen = history[["epoch", name]].dropna()
        axes.plot(seen["epoch"], seen[name], label=name, marker=".", linewidth=2.0 if name == watch else 1.0)
    axes.set_title("validation")
    if not names:
        axes.text(0.5, 0.5, "no validation yet", ha="center", va="center", transform=axes.transAxes)
        return
    if watch in names and history[watch].notna().any():
        best = history[watch].idxmax() if mode == "max" else history[watch].idxmin()
        label = f"best {watch} {history.loc[best, watch]:.4g}, epoch {history.loc[best, 'epoch']:g}"
        axes.plot(history.loc[best, "epoch"], history.loc[best, watch], "k*", markersize=11, label=label)
    axes.legend(frameon=False, fontsize="small", loc="lower right" if mode == "max" else "upper right")


def _foremost(metrics: Sequence[str], watch: str) -> list[str]:
    """The deciding metric first, and no more than can be told apart."""
    return sorted(metrics, key=lambda name: name != watch)[:MOST_METRICS]


def _is_loss(name: str) -> bool:
    return name == "loss" or name.endswith("loss") or name.startswith("loss")


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.unfinished")
