"""The figure of terms and blocks shows the logged values."""

from __future__ import annotations

from pipeline.reporting.term_map import last_shares, remaining, term_map
from pipeline.tracking.run_files import Point

POINTS = [
    Point(0, 1, {"train/gradient_share/hidden_loss_layer_0": 0.9}),
    Point(
        10,
        2,
        {
            "train/loss": 8.0,
            "train/hidden_loss": 6.0,
            "train/hidden_loss_layer_0": 4.0,
            "train/hidden_loss_layer_1": 2.0,
            "train/embedding_loss": 1.0,
            "train/soft_label_loss_teacher_1": 0.5,
            "train/tokens": 100.0,
        },
    ),
    Point(20, 3, {"train/gradient_share/hidden_loss_layer_0": 0.25, "train/gradient_share/embedding_loss": 0.75}),
    Point(
        20,
        4,
        {
            "train/loss": 4.0,
            "train/hidden_loss": 3.0,
            "train/hidden_loss_layer_0": 1.0,
            "train/hidden_loss_layer_1": 1.0,
            "train/embedding_loss": 0.1,
            "train/soft_label_loss_teacher_1": 0.4,
        },
    ),
]


def test_remaining_loss_is_the_ratio_of_last_to_first_value_per_block() -> None:
    assert remaining(POINTS) == {
        ("hidden", "block 0"): 0.25,
        ("hidden", "block 1"): 0.5,
        ("embedding", "–"): 0.1,
        ("soft label teacher 1", "–"): 0.8,
    }


def test_gradient_shares_are_those_of_the_last_measurement() -> None:
    assert last_shares(POINTS) == {("hidden", "block 0"): 0.25, ("embedding", "–"): 0.75}


def test_the_figure_is_a_png_with_and_without_shares() -> None:
    for points in (POINTS, POINTS[1:2]):
        assert term_map(points, "general").startswith(b"\x89PNG")
