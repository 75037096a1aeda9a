"""What comes out of a solve can be written, read back, framed and checked."""

import numpy as np
import pytest
import torch

from andersonn_core import NotConvergedError, Picard, SolveResult, Status, solve


def halve(z):
    """A map that every structure understands."""
    if isinstance(z, dict):
        return {key: 0.5 * value + 1 for key, value in z.items()}
    return tuple(0.5 * value + 1 for value in z) if isinstance(z, tuple) else 0.5 * z + 1


STARTS = {
    "tensor": torch.zeros(2, 3),
    "array": np.zeros((2, 3)),
    "tuple": (torch.zeros(2, 3), torch.zeros(2)),
    "dict": {"a": torch.zeros(2, 3), "b": torch.zeros(2, 1, 2)},
}


@pytest.mark.parametrize("start", STARTS)
def test_a_saved_result_reads_back_equal(start, tmp_path):
    result = solve(halve, STARTS[start])
    result.save(tmp_path / "result.pt")
    again = SolveResult.load(tmp_path / "result.pt")
    assert type(again.z) is type(result.z)
    assert again.to_frame().equals(result.to_frame())
    assert again.card == result.card
    assert again.num_evals == result.num_evals
    assert torch.equal(again.status, result.status)


def test_loading_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("pwned",)

    torch.save({"z": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(Exception, match="[Ww]eights"):
        SolveResult.load(tmp_path / "evil.pt")


def test_the_frame_has_a_row_per_evaluation_and_running_sample():
    result = solve(halve, torch.tensor([[0.0], [1.9]]), Picard(), rtol=1e-3)
    frame = result.to_frame()
    assert len(frame) == int(result.sample_evals.sum())
    assert frame.groupby("sample").evaluation.max().tolist() == result.sample_evals.tolist()


def test_check_names_status_counts_and_advice():
    result = solve(halve, torch.tensor([[0.0], [2.0]]), Picard(), rtol=1e-6, max_iter=3)
    with pytest.raises(NotConvergedError, match="1 of 2 samples") as caught:
        result.check()
    assert Status.MAX_ITER.advice in str(caught.value)
    assert solve(halve, torch.zeros(1, 1)).check().num_evals
