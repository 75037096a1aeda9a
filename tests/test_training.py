"""A training is a function of its spec and seed; its events say what it does."""

import math

import pandas as pd
import pytest
import torch
from train_cases import IMAGES, Events, same_bits, tiny

from andersonn_core import GRADIENTS, KnobError, Picard
from andersonn_core.methods import Anderson
from andersonn_core.training import (
    BatchDone,
    Changed,
    Control,
    Ended,
    EpochDone,
    Saved,
    Started,
    Trainer,
    TrainResult,
    TrainSpec,
)
from andersonn_core.training.batches import Batches, learning_rate, split


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# the spec


def test_a_spec_survives_json_and_has_an_id_that_leaves_seed_and_device_out():
    spec = tiny(method=Anderson(window=3), adjoint_method=Picard(), gradient=GRADIENTS["phantom"]())
    assert TrainSpec.from_json(spec.to_json()) == spec
    assert spec.replace(seed=5).spec_id == spec.spec_id != spec.replace(rtol=1e-3).spec_id
    assert spec.replace(**{"method.window": 4}).method.window == 4


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"data": "digit"}, "Did you mean 'digits'?"),
        ({"model": "dep"}, "Did you mean 'deq'?"),
        ({"batch_size": 0}, "at least 1|1 to"),
        ({"patience": 2}, "validation=0.1"),
        ({"model": "resnet", "penalty": 1.0}, "'resnet' has not"),
        ({"gradient": GRADIENTS["shine"](), "method": Picard()}, "shine"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_any_work(knobs, words):
    with pytest.raises(KnobError, match=words):
        tiny(**knobs)


def test_too_many_images_or_images_of_another_set_are_refused():
    with pytest.raises(KnobError, match="there are 1437"):
        tiny(train_images=5000).run(images=IMAGES)
    with pytest.raises(KnobError, match="'synthetic'"):
        tiny(data="synthetic").run(images=IMAGES)


# the order of the images, the schedule


def test_each_pass_sees_every_image_once_whatever_the_batches_sizes():
    batches, seen = Batches(50, seed=1), []
    for size in (7, 20, 13, 13):
        rows = batches.next(size)
        seen += rows.tolist()
        ended = batches.advance(len(rows))
    assert ended and sorted(seen) == list(range(50)) and batches.passes == 1
    assert not torch.equal(batches.order, torch.tensor(seen))


def test_the_cosine_is_that_of_torch():
    spec = tiny(learning_rate=0.1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20, eta_min=1e-6)
    for step in range(20):
        assert learning_rate(spec, step / 20) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert learning_rate(spec.replace(schedule="constant"), 0.7) == 0.1


def test_the_validation_part_is_split_off_the_training_part():
    learn, valid = split(100, 0.2, seed=3)
    assert len(valid) == 20 and sorted([*learn.tolist(), *valid.tolist()]) == list(range(100))
    assert torch.equal(split(100, 0.2, seed=3)[1], valid) and len(split(100, 0.0, 3)[1]) == 0


# a run


@pytest.fixture(scope="module")
def told():
    events = Events()
    return tiny().run(events.append, images=IMAGES), events


def test_the_same_seed_gives_the_same_bits_and_another_one_others(told):
    result, _ = told
    again = tiny().run(images=IMAGES)  # without a listener
    assert same_bits(result.weights, again.weights)
    assert again.weights_digest == result.weights_digest
    assert not same_bits(tiny(seed=1, epochs=1).run(images=IMAGES).weights, again.weights)


def test_events_come_in_order(told):
    _, events = told
    epoch = ["BatchDone"] * 3 + ["EpochDone"]
    assert events.kinds == ["Started", *epoch, *epoch, "Ended"]
    assert [done.step for done in events.of(BatchDone)] == [1, 2, 3, 4, 5, 6]
    assert [done.epoch for done in events.of(BatchDone)] == [1, 1, 1, 2, 2, 2]
    assert [done.epoch for done in events.of(EpochDone)] == [1, 2]
    progress = [done.progress for done in events.of(BatchDone)]
    assert progress == pytest.approx([(step + 1) / 6 for step in range(6)])
    (started,), (ended,) = events.of(Started), events.of(Ended)
    assert (started.train_images, started.test_images, started.parameters) == (60, 24, 63978)
    assert ended.reason == "finished" and ended.step == 6


def test_a_batch_tells_of_its_solves(told):
    _, events = told
    for done in events.of(BatchDone):
        assert len(done.residual_median) == done.forward_evals <= 8
        assert done.forward_sample_evals <= done.forward_evals
        assert done.residual_worst[-1] == pytest.approx(done.forward_residual)
        assert 0 < done.adjoint_evals <= 8 and done.adjoint_residual > 0
        assert all(part >= 0 for part in vars(done.phases).values())
    totals = [done.forward_evals + done.adjoint_evals for done in events.of(BatchDone)]
    assert events.of(BatchDone)[-1].evals == sum(totals)


def test_the_phases_add_up_to_the_seconds(told):
    result, events = told
    assert sum(vars(result.phases).values()) == pytest.approx(result.seconds)
    epochs = events.of(EpochDone)
    assert sum(done.epoch_seconds for done in epochs) == pytest.approx(result.seconds)


def test_an_epoch_is_the_mean_of_its_batches(told):
    result, _ = told
    first = result.batches[result.batches.epoch == 1]
    assert result.epochs.train_accuracy[0] == pytest.approx(first.accuracy.mean())
    assert result.epochs.forward_evals[0] == pytest.approx(first.forward_evals.mean())
    assert result.epochs.adjoint_unconverged[0] == first.adjoint_unconverged.sum()


def test_a_result_is_read_back_as_it_was_and_its_network_predicts_as_it_said(told, tmp_path):
    result, _ = told
    result.save(tmp_path / "result.pt")
    loaded = TrainResult.load(tmp_path / "result.pt")
    pd.testing.assert_frame_equal(loaded.batches, result.batches)
    pd.testing.assert_frame_equal(loaded.epochs, result.epochs)
    assert loaded.card == result.card and same_bits(loaded.weights, result.weights)
    part = IMAGES.subset(60, 24)
    with torch.no_grad():
        predicted = loaded.network()(part.test_images).argmax(1)
    assert part.accuracy(predicted, part.test_labels) == result.test_accuracy
    assert result.card.summary["weights_digest"] == result.weights_digest


def test_no_accuracy_of_synthetic_data_is_ever_told():
    spec = TrainSpec(data="synthetic", train_images=8, test_images=4, batch_size=4, epochs=1,
                     max_iter=2, rtol=0.1)  # fmt: skip
    result = spec.run()
    names = [name for name in result.batches if "accuracy" in name]
    assert names and result.batches[names].isna().all(axis=None)
    names = [name for name in result.epochs if "accuracy" in name]
    assert len(names) == 3 and result.epochs[names].isna().all(axis=None)
    assert math.isnan(result.test_accuracy) and result.card.summary["test_accuracy"] is None


@pytest.mark.parametrize("model", ["explicit", "resnet"])
def test_networks_without_an_equilibrium_train_too(model):
    events = Events()
    result = tiny(model=model, epochs=1, optimizer="sgd", learning_rate=0.01).run(
        events.append, images=IMAGES
    )
    assert result.finished and result.evals == 0
    assert math.isnan(result.batches.forward_residual[0])
    assert same_bits(result.weights, result.network().state_dict())


def test_the_penalty_changes_what_is_learned_and_is_timed():
    result = tiny(epochs=1, penalty=5.0).run(images=IMAGES)
    plain = tiny(epochs=1).run(images=IMAGES)
    assert result.phases.penalty > 10 * plain.phases.penalty
    assert result.batches.loss[0] == plain.batches.loss[0]  # the penalty is not in what is told
    assert not same_bits(result.weights, plain.weights)


def test_patience_ends_at_the_best_validation_epoch_and_keeps_its_weights():
    result = tiny(validation=0.25, patience=1, epochs=30, learning_rate=1e-6).run(images=IMAGES)
    assert result.reason == "patience" and "still the best" in result.sentence
    valid = result.epochs.validation_accuracy
    assert result.best_epoch == valid.idxmax() + 1 == len(valid) - 1
    assert result.best_weights is not None and not same_bits(result.best_weights, result.weights)
    assert result.best_test_accuracy == result.epochs.test_accuracy[result.best_epoch - 1]


def test_a_budget_of_seconds_ends_after_the_batch_that_spends_it():
    result = tiny(seconds=0.2, epochs=1).run(images=IMAGES)
    spent = result.batches.seconds
    assert result.reason == "seconds" and spent.iloc[-1] >= 0.2
    assert len(spent) == 1 or spent.iloc[-2] < 0.2
    assert result.batches.learning_rate.is_monotonic_decreasing
    assert result.epochs.step.iloc[-1] == len(spent)


def test_spectral_radii_are_measured_on_request():
    result = tiny(epochs=1, spectrum=2).run(images=IMAGES)
    assert 0 < result.epochs.spectral_radius[0] <= result.epochs.spectral_radius_worst[0]
    assert same_bits(result.weights, tiny(epochs=1).run(images=IMAGES).weights)


# what another thread may do


def test_changes_hold_from_the_next_batch_on_and_are_in_the_record():
    control, events = Control(), Events()

    def listen(event):
        events.append(event)
        if isinstance(event, BatchDone) and event.step == 2:
            control.change(window=2, mixing=0.5, batch_size=10)
        if isinstance(event, BatchDone) and event.step == 4:
            control.change(method=Picard())

    result = tiny().run(listen, control=control, images=IMAGES)
    assert result.batches.batch_size.tolist() == [20, 20, 10, 10, *[10] * 6]
    first, second = events.of(Changed)
    assert (first.step, first.epoch) == (3, 1) and second.step == 5
    assert first.knobs == {"method.window": 2, "method.mixing": 0.5, "batch_size": 10}
    assert second.knobs["method"]["name"] == "picard"
    assert [change["step"] for change in result.changes] == [3, 5]
    assert result.card.summary["changes"] == result.changes
    assert result.spec == tiny() and result.epochs.epoch.tolist() == [1, 2]


def test_the_methods_of_the_next_solves_are_those_that_were_asked_for():
    control, used = Control(), []

    def listen(event):
        if isinstance(event, BatchDone):
            used.append(trainer.network.equilibrium.last_forward.card.spec["method"])
            control.change(method=Anderson(window=event.step, mixing=0.5))

    trainer = Trainer(tiny(epochs=1), listen, control=control, images=IMAGES)
    trainer.run()
    assert [(m["window"], m["mixing"]) for m in used] == [(5, 1.0), (1, 0.5), (2, 0.5)]


def test_changes_that_cannot_be_are_refused_at_once_and_change_nothing():
    control = Control()
    trainer = Trainer(tiny(), control=control, images=IMAGES)
    for knobs, words in [
        ({"window": 1000}, "window"), ({"epochs": 3}, "new training"), ({"windw": 3}, "windw"),
        ({"batch_size": 10, "mixing": -1.0}, "mixing"),
    ]:  # fmt: skip
        with pytest.raises(KnobError, match=words):
            control.change(**knobs)
    trainer.step()
    assert trainer.at.changes == [] and trainer.at.spec == tiny()


def test_stop_ends_within_one_evaluation_and_leaves_everything_as_before_the_batch():
    control, asked = Control(), []

    def stop_at_the_second_look():
        asked.append(None)
        return len(asked) > 30

    trainer = Trainer(tiny(), control=control, images=IMAGES, should_stop=stop_at_the_second_look)
    result = trainer.run()
    assert result.reason == "stopped" and len(asked) <= 34
    whole = tiny().run(images=IMAGES)
    steps = len(result.batches)
    assert 0 < steps < 6
    pd.testing.assert_series_equal(result.batches.loss, whole.batches.loss[:steps])


def test_a_paused_training_waits_and_goes_on():
    import threading

    control, events = Control(), Events()
    control.pause()
    thread = threading.Thread(
        target=lambda: tiny(epochs=1).run(events.append, control=control, images=IMAGES)
    )
    thread.start()
    thread.join(0.4)
    assert control.paused and events.kinds == ["Started"]
    control.resume()
    thread.join(60)
    assert events.kinds[-1] == "Ended" and len(events.of(BatchDone)) == 3


def test_saved_events_name_files_that_exist(tmp_path):
    from pathlib import Path

    events = Events()
    tiny(epochs=1).run(events.append, images=IMAGES, folder=tmp_path / "run")
    saved = events.of(Saved)
    assert [event.step for event in saved] == [0, 3]
    assert all(Path(event.path).exists() for event in saved)
