"""The bookkeeping of the comparison in training, on trainings of half a second."""

import math

import numpy as np
import pytest
import torch
from train_cases import IMAGES, same_bits, tiny

from andersonn_core import Anderson, Picard
from andersonn_core.student import geometric_mean, mean_interval
from andersonn_core.training import Trainer
from andersonn_core.training.inference import inference
from andersonn_core.training.regimes import (
    MEASURES,
    REGIMES,
    Regime,
    agreement,
    compared,
    compute_saved,
    contest,
    fluctuation,
    in_turns,
    measured,
    seconds_to,
)

PART = IMAGES.subset(60, 24)
SHORT = Regime("short", "", {"rtol": 1e-2, "max_iter": 6})


@pytest.fixture(scope="module")
def results():
    torch.set_num_threads(1)
    spec = tiny(adjoint_rtol=0.5, adjoint_method=Anderson(window=2))
    others = {"other": lambda spec: Trainer(spec.replace(epochs=1), images=IMAGES)}
    return contest(spec, SHORT, IMAGES, others=others)


def test_both_methods_train_with_what_the_regime_grants_from_the_same_seed(results):
    forward, anderson = results["forward"].spec, results["anderson"].spec
    assert (forward.method, forward.adjoint_method) == (Picard(), None)
    assert anderson.method == Anderson()
    for spec in (forward, anderson):
        assert (spec.rtol, spec.max_iter, spec.adjoint_rtol) == (1e-2, 6, None)
    assert forward.seed == anderson.seed and len(results["other"].epochs) == 1


def test_training_in_turns_gives_the_bits_of_training_alone(results):
    alone = results["anderson"].spec.run(images=IMAGES)
    assert same_bits(alone.weights, results["anderson"].weights)


def test_trainers_take_turns_batch_by_batch():
    told = []
    trainers = {
        name: Trainer(tiny(epochs=1), lambda event, name=name: told.append(name), images=IMAGES)
        for name in ("first", "second")
    }
    in_turns(trainers)
    batch = ["first", "second"]
    assert [name for name in told if name][:2] == ["first", "first"]  # Started, BatchDone
    steps = [name for index, name in enumerate(told) if index not in (0, 2)]
    assert steps[:4] == batch * 2


def test_equal_time_ends_both_at_the_budget():
    both = contest(tiny(), REGIMES["time"], PART.subset(), seconds=0.3)
    for result in both.values():
        assert result.reason == "seconds" and result.seconds >= 0.3
        before = result.batches.seconds.iloc[-2] if len(result.batches) > 1 else 0.0
        assert before < 0.3


def test_measures_are_those_of_the_tables(results):
    rows = measured(results, PART)
    assert set(rows) == {"forward", "anderson", "other"}
    for name, result in results.items():
        row = rows[name]
        batches, last = result.batches, result.epochs.iloc[-1]
        assert row["evals"] == (batches.forward_evals + batches.adjoint_evals).sum() / len(batches)
        assert row["evals_last"] == last.forward_evals + last.adjoint_evals
        assert row["forward_unconverged"] == batches.forward_unconverged.sum() / (
            batches.batch_size.sum()
        )
        assert row["epochs"] == len(result.epochs)
        first = batches[batches.epoch == 1].seconds.iloc[-1]
        assert row["batch_first"] == pytest.approx(first / 3)
        assert row["test_accuracy"] == result.test_accuracy
    assert 0 <= rows["forward"]["agreement"] <= 1 and "agreement" not in rows["other"]


def test_the_agreement_of_a_method_with_itself_is_whole(results):
    assert agreement(results["forward"], [Picard(), Picard()], PART) == 1.0
    loose = agreement(results["forward"], [Picard(), Anderson()], PART)
    assert loose * 24 == pytest.approx(round(loose * 24))


def test_fluctuation_and_seconds_to_an_accuracy(results):
    scores = results["anderson"].epochs.test_accuracy
    assert fluctuation(results["anderson"]) == pytest.approx(abs(scores[1] - scores[0]))
    assert math.isnan(fluctuation(results["other"]))
    assert seconds_to(results["anderson"], 0.0) == results["anderson"].epochs.seconds[0]
    assert math.isinf(seconds_to(results["anderson"], 1.1))


def test_over_seeds_ratios_are_geometric_means_and_differences_are_paired():
    rng = np.random.default_rng(0)
    seeds = [
        {who: {key: rng.uniform(0.5, 1) for key in MEASURES} for who in ("forward", "anderson")}
        for _ in range(5)
    ]
    table = compared(seeds).set_index("measure")
    pairs = [(row["forward"]["seconds"], row["anderson"]["seconds"]) for row in seeds]
    ratio, ends = geometric_mean([a / b for a, b in pairs])
    assert tuple(table.loc["seconds", ["effect", "low", "high"]]) == (ratio, *ends)
    gains = [100 * (row["anderson"]["test_accuracy"] - row["forward"]["test_accuracy"])
             for row in seeds]  # fmt: skip
    mean, ends = mean_interval(gains)
    found = table.loc["test_accuracy", ["effect", "low", "high"]]
    assert found.tolist() == pytest.approx([mean, *ends])
    assert compared(seeds[:1]).low.isna().all()


def test_the_interval_of_a_mean_is_students():
    mean, (low, high) = mean_interval([1.0, 2.0, 3.0])
    assert mean == 2.0 and high - mean == pytest.approx(4.303 / math.sqrt(3)) == mean - low


def test_compute_saved_is_the_speed_up_in_other_words():
    assert compute_saved(2.0) == 0.5 and compute_saved(8.6) == pytest.approx(0.884, abs=1e-3)


def test_inference_reads_the_same_images_with_both_methods(results):
    frame = inference(
        results["anderson"], {"forward": Picard(), "anderson": Anderson()}, PART, (1, 4), 2
    )
    assert frame[["method", "batch_size"]].to_numpy().tolist() == [
        ["forward", 1], ["anderson", 1], ["forward", 4], ["anderson", 4],
    ]  # fmt: skip
    assert (frame.low <= frame.seconds).all() and (frame.evals <= 6).all()
    assert np.allclose(frame.images_per_second, frame.batch_size / frame.seconds)


def test_another_equilibrium_trains_in_the_same_loop():
    """Forty plain steps on the tape: another way to z*, with no layer of ours."""

    def unrolled(cell):
        def equilibrium(x):
            z = cell.initial_state(x)
            for _ in range(4):
                z = cell(z, x)
            return z

        return equilibrium

    result = Trainer(tiny(epochs=1), images=IMAGES, equilibrium=unrolled).run()
    assert result.evals == 0 and len(result.batches) == 3
    assert result.batches.loss.iloc[-1] < result.batches.loss.iloc[0]
