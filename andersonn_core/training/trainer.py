"""The training loop, a batch at a time, so that two of them can take turns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor, nn

from andersonn_core.curves import residual_bands
from andersonn_core.data import ImageSet
from andersonn_core.faults import is_device_failure, is_out_of_memory
from andersonn_core.models import Equilibrium, Network
from andersonn_core.outcome import attach_partial
from andersonn_core.runcard import RunCard, device_name
from andersonn_core.specs import KnobError
from andersonn_core.training.batches import Batches, learning_rate, split
from andersonn_core.training.checkpoints import FREE, Checkpoint, Checkpoints
from andersonn_core.training.control import Control
from andersonn_core.training.events import (
    BatchDone,
    Changed,
    Ended,
    EpochDone,
    Reason,
    Saved,
    Started,
    TrainEvent,
)
from andersonn_core.training.failures import (
    CheckpointError,
    NotFiniteError,
    TrainingError,
    device_failed,
    not_finite,
    out_of_memory,
)
from andersonn_core.training.learner import Learned, Learner
from andersonn_core.training.reading import Tested, read, spectral_radii
from andersonn_core.training.result import TrainResult
from andersonn_core.training.spec import TrainSpec
from andersonn_core.training.standing import Standing, epoch_numbers

SAVE_SECONDS = 30.0  # between two checkpoints within an epoch


class Trainer:
    """One training: `run` to its end, or `step` a batch at a time.

    `on_event` sees every event in the thread that trains, between two batches: it may read
    `network` then, and its time counts as nobody's. `should_stop`, or `control.stop()`, ends a
    training within one evaluation of the cell. With a `folder`, checkpoints are written there at
    the start, every 30 s, after each epoch and at the end; with resume=True it goes on from the
    newest, or begins where there is none. `equilibrium(cell)` gives another x -> z* in place of the
    spec's layer, to compare with: its evaluations are not counted.

    Raises KnobError for impossible knobs, DataError for data that are missing or damaged,
    CheckpointError for a folder that cannot be used and TrainingError for a training that cannot go
    on: NaN, memory, a GPU that failed. The errors say what to do and hold a `partial_result`.
    """

    def __init__(
        self,
        spec: TrainSpec,
        on_event: Callable[[TrainEvent], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        *,
        control: Control | None = None,
        images: ImageSet | None = None,
        folder: str | Path | None = None,
        resume: bool = False,
        equilibrium: Callable[[nn.Module], Equilibrium] | None = None,
    ) -> None:
        self.spec = spec
        self.control = control or Control()
        self._on_event, self._asked = on_event, should_stop
        self._images = spec.load() if images is None else spec.part_of(images)
        self._learner = Learner(spec, self._images.image_shape, self._should_stop, equilibrium)
        self._take_images(self._images)
        self.at = Standing(spec, Batches(len(self._train[1]), spec.seed))
        self._checkpoints = None if folder is None else Checkpoints(folder)
        self._card = RunCard.capture(
            spec.to_dict(), spec.spec_id, spec.seed, spec.torch_device, self._images.sha256
        )
        self._notes: tuple[str, ...] = ()
        self._saved = -1  # the step of the newest checkpoint
        self._begun = False
        if self._checkpoints is not None:
            self._look_into(self._checkpoints, resume)
        self.control.bind(self.at.spec)
        self._began = self._saved_at = time.perf_counter()

    # -- what a user asks -------------------------------------------------------------------------

    @property
    def network(self) -> Network:
        """The network, with its layer as `network.equilibrium` where it has one."""
        return self._learner.network

    @property
    def progress(self) -> float:
        """The part of the training that is done, 0 to 1."""
        return self.at.progress(self.spec)

    def run(self) -> TrainResult:
        """Train to the end."""
        while self.step():
            pass
        return self.result()

    def step(self) -> bool:
        """One batch, and after an epoch's last one a test; False once the training is over."""
        try:
            return self._step()
        except NotFiniteError as error:
            what, spec = error.what.capitalize(), self.at.spec
            sentence = not_finite(what, spec, self.at.step + 1, self.at.epoch, self._kept)
            self._fail(TrainingError(sentence), error)
        except CheckpointError as error:
            self._fail(error, error.__cause__)
        except KnobError as error:  # a solve that would not fit into the memory
            self._fail(TrainingError(f"{error} {self._kept}"), error)
        except Exception as error:
            self._fail(TrainingError(self._remedy(error)), error)

    def _remedy(self, error: Exception) -> str:
        """What to do about a failure; one that nobody foresaw is raised."""
        if is_out_of_memory(error):
            return out_of_memory(self.at.spec, self._kept)
        if is_device_failure(error):
            return device_failed(error, self.at.spec, self.at.step + 1, self._kept)
        raise error

    def result(self) -> TrainResult:
        """What there is so far."""
        at = self.at
        return TrainResult(
            card=self._card, reason=at.reason or "stopped", sentence=at.sentence,
            batches=at.by_batch.frame(), epochs=at.by_epoch.frame(), changes=list(at.changes),
            weights={name: value.clone() for name, value in self.network.state_dict().items()},
            best_epoch=at.best_epoch, best_weights=at.best_weights,
            image_shape=self._images.image_shape, train_images=len(self._train[1]),
            clock=self._learner.clock.name,
            notes=self._notes,
        ).with_summary()  # fmt: skip

    # -- the loop ---------------------------------------------------------------------------------

    def _step(self) -> bool:
        self._begin()
        if self.at.reason is not None:
            return False
        self.control.wait(self._should_stop)
        if self.at.untested:  # it was stopped in a test
            return self._end_epoch()
        self._apply_changes()
        rows = self.at.batches.next(self.at.spec.batch_size)
        learned = None if self._should_stop() else self._learn(rows)
        if learned is None:
            return self._stop()
        self._count(learned, rows)
        budget = self.spec.seconds
        if self.at.untested or (budget is not None and self.at.seconds >= budget):
            self.at.untested = True
            return self._end_epoch()
        if time.perf_counter() - self._saved_at > SAVE_SECONDS:
            self._save()
        return True

    def _begin(self) -> None:
        """Tell what begins; a first checkpoint shows before any work whether the disk takes it."""
        if self._begun:
            return
        self._begun = True
        parameters = sum(parameter.numel() for parameter in self.network.parameters())
        self._emit(
            Started(
                spec=self.at.spec.to_dict(), step=self.at.step, progress=self.progress,
                data=self._images.label, train_images=len(self._train[1]),
                validation_images=len(self._validation[1]), test_images=len(self._test[1]),
                parameters=parameters, device=device_name(self.spec.torch_device),
                clock=self._learner.clock.name, notes=self._notes,
            )
        )  # fmt: skip
        if self.at.reason is not None:
            self._tell_end(self.at.reason, self.at.sentence)
        elif self._saved != self.at.step:
            self._save()

    def _apply_changes(self) -> None:
        spec, knobs = self.control.take()
        if knobs:
            self._learner.change(spec)
            changed = Changed(self.at.step + 1, self.at.batches.epoch + 1, _plain(knobs))
            self.at.change(spec, changed)
            self._emit(changed)

    def _learn(self, rows: Tensor) -> Learned | None:  # (B,)
        images, labels = self._train
        places = rows.to(labels.device)
        rate = learning_rate(self.at.spec, self.progress)
        return self._learner.learn(images[places], labels[places], rate, self.at.spec.penalty)

    def _count(self, learned: Learned, rows: Tensor) -> None:  # (B,)
        at = self.at
        at.step += 1
        at.seconds += learned.seconds
        at.evals += learned.forward.evals + learned.adjoint.evals
        done = self._batch_done(learned, rows)
        at.add_batch(done)
        if self._on_event is not None and learned.solve is not None:
            bands = residual_bands(learned.solve)
            median, worst = tuple(bands["median"].tolist()), tuple(bands["worst"].tolist())
            done = replace(done, residual_median=median, residual_worst=worst)
        self._emit(done)

    def _batch_done(self, learned: Learned, rows: Tensor) -> BatchDone:  # (B,)
        at, forward, adjoint = self.at, learned.forward, learned.adjoint
        labels = self._train[1]
        return BatchDone(
            step=at.step, epoch=at.batches.epoch + 1,
            progress=at.progress(self.spec, len(rows)), batch_size=len(rows),
            learning_rate=learned.rate, loss=learned.loss,
            accuracy=self._accuracy(learned.predicted, labels[rows.to(labels.device)]),
            seconds=at.seconds, wall_seconds=self._wall_seconds(), evals=at.evals,
            forward_evals=forward.evals, forward_sample_evals=forward.sample_evals,
            forward_residual=forward.residual, forward_unconverged=forward.unconverged,
            adjoint_evals=adjoint.evals, adjoint_sample_evals=adjoint.sample_evals,
            adjoint_residual=adjoint.residual, adjoint_unconverged=adjoint.unconverged,
            gradient_norm=learned.gradient_norm, phases=learned.phases,
        )  # fmt: skip

    # -- an epoch's end, and the training's -------------------------------------------------------

    def _end_epoch(self) -> bool:
        """Test; whether the training goes on."""
        test, valid = self._read(self._test), self._read(self._validation)
        assert test is not None
        radii = spectral_radii(self._learner, self._test[0][: self.at.spec.spectrum])
        if self._should_stop():  # in the middle of a solve, perhaps: the test is made again
            return self._stop()
        at = self.at
        done = EpochDone(
            epoch=at.epoch, step=at.step, seconds=at.seconds, wall_seconds=self._wall_seconds(),
            evals=at.evals, validation_accuracy=self._score(valid, self._validation),
            test_loss=test.loss, test_accuracy=self._score(test, self._test),
            test_seconds=test.seconds, test_evals=test.evals, test_unconverged=test.unconverged,
            spectral_radius=float(radii.median()), spectral_radius_worst=float(radii.max()),
            **epoch_numbers(at.rows_of_epoch()),
        )  # fmt: skip
        at.add_epoch(done, self.network.state_dict())
        self._emit(done)
        ending = self._ending(done)
        if ending is not None:
            return self._end(*ending)
        self._save()
        return True

    def _ending(self, done: EpochDone) -> tuple[Reason, str] | None:
        """Why the training is over, if it is."""
        at, spec = self.at, self.spec
        if spec.seconds is not None and at.seconds >= spec.seconds:
            return "seconds", f"{spec.seconds:g} seconds of training are over."
        if spec.seconds is None and at.batches.epoch >= spec.epochs:
            return "finished", f"All {spec.epochs} epochs are done."
        waited = done.epoch - (at.best_epoch or 0)
        if spec.patience is not None and waited >= spec.patience:
            return "patience", (
                f"Epoch {at.best_epoch} is still the best on the validation part after "
                f"{waited} more."
            )
        return None

    def _stop(self) -> bool:
        """Leave a checkpoint from which it goes on; False."""
        self._save()
        self._tell_end("stopped", "The training was stopped; resumed, it goes on from there.")
        return False

    def _end(self, reason: Reason, sentence: str) -> bool:
        """Come to an end for good; False."""
        self.at.reason, self.at.sentence = reason, sentence
        self._save()
        self._tell_end(reason, sentence)
        return False

    def _fail(self, error: TrainingError, cause: BaseException | None) -> NoReturn:
        self.at.reason, self.at.sentence = "failed", str(error)
        self._tell_end("failed", str(error))
        attach_partial(error, self.result)
        raise error from cause

    def _tell_end(self, reason: Reason, sentence: str) -> None:
        self.at.sentence = sentence
        self._emit(Ended(reason, sentence, self.at.step, self.at.seconds, self._wall_seconds()))

    # -- checkpoints ------------------------------------------------------------------------------

    @property
    def _kept(self) -> str:
        if self._checkpoints is None:
            return "There is no checkpoint: give a folder next time."
        return self._checkpoints.kept

    def _look_into(self, checkpoints: Checkpoints, resume: bool) -> None:
        """Go on from the newest checkpoint, or see to it that none is overwritten."""
        if not resume:
            if checkpoints.steps:
                raise CheckpointError(
                    f"{checkpoints.folder} holds a training already, at step "
                    f"{checkpoints.steps[-1]}: go on with resume=True, or give another folder."
                )
            return
        found = checkpoints.read()
        if found is not None:
            found.check(self.spec, self._card.data_hashes, checkpoints.folder)
            self._restore(found)

    def _restore(self, found: Checkpoint) -> None:
        self.at.restore(found.record, found.tensors)
        free = {name: getattr(self.spec, name) for name in FREE}
        self.at.spec = self.at.spec.replace(**free)
        self._learner.restore(found.record["warm_start"], found.tensors)
        self._learner.change(self.at.spec)
        self._saved = found.record["step"] if not found.notes else -1
        versions = found.record["versions"]
        self._notes = found.notes + tuple(
            f"{name} was {version}, is {self._card.versions.get(name)}: the last bits may differ."
            for name, version in versions.items()
            if name in ("torch", "numpy") and version != self._card.versions.get(name)
        )

    def _save(self) -> None:
        self._saved_at = time.perf_counter()
        if self._checkpoints is None:
            return
        record = self.at.record() | {
            "original": self.spec.to_dict(), "versions": self._card.versions,
            "data_hashes": self._card.data_hashes, "wall_seconds": self._wall_seconds(),
            "warm_start": self._learner.warm_start(),
        }  # fmt: skip
        tensors = self.at.tensors() | self._learner.tensors()
        path = self._checkpoints.write(self.at.step, record, tensors)
        self._saved = self.at.step
        self._emit(Saved(self.at.step, str(path)))

    # -- small things -----------------------------------------------------------------------------

    def _take_images(self, images: ImageSet) -> None:
        """The three parts as (images, labels), on the device, in the network's type."""
        spec = self.spec
        learn, valid = split(len(images.train_labels), spec.validation, spec.seed)

        def placed(pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            return pixels.to(spec.torch_device, spec.torch_dtype), labels.to(spec.torch_device)

        self._train = placed(images.train_images[learn], images.train_labels[learn])
        self._validation = placed(images.train_images[valid], images.train_labels[valid])
        self._test = placed(images.test_images, images.test_labels)

    def _should_stop(self) -> bool:
        return self.control.stopping or (self._asked is not None and self._asked())

    def _read(self, part: tuple[Tensor, Tensor]) -> Tested | None:
        return read(self._learner, *part) if len(part[1]) else None

    def _score(self, tested: Tested | None, part: tuple[Tensor, Tensor]) -> float:
        return math.nan if tested is None else self._accuracy(tested.predicted, part[1])

    def _accuracy(self, predicted: Tensor, labels: Tensor) -> float:  # (N,), (N,)
        if self._images.synthetic:
            return math.nan
        return self._images.accuracy(predicted, labels)

    def _wall_seconds(self) -> float:
        return self.at.wall_seconds + time.perf_counter() - self._began

    def _emit(self, event: TrainEvent) -> None:
        if self._on_event is not None:
            self._on_event(event)


def _plain(knobs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.to_dict() if hasattr(value, "to_dict") else value
            for name, value in knobs.items()}  # fmt: skip
