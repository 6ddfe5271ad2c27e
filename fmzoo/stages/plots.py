"""Pictures of a run, by matplotlib."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath


def save_figure(figure: Any, path: epath.PathLike) -> None:
    """Writes a figure as PNG, to any file system."""
    import io

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, bbox_inches="tight")
    epath.Path(path).write_bytes(buffer.getvalue())


def plot_loss(
    rows: Sequence[Mapping[str, Any]], path: epath.PathLike, levels: Mapping[str, float] | None = None
) -> None:
    """The loss by step with its running mean, and horizontal lines to hold it against.

    Args:
      rows: of ``metrics.jsonl``.
      path: of the PNG.
      levels: nats a token by name.
    """
    from matplotlib.figure import Figure

    points = [(row["step"], row["loss"]) for row in rows if not isinstance(row["loss"], str)]
    steps, losses = np.array(points, float).reshape(-1, 2).T
    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    axes.plot(steps, losses, color="#9ab6d3", linewidth=0.8, label="each step")
    width = max(len(losses) // 40, 1)
    if len(losses) >= width > 1:
        mean = np.convolve(losses, np.ones(width) / width, "valid")
        axes.plot(steps[width - 1 :], mean, color="#1f4e79", linewidth=1.8, label=f"mean of {width}")
    for color, (name, level) in zip(("#b5651d", "#6b8e23", "#8b3a62", "#555555"), (levels or {}).items(), strict=False):
        axes.axhline(level, color=color, linestyle="--", linewidth=1)
        axes.annotate(
            name, (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=color, fontsize=8
        )
    axes.set(xlabel="step", ylabel="loss (nats a token)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    save_figure(figure, path)
