"""A solve's curves, or a training's epochs, as a compressed Parquet file in memory."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from andersonn_core.results import History, SolveResult
from andersonn_core.runcard import RunCard

BY_SAMPLE = ("relative_residual", "running", "event")  # (K, B) each
BY_ROW = ("map_seconds", "method_seconds", "wall_seconds")  # (K,) each
ABSENT = ("residual", "gain", "weight_norm", "condition", "depth", "mixing")  # not kept: NaN
PART = "part."


def result_to_bytes(result: SolveResult) -> bytes:
    """The curves of a solve, one Parquet row an evaluation, with a list over the samples."""
    history = result.history
    columns: dict[str, Any] = {name: _lists(getattr(history, name)) for name in BY_SAMPLE}
    columns |= {name: getattr(history, name).cpu().numpy() for name in BY_ROW}
    columns |= {PART + name: part.cpu().numpy() for name, part in history.part_seconds.items()}
    kept = {"clock": history.clock.encode(), "status": result.status.cpu().numpy().tobytes()}
    return _to_bytes(pa.table(columns).replace_schema_metadata(kept))


def result_from_bytes(blob: bytes, card: RunCard) -> SolveResult:
    """The result that `result_to_bytes` was given, without its state: z is None.

    Columns of the history that are not kept are NaN.
    """
    table = pq.read_table(io.BytesIO(blob))
    kept = {name: _tensor(table[name]) for name in (*BY_SAMPLE, *BY_ROW)}
    nothing = torch.full_like(kept["relative_residual"], torch.nan)
    parts = [name for name in table.column_names if name.startswith(PART)]
    history = History(
        **kept,
        **dict.fromkeys(ABSENT, nothing),
        part_seconds={name.removeprefix(PART): _tensor(table[name]) for name in parts},
        clock=table.schema.metadata[b"clock"].decode(),
    )
    residuals = history.relative_residual.nan_to_num(torch.inf, torch.inf)
    status = torch.frombuffer(bytearray(table.schema.metadata[b"status"]), dtype=torch.int8)
    return SolveResult(
        z=None, status=status,
        num_evals=len(residuals), sample_evals=history.sample_evals,
        relative_residual=residuals.min(0).values, history=history, diagnostics={},
        error_estimate=nothing[0], card=card,
    )  # fmt: skip


def frame_to_bytes(frame: pd.DataFrame) -> bytes:
    """A training's epochs."""
    return _to_bytes(pa.Table.from_pandas(frame, preserve_index=False))


def frame_from_bytes(blob: bytes) -> pd.DataFrame:
    """What `frame_to_bytes` wrote."""
    return pq.read_table(io.BytesIO(blob)).to_pandas()


def _to_bytes(table: pa.Table) -> bytes:
    file = io.BytesIO()
    # hardly a residual comes twice: a dictionary of them takes time and room
    pq.write_table(table, file, compression="zstd", write_statistics=False, use_dictionary=False)
    return file.getvalue()


def _lists(values: Tensor) -> pa.Array:  # (K, B) -> K lists of B
    flat = pa.array(values.cpu().numpy().reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _tensor(column: pa.ChunkedArray) -> Tensor:  # (K,) or (K, B)
    array = column.combine_chunks()
    width = array.type.list_size if pa.types.is_fixed_size_list(array.type) else None
    flat = array if width is None else array.flatten()
    values = np.array(flat.to_numpy(zero_copy_only=False))
    return torch.from_numpy(values if width is None else values.reshape(-1, width))
