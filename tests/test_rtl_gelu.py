"""Testpoints of hw/rtl/gelu.py.

- every delta1 used (1 and 0.5) and a small one, over the knee, zero, the extremes and a grid of all int16, with no
  offset, a usual one and the least
- one result per cycle at the stated latency
"""

import numpy as np
import pytest
from rtl_streams import run_pipeline

from hw.rtl.gelu import Gelu
from quant.approx import ERF_KNEE_Q10, GELU_OFFSET_MIN, gelu, gelu_constants


@pytest.mark.parametrize("offset", [0, -2345, GELU_OFFSET_MIN])
@pytest.mark.parametrize("delta1", [1.0, 0.5, 0.01])
def test_gelu(delta1, offset):
    one, curve = gelu_constants(delta1)
    corners = [sign * x for x in (0, 1, 2, ERF_KNEE_Q10 - 1, ERF_KNEE_Q10, ERF_KNEE_Q10 + 1) for sign in (-1, 1)]
    x_i16 = np.concatenate([corners, [-32768, -32767, 32767], np.arange(-4000, 4000, 7), np.arange(-32768, 32768, 173)])
    inputs = [{"x": x, "one": one, "curve": curve, "offset": offset} for x in x_i16.tolist()]
    results = run_pipeline(Gelu(), inputs, Gelu.LATENCY, ("o",))
    assert [result for (result,) in results] == gelu(x_i16, one, curve, offset).tolist()
