"""Names for the small arrays on the host; states are tensors."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Counts = NDArray[np.int64]
Events = NDArray[np.int16]  # flags of `Event`
