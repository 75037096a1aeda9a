"""Kill a training with SIGKILL at random moments, resume it, compare its bits: `make bench-kills`.

Each round kills a training of its own again and again, after waits that are drawn at random, until
it has ended, with a checkpoint after every batch so that many kills fall into the writing of one.
It must end with the weights, to the last bit, of a training that nobody touched.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path

import torch
from rich.progress import track

from andersonn_core.data import load_digits
from andersonn_core.training import TrainSpec, trainer
from andersonn_core.training.checkpoints import Checkpoints

SPEC = TrainSpec(train_images=120, test_images=24, batch_size=20, epochs=2, rtol=1e-2, max_iter=8,
                 validation=0.2)  # fmt: skip


def train(folder: str | None) -> str:
    """Train, or go on; the digest of the weights."""
    torch.set_num_threads(1)
    trainer.SAVE_SECONDS = 0.0
    return SPEC.run(images=load_digits(), folder=folder, resume=True).weights_digest


def kill_until_done(folder: Path, draw: random.Random, longest: float) -> int:
    """Start, wait for up to `longest` seconds, kill, until one ends; how often it was killed."""
    kills = 0
    context = multiprocessing.get_context("fork")  # imports are made already
    while True:
        process = context.Process(target=train, args=(str(folder),))
        process.start()
        process.join(draw.uniform(0, longest))
        if not process.is_alive():
            if process.exitcode:
                raise RuntimeError(f"a resumed training ended with code {process.exitcode}")
            return kills
        if process.pid is not None:
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1


def main() -> int:
    """Kill, compare, count."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start, draw, kills, wrong = time.perf_counter(), random.Random(0), 0, 0
    expected = train(None)
    longest = 0.6 * (time.perf_counter() - start)
    for _ in track(range(arguments.rounds), "killing"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            kills += kill_until_done(folder, draw, longest)
            wrong += train(name) != expected
            assert Checkpoints(folder).steps
    print(f"{kills} kills in {arguments.rounds} trainings: {wrong} ended with other bits.")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
