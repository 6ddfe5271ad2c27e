"""Pictures: what is on them, and that names do not cover each other."""

import pytest

from fmzoo.stages.plots import plot_loss, spread


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        ([3.0], [3.0]),
        ([1.0, 2.5], [1.0, 2.5]),
        ([1.0, 1.0, 1.0], [0.0, 1.0, 2.0]),
        ([0.0, 1.9, 2.0, 2.1], [0.0, 1.0, 2.0, 3.0]),
    ],
)
def test_names_are_moved_apart_and_no_further_than_needed(values, expected):
    assert spread(values, 1.0) == pytest.approx(expected)


@pytest.mark.parametrize("levels", [None, {"a level": 4.0, "another": 4.01}])
@pytest.mark.parametrize("steps", [0, 1, 3, 200])
def test_a_curve_of_any_length_is_drawn(tmp_path, steps, levels):
    rows = [{"step": step + 1, "loss": 5 - step / 100} for step in range(steps)]
    rows.append({"step": steps + 1, "loss": "nan"})  # as the log has it
    plot_loss(rows, tmp_path / "loss.png", levels)
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
