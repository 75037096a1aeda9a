"""Trains into a folder, a checkpoint after every batch: `python killed_training.py FOLDER`."""

import sys

import torch
from train_cases import IMAGES, tiny

from andersonn_core.training import trainer

SPEC = tiny(validation=0.2, warm_start=True)

if __name__ == "__main__":
    torch.set_num_threads(1)
    trainer.SAVE_SECONDS = 0.0
    SPEC.run(
        lambda event: print(type(event).__name__, flush=True), images=IMAGES, folder=sys.argv[1]
    )
