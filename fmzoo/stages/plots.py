"""Pictures of a run, by matplotlib."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

COLORS = ("#1f4e79", "#b5651d", "#6b8e23", "#8b3a62", "#555555", "#2a7f7f")
EARLY = 0.04  # the share of steps whose high losses may leave the picture at the top


def save_figure(figure: Any, path: epath.PathLike) -> None:
    """Writes a figure as PNG, to any file system."""
    import io

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, bbox_inches="tight")
    epath.Path(path).write_bytes(buffer.getvalue())


def plot_loss(
    rows: Sequence[Mapping[str, Any]],
    path: epath.PathLike,
    levels: Mapping[str, float] | None = None,
    unit: str = "nats a token",
) -> None:
    """The loss by step with its running mean, and horizontal lines to hold it against, named on the right.

    Args:
      rows: of ``metrics.jsonl``.
      path: of the PNG.
      levels: nats a token by name.
      unit: of the loss.
    """
    from matplotlib.figure import Figure

    points = [(row["step"], row["loss"]) for row in rows if not isinstance(row["loss"], str)]
    steps, losses = np.array(points, float).reshape(-1, 2).T
    figure = Figure(figsize=(7.5, 4.2))
    axes = figure.subplots()
    axes.plot(steps, losses, color="#a9bfd6", linewidth=0.8, label="training, each step")
    width = max(len(losses) // 40, 1)
    if len(losses) >= width > 1:
        mean = np.convolve(losses, np.ones(width) / width, "valid")
        axes.plot(steps[width - 1 :] - width / 2, mean, color=COLORS[0], linewidth=1.8, label=f"mean of {width} steps")
    if len(losses):
        _frame(axes, losses, list((levels or {}).values()))
        _draw_levels(axes, levels or {})
    axes.set(xlabel="step", ylabel=unit)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right")
    save_figure(figure, path)


def _frame(axes: Any, losses: np.ndarray, levels: list[float]) -> None:
    """Limits that leave the first steep steps out, so that what follows can be told apart."""
    top = max([losses[int(EARLY * len(losses)) :].max(), *levels])
    low = min([losses.min(), *levels])
    room = max(0.05 * (top - low), 1e-3)
    axes.set_ylim(low - room, top + room)
    axes.margins(x=0.01)


def _draw_levels(axes: Any, levels: Mapping[str, float]) -> None:
    """Dashed lines, their names beside the axes and apart from each other."""
    bottom, top = axes.get_ylim()
    names, gap = sorted(levels, key=levels.__getitem__), 0.055 * (top - bottom)
    places = spread([levels[name] for name in names], gap)
    if places:
        axes.text(
            1.04, places[-1] + gap, "on held-out text", transform=axes.get_yaxis_transform(), va="center", fontsize=9
        )
    for name, place in zip(names, places, strict=True):
        color = COLORS[list(levels).index(name) % len(COLORS)]
        axes.axhline(levels[name], color=color, linestyle="--", linewidth=1)
        axes.annotate(
            f"{name}: {levels[name]:.2f}",
            xy=(1, levels[name]),
            xytext=(1.04, place),
            xycoords=axes.get_yaxis_transform(),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            color=color,
            fontsize=9,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 0.6,
                "shrinkA": 1,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Rising values, moved as little as keeps them ``gap`` apart: groups that touch share their mean.

    >>> spread([1.0, 1.2, 5.0], 1.0)
    [0.6, 1.6, 5.0]
    """
    groups: list[list[float]] = []  # of values less their place in the group times the gap

    def begin(group: list[float]) -> float:
        return sum(group) / len(group)

    for count, value in enumerate(values):
        groups.append([value - count * gap])
        while len(groups) > 1 and begin(groups[-2]) > begin(groups[-1]):
            last = groups.pop()
            groups[-1] += last
    flat = [begin(group) for group in groups for _ in group]
    return [round(start + place * gap, 12) for place, start in enumerate(flat)]
