"""What `calico bench series` makes of measured frames."""

from __future__ import annotations

from calico_model.data.casting import SceneSplit, Stream, group_rng
from calico_model.data.series import draw_series
from calico_model.predictor import load_predictor
from research.bench.series import PLAIN, WITH, WITHOUT, Measured, figures_of, measure


def test_means_are_over_frames_that_show_the_part():
    measured = [
        Measured(WITH, 1, True, False, 0.9, 0.7),
        Measured(WITH, 1, True, True, 0.0, 0.0),
        Measured(WITH, 1, False, True, 0.0, 0.0),
        Measured(WITH, 2, False, False, 0.0, 0.0),
        Measured(WITHOUT, 5, True, False, 0.5, 0.5),
    ]
    figures = figures_of(measured)
    assert figures[WITH]["1"] == {"J": 45.0, "F": 35.0, "J&F": 40.0, "parts": 2}
    assert figures[WITHOUT]["5"]["J&F"] == 50.0
    assert figures[PLAIN]["10"]["J&F"] is None
    assert (figures["lost where it is gone"], figures["gone"]) == (50.0, 2)
    assert (figures["lost where it is there"], figures["there"]) == (50.0, 2)


def test_a_short_series_is_measured_in_every_way():
    scenes = draw_series(group_rng(Stream.EVALUATION, 7, 0), 2, split=SceneSplit.SEEN, size_px=128)
    measured = list(measure(load_predictor(), scenes))
    assert {one.way for one in measured} == {WITH, WITHOUT, PLAIN}
    assert all(one.after == 1 for one in measured)
    assert max(one.j for one in measured) > 0.7
