"""What a run leaves behind for the page: frames within their budget, caches within their bytes."""

import threading
import time

import numpy as np
import pytest
import torch
from lab_cases import specs

from andersonn_core import PROBLEMS, Anderson, Picard, SolveSpec
from andersonn_core.cache import OVERHEAD, Cache, num_bytes
from lab import frames
from lab.frames import Frames


def test_predictions_of_digits_settle_into_those_of_the_answer(lab, document):
    spec = SolveSpec(problem=PROBLEMS["digits_deq"](batch_size=3), method=Anderson(), rtol=1e-3)
    update = document.run_until_ended(lab.submit({"anderson": spec}), methods=1)[-1]
    frames = update.frames
    assert frames.evaluations == list(range(1, update.result.num_evals + 1))
    first, last = frames.prediction(1), frames.prediction(10**6)
    assert first.shape == last.shape == (3, 10)
    answer = update.problem.predict(update.result.z).numpy()
    np.testing.assert_allclose(last, answer, atol=0.05)
    assert (last.argmax(1) == answer.argmax(1)).all()
    assert frames.state(1) is None and frames.picture(1) is None and frames.prediction(0) is None


@pytest.mark.parametrize("name", ["poisson", "sinkhorn"])
def test_pictures_play_back(lab, document, name):
    spec = SolveSpec(problem=PROBLEMS[name](batch_size=2, size=8), method=Anderson(window=3))
    update = document.run_until_ended(lab.submit({"anderson": spec}), methods=1)[-1]
    problem, frames = update.problem, update.frames
    assert frames.picture(1, 1).shape == (8, 8)
    np.testing.assert_array_equal(frames.state(1), problem.z0.numpy())
    np.testing.assert_array_equal(frames.picture(1, 1), problem.picture(problem.z0)[1].numpy())
    assert not np.array_equal(frames.picture(1, 1), frames.picture(5, 1))
    assert frames.picture(1, 2) is None


def test_frames_of_a_long_run_are_thinned_to_the_budget(lab, document, monkeypatch):
    monkeypatch.setattr(frames, "BUDGET", 40_000)
    spec = SolveSpec(problem=PROBLEMS["poisson"](size=16), method=Picard(), rtol=0.0, max_iter=300)
    kept = document.run_until_ended(lab.submit({"picard": spec}), methods=1)[-1].frames
    assert kept.nbytes <= 40_000
    steps = np.diff(kept.evaluations)
    assert kept.evaluations[0] == 1 and len(set(steps)) == 1 and len(steps) > 15
    np.testing.assert_array_equal(kept.state(300), kept.state(kept.evaluations[-1]))


def test_of_large_states_only_the_first_samples_are_kept(monkeypatch):
    monkeypatch.setattr(frames, "MOST_STATE", 3 * 64 * 4)
    kept = Frames(PROBLEMS["poisson"](size=8, batch_size=9).build())
    assert kept.samples == 3
    assert Frames(PROBLEMS["tanh"](size=8).build()).samples == 0


def test_the_cache_drops_the_least_recently_used_by_bytes():
    cache: Cache[torch.Tensor] = Cache(limit=3 * (1000 + OVERHEAD))
    for key in "abc":
        cache.put(key, torch.zeros(250))
    assert cache.get("a") is not None
    cache.put("d", torch.zeros(250))
    assert [cache.get(key) is not None for key in "abcd"] == [True, False, True, True]
    cache.put("huge", torch.zeros(10**6))
    assert cache.get("huge") is None and cache.get("a") is not None
    assert cache.bytes == 3 * (1000 + OVERHEAD)
    cache.clear()
    assert cache.bytes == 0


def test_bytes_count_everything_that_a_result_holds():
    result = specs()["anderson"].run()
    rows, batch = result.history.relative_residual.shape
    assert num_bytes(result) > 6 * 8 * rows * batch
    nested = {"a": [np.zeros(3), (torch.zeros(2, dtype=torch.float64),)], "b": "text"}
    assert num_bytes(nested) == 40


def test_a_problem_is_built_once_however_many_ask():
    cache: Cache[torch.Tensor] = Cache(10_000)
    made, together = [], threading.Barrier(8)

    def make() -> torch.Tensor:
        made.append(1)
        time.sleep(0.02)
        return torch.zeros(1)

    def ask() -> None:
        together.wait()
        cache.get_or_make("key", make)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
