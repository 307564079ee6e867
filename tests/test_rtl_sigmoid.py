"""Testpoints of hw/rtl/sigmoid.py.

- every segment boundary and its neighbours, both signs, zero, the extremes, a grid of all int16
- one result per cycle at the stated latency
"""

import numpy as np
from rtl_streams import run_pipeline

from hw.rtl.sigmoid import Sigmoid
from quant.approx import sigmoid


def test_sigmoid():
    knees = np.array([0, 1 << 10, 2432, 5 << 10])
    corners = np.concatenate([knees + offset for offset in (-1, 0, 1)])
    x_i16 = np.concatenate([corners, -corners, [-32768, -32767, 32767], np.arange(-32768, 32768, 61)])
    results = run_pipeline(Sigmoid(), [{"x": x} for x in x_i16.tolist()], Sigmoid.LATENCY, ("o",))
    assert [result for (result,) in results] == sigmoid(x_i16).tolist()
