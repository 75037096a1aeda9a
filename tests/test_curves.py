import numpy as np
import pytest
import torch
from synthetic import forward, geometric, synthetic

from andersonn_core import SolveSpec, curves
from andersonn_core.problems import Affine
from andersonn_core.results import Event, Status

TENTHS = geometric(0.1, 6)
NAN = np.nan


def ten_samples() -> np.ndarray:
    """Sample b (1 to 10) has the residual b / k at evaluation k."""
    return np.arange(1.0, 11.0)[None, :] / np.arange(1.0, 6.0)[:, None]


def test_bands_are_residuals_of_samples_and_never_interpolated():
    bands = curves.residual_bands(synthetic(ten_samples()))
    assert bands.columns.tolist() == [
        "evaluation",
        "seconds",
        "wall_seconds",
        "p10",
        "median",
        "p90",
        "worst",
    ]
    assert bands.evaluation.tolist() == [1, 2, 3, 4, 5]
    first = bands.iloc[0]
    assert (first.p10, first["median"], first.p90, first.worst) == (1.0, 5.0, 9.0, 10.0)


def test_bands_know_when_each_residual_was_known():
    # Map 1 s, method 2 s: known after 1, 4, 7 ... seconds.
    bands = curves.residual_bands(synthetic(TENTHS[:3], method_seconds=2.0))
    assert bands.seconds.tolist() == [1.0, 4.0, 7.0]
    assert bands.wall_seconds.tolist() == [3.0, 6.0, 9.0]


def test_a_sample_that_stopped_holds_its_last_value_in_the_bands():
    early = np.array([1.0, 1e-9, NAN, NAN])
    late = np.array([1.0, 0.5, 0.25, 0.125])
    bands = curves.residual_bands(synthetic(np.stack([early, late], 1), rtol=1e-6))
    assert bands["median"].tolist() == [1.0, 1e-9, 1e-9, 1e-9]
    assert bands.worst.tolist() == late.tolist()


def test_a_residual_that_is_not_finite_leaves_the_band_where_it_was():
    bands = curves.residual_bands(synthetic([1.0, 0.5, np.inf, NAN]))
    assert bands.worst.tolist() == [1.0, 0.5, 0.5, 0.5]


def test_the_heat_map_has_a_row_a_sample_and_a_column_an_evaluation():
    early = np.array([1.0, 1e-9, NAN])
    late = np.array([1.0, 0.1, 0.01])
    heat = curves.heat_map(synthetic(np.stack([early, late], 1), rtol=1e-6))
    assert (heat.index.name, heat.columns.name) == ("sample", "evaluation")
    assert heat.columns.tolist() == [1, 2, 3]
    np.testing.assert_allclose(heat, [[0.0, -9.0, NAN], [0.0, -1.0, -2.0]])


def test_a_residual_of_zero_is_drawn_as_the_smallest_number():
    heat = curves.heat_map(synthetic([1.0, 0.0]))
    assert heat.iloc[0, 1] == pytest.approx(np.log10(np.finfo(float).tiny))


def test_events_are_listed_by_name_and_those_that_coincide_one_by_one():
    marks = {(1, 0): Event.RESTART | Event.DROP, (2, 1): Event.FALLBACK}
    result = synthetic(ten_samples()[:, :2], events=marks, method_seconds=1.0)
    frame = curves.events(result)
    assert sorted(frame.event[frame.evaluation == 2]) == ["drop", "restart"]
    fallback = frame[frame.event == "fallback"].iloc[0]
    assert (fallback.evaluation, fallback["sample"], fallback.seconds) == (3, 1, 5.0)
    assert fallback.relative_residual == pytest.approx(2 / 3)


def test_a_run_without_events_has_an_empty_table_with_the_same_columns():
    frame = curves.events(synthetic(TENTHS))
    expected = ["evaluation", "seconds", "sample", "event", "relative_residual"]
    assert frame.empty and frame.columns.tolist() == expected


def test_the_time_split_adds_up_and_shows_the_parts_of_a_profiled_run_only():
    plain = curves.time_split(synthetic(TENTHS, method_seconds=0.5))
    assert plain.part.tolist() == ["map", "method"]
    assert plain.per_map.tolist() == [1.0, 0.5]
    parts = {"gram": 0.25, "solve": 0.125, "mix": 0.0625, "bookkeeping": 0.0625}
    split = curves.time_split(synthetic(TENTHS, method_seconds=0.5, parts=parts))
    assert split.part.tolist() == ["map", *parts]
    assert split.seconds.sum() == pytest.approx(6 * 1.5)
    assert split.share.sum() == pytest.approx(1.0)


def test_the_error_is_drawn_like_the_residual_where_it_is_known():
    result = synthetic(ten_samples())
    error = torch.as_tensor(2 * ten_samples())
    bands = curves.error_bands(result, error)
    assert bands.worst.tolist() == (2 * curves.residual_bands(result).worst).tolist()
    with pytest.raises(ValueError, match=r"it must be \(K, B\) = \(5, 10\)"):
        curves.error_bands(result, error.T)


def test_the_run_table_says_who_ran_what_and_how_each_sample_ended():
    mixed = np.stack([[1.0, 0.1, 1e-7, NAN], [1.0, 0.5, 0.4, 0.3]], 1)
    table = curves.run_table({"a": synthetic(mixed, rtol=1e-6), "b": forward(TENTHS)})
    assert table.run.tolist() == ["a", "b"]
    assert table.method.tolist() == ["anderson", "picard"]
    first = table.iloc[0]
    assert (first.samples, first.converged, first.num_evals) == (2, 1, 4)
    assert (first.evaluations_median, first.evaluations_worst) == (3, 4)
    assert (first.residual_median, first.residual_worst) == (1e-7, 0.3)
    assert first.status == "1 CONVERGED, 1 MAX_ITER"
    assert first.seconds == 4.0


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_empty_results_give_empty_columns(shape):
    result = synthetic(np.ones(shape), status=Status.CANCELLED)
    assert len(curves.residual_bands(result)) == shape[0]
    assert curves.heat_map(result).shape == shape[::-1]
    assert curves.events(result).empty
    assert curves.time_split(result).part.tolist() == ["map", "method"]
    assert len(curves.run_table({"empty": result})) == 1


def test_columns_of_a_real_solve_agree_with_its_result():
    result = SolveSpec(problem=Affine(size=20, batch_size=5), profile=True).run()
    bands, split = curves.residual_bands(result), curves.time_split(result)
    assert len(bands) == result.num_evals
    worst = result.relative_residual.max()
    assert bands.worst.iloc[-1] == pytest.approx(float(worst))
    assert split.seconds.sum() == pytest.approx(result.seconds)
    assert split.part.tolist() == ["map", "gram", "solve", "mix", "bookkeeping"]
    assert int(curves.heat_map(result).notna().to_numpy().sum()) == int(result.sample_evals.sum())
