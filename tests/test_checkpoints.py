"""A training that is killed, stopped or refused by the disk goes on as if nothing had happened."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from killed_training import SPEC
from train_cases import IMAGES, Events, same_bits, tiny

from andersonn_core import KnobError
from andersonn_core.data import DataError
from andersonn_core.training import (
    BatchDone,
    CheckpointError,
    CheckpointWarning,
    Control,
    Ended,
    Saved,
    Started,
    Trainer,
    TrainingError,
    checkpoints,
    learner,
    trainer,
)

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def at_every_batch(monkeypatch):
    monkeypatch.setattr(trainer, "SAVE_SECONDS", 0.0)


def train(folder, spec=None, **how):
    events = Events()
    result = (spec or tiny()).run(events.append, images=IMAGES, folder=folder, **how)
    return result, events


# killed


def kill_after(batches: int, folder: Path) -> None:
    """Start a training in a process of its own, and kill it in the batch after so many."""
    path = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, HERE / "killed_training.py", folder]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
    ) as training:
        assert training.stdout is not None
        for line in training.stdout:
            batches -= line == "BatchDone\n"
            if not batches:
                os.kill(training.pid, signal.SIGKILL)
                break
    assert training.returncode == -signal.SIGKILL


def test_a_killed_training_resumed_ends_with_the_same_bits_as_one_that_was_not(tmp_path):
    kill_after(4, tmp_path)
    assert checkpoints.Checkpoints(tmp_path).steps[-1] in (3, 4)
    resumed, events = train(tmp_path, SPEC, resume=True)
    whole, _ = train(None, SPEC)
    assert same_bits(resumed.weights, whole.weights)
    assert same_bits(resumed.best_weights, whole.best_weights)
    assert resumed.batches.loss.tolist() == whole.batches.loss.tolist()
    assert resumed.evals == whole.evals and events.of(Started)[0].step >= 3


@pytest.mark.parametrize("moment", ["before", "in", "between", "after"])
def test_a_kill_while_a_checkpoint_is_written_costs_at_most_that_one(
    tmp_path, monkeypatch, at_every_batch, moment
):
    """`moment`: before the first file, in it, between the two files, after both."""
    whole, _ = train(None)

    class KilledError(BaseException):
        pass

    write, count = checkpoints._write, [0]

    def killed(path, data):
        count[0] += 1
        if count[0] == 7 and moment == "before":
            raise KilledError
        if count[0] == 7 and moment == "in":
            path.with_name(f".{path.name}.part").write_bytes(data[: len(data) // 2])
            raise KilledError
        if count[0] == 8 and moment == "between":
            raise KilledError
        write(path, data)
        if count[0] == 8:
            raise KilledError

    monkeypatch.setattr(checkpoints, "_write", killed)
    with pytest.raises(KilledError):
        train(tmp_path)
    monkeypatch.setattr(checkpoints, "_write", write)
    resumed, events = train(tmp_path, resume=True)
    assert events.of(Started)[0].step == (3 if moment == "after" else 2)
    assert same_bits(resumed.weights, whole.weights)
    assert resumed.batches.loss.tolist() == whole.batches.loss.tolist()
    left = sorted(path.suffix for path in tmp_path.iterdir())
    assert left == [".json", ".json", ".safetensors", ".safetensors"]


def test_every_place_to_stop_resumes_to_the_same_bits(tmp_path):
    """Stopped again and again, in forward, adjoint and test solves, after so many looks."""
    spec = tiny(penalty=1.0, validation=0.25)
    whole, _ = train(None, spec)
    runs, looks = 0, 45
    while True:
        seen = []

        def stop(seen=seen, most=looks):
            seen.append(None)
            return len(seen) > most

        result, _ = train(tmp_path, spec, should_stop=stop, resume=True)
        runs += 1
        if result.reason == "finished":
            break
        looks += 7
    assert runs > 2
    assert same_bits(result.weights, whole.weights)
    assert result.epochs.test_accuracy.tolist() == whole.epochs.test_accuracy.tolist()
    assert result.best_epoch == whole.best_epoch


def test_batch_norms_forget_a_batch_that_was_stopped(tmp_path):
    from andersonn_core.training import TrainSpec

    spec = TrainSpec(data="synthetic", train_images=6, test_images=2, batch_size=2, epochs=1,
                     max_iter=3, rtol=0.0)  # fmt: skip
    looks = []
    stopped = Trainer(spec, should_stop=lambda: len(looks) > 8 or looks.append(None))
    before = {}
    while stopped.step():
        before = {name: value.clone() for name, value in stopped.network.state_dict().items()}
    assert stopped.at.step == 1 and same_bits(before, stopped.network.state_dict())


def test_a_finished_training_resumed_is_the_same_result_at_once(tmp_path):
    first, _ = train(tmp_path)
    again, events = train(tmp_path, resume=True)
    assert events.kinds == ["Started", "Ended"] and events.of(Ended)[0].reason == "finished"
    assert same_bits(first.weights, again.weights) and again.seconds == first.seconds


def test_what_was_changed_is_still_in_force_after_a_resume(tmp_path):
    control = Control()

    def change(event):
        if isinstance(event, BatchDone) and event.step == 1:
            control.change(window=1, batch_size=15)
        if isinstance(event, BatchDone) and event.step == 2:
            control.stop()

    tiny().run(change, control=control, images=IMAGES, folder=tmp_path)
    result, events = train(tmp_path, resume=True)
    assert result.batches.batch_size.tolist() == [20, 15, 15, 10, 15, 15, 15, 15]
    assert events.of(Started)[0].spec["method"]["window"] == 1
    assert [change["step"] for change in result.changes] == [2] and result.spec == tiny()


# refused


def test_a_folder_with_a_training_is_not_overwritten(tmp_path):
    train(tmp_path)
    with pytest.raises(CheckpointError, match="resume=True"):
        train(tmp_path)


def test_a_checkpoint_of_another_spec_is_refused_with_what_differs(tmp_path):
    train(tmp_path)
    with pytest.raises(CheckpointError, match=r"rtol was 0\.01, is 0\.001; seed was 0, is 1"):
        train(tmp_path, tiny(rtol=1e-3, seed=1), resume=True)


def test_other_images_of_the_same_name_are_refused(tmp_path):
    from dataclasses import replace

    train(tmp_path)
    other = replace(IMAGES, train_images=1 - IMAGES.train_images)
    with pytest.raises(CheckpointError, match="other images"):
        tiny().run(images=other, folder=tmp_path, resume=True)


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "json", "unreadable"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, damage):
    whole, _ = train(tmp_path)
    newest, text = tmp_path / "step-00000006.safetensors", tmp_path / "step-00000006.json"
    data = newest.read_bytes()
    if damage == "truncated":
        newest.write_bytes(data[: len(data) // 2])
    elif damage == "changed":
        newest.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "missing":
        newest.unlink()
    elif damage == "json":
        text.write_text(text.read_text()[:-30])
    else:
        text.write_text(json.dumps({"format": 99}))
    with pytest.warns(CheckpointWarning, match="step 6 .* damaged.* one before it, of step 3"):
        resumed, events = train(tmp_path, resume=True)
    assert same_bits(resumed.weights, whole.weights)
    assert "damaged" in events.of(Started)[0].notes[0] and "damaged" in resumed.notes[0]


def test_where_all_are_damaged_nothing_is_deleted_and_the_error_says_what_to_do(tmp_path):
    train(tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"")
    files = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match="None is left: start anew in another folder"):
        train(tmp_path, resume=True)
    assert sorted(tmp_path.iterdir()) == files


# failures


def test_a_full_disk_ends_the_training_in_a_sentence_and_the_last_checkpoint_is_kept(
    tmp_path, monkeypatch
):
    whole, _ = train(None)
    write = checkpoints._write

    def full(path, data):
        if "00000003" in path.name:
            path.with_name(f".{path.name}.part").write_bytes(data[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    monkeypatch.setattr(checkpoints, "_write", full)
    events = Events()
    with pytest.raises(CheckpointError) as caught:
        tiny().run(events.append, images=IMAGES, folder=tmp_path)
    for words in ("step 3", "the disk is full: it takes 1 MiB", "Free some space",
                  "resume=True", "The checkpoint of step 0"):  # fmt: skip
        assert words in str(caught.value)
    assert events.of(Ended)[0].sentence == str(caught.value)
    assert len(caught.value.partial_result.batches) == 3
    monkeypatch.setattr(checkpoints, "_write", write)
    assert same_bits(train(tmp_path, resume=True)[0].weights, whole.weights)


def test_a_folder_that_cannot_be_written_is_refused_before_any_batch(tmp_path):
    (tmp_path / "file").write_text("no folder")
    events = Events()
    with pytest.raises(CheckpointError, match="Give a folder that can be written to"):
        tiny().run(events.append, images=IMAGES, folder=tmp_path / "file")
    assert not events.of(BatchDone)


def test_a_loss_that_is_not_a_number_ends_it_with_step_epoch_and_remedies(tmp_path):
    def poison(event):
        events.append(event)
        if isinstance(event, BatchDone) and event.step == 4:
            with torch.no_grad():
                one.network.head[-1].bias.fill_(torch.nan)

    events = Events()
    one = Trainer(tiny(), poison, images=IMAGES, folder=tmp_path)
    with pytest.raises(TrainingError) as caught:
        one.run()
    for words in ("The loss became NaN", "step 5, in epoch 2", "learning_rate (now 0.001)",
                  "Jacobian penalty", "The checkpoint of step 3"):  # fmt: skip
        assert words in str(caught.value)
    saved = checkpoints.Checkpoints(tmp_path).read()
    assert saved is not None and saved.record["step"] == 3
    assert all(torch.isfinite(value.double()).all() for name, value in saved.tensors.items()
               if name.startswith("weights."))  # fmt: skip


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(monkeypatch):
    one = Trainer(tiny(), images=IMAGES)
    one.step()
    before = {name: value.clone() for name, value in one.network.state_dict().items()}
    one.network.head[-1].weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(TrainingError, match="The gradient became NaN or infinite at step 2"):
        one.step()
    assert same_bits(before, one.network.state_dict())


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory."),
     RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ...")],
    ids=["python", "cuda", "cpu"],
)  # fmt: skip
def test_too_little_memory_names_batch_size_and_window(monkeypatch, error):
    def full(*_):
        raise error

    monkeypatch.setattr(learner, "cross_entropy", full)
    events = Events()
    with pytest.raises(TrainingError, match="batches of 20 and a window of 5: Lower batch_size"):
        tiny().run(events.append, images=IMAGES)
    assert events.kinds == ["Started", "Ended"] and events.of(Ended)[0].reason == "failed"


def test_a_solve_that_would_not_fit_says_so_before_it_begins(monkeypatch):
    from andersonn_core import memory

    monkeypatch.setattr(memory, "available_bytes", lambda device: 1000)
    with pytest.raises(TrainingError, match=r"20 samples of 3072 elements .* GiB available"):
        tiny().run(images=IMAGES)


def test_other_errors_pass_through(monkeypatch):
    def broken(*_):
        raise RuntimeError("some other thing")

    monkeypatch.setattr(learner, "cross_entropy", broken)
    with pytest.raises(RuntimeError, match="some other thing"):
        tiny().run(images=IMAGES)


def test_missing_data_say_what_to_do(monkeypatch):
    from andersonn_core.training import spec

    def missing():
        raise DataError("Fetch it.")

    monkeypatch.setitem(spec.DATASETS, "cifar10", missing)
    with pytest.raises(DataError, match="Fetch it"):
        tiny(data="cifar10").run()


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    with pytest.raises(KnobError, match="this machine has cpu"):
        tiny(device="cuda:9").run(images=IMAGES)


def test_only_two_checkpoints_are_kept(tmp_path, at_every_batch):
    _, events = train(tmp_path)
    assert [event.step for event in events.of(Saved)] == [0, 1, 2, 3, 4, 5, 6]
    assert checkpoints.Checkpoints(tmp_path).steps == [5, 6]
    assert len(list(tmp_path.iterdir())) == 4
