"""Testpoints of hw/rtl/multiply_accumulate.py.

- both forms: sums of extreme and random products, of one and of many, exact at the stated cycle
- products and totals stay while their enables are low, whatever is at the inputs
- DSP48E2 form: on the model of the primitive, as in test_rtl_packed_dot.py
"""

import numpy as np
import pytest
from rtl_dsp48e2 import Dsp48e2Model
from rtl_streams import run

from hw.rtl import dsp48e2
from hw.rtl.multiply_accumulate import MultiplyAccumulate
from hw.rtl.packed_dot import Multiplier


@pytest.mark.parametrize("multiplier", list(Multiplier))
@pytest.mark.parametrize("pause", [0.0, 0.5])
def test_sums(multiplier: Multiplier, pause: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dsp48e2, "Instance", Dsp48e2Model)
    rng = np.random.default_rng(31)
    sums = [[(-32768, 255)] * 256, [(32767, 255)] * 256, [(-1, 1)], [(32767, 0), (-32768, 1)]]
    for length in (1, 2, 5, 17):
        values, weights = rng.integers(-32768, 32768, length), rng.integers(0, 256, length)
        sums.append(list(zip(values.tolist(), weights.tolist(), strict=True)))
    dut = MultiplyAccumulate(multiplier)
    expected = [0]  # the total after each cycle, from the first product on
    products: list[tuple[int, int] | None] = [None]  # (product, is_first) that is added in each cycle

    async def testbench(ctx):
        for terms in sums:
            for index, (value, weight) in enumerate(terms):
                while rng.random() < pause:
                    await step(ctx, None)
                await step(ctx, (value, weight, index == 0))
        for _ in range(3):
            await step(ctx, None)

    async def step(ctx, term):
        """Feed a term or none, add the one before, and compare the total of the terms before that."""
        before = products[-1]
        value, weight, is_first = term or (int(rng.integers(-32768, 32768)), int(rng.integers(0, 256)), 0)
        ctx.set(dut.multiply, term is not None)
        ctx.set(dut.value, value)
        ctx.set(dut.weight, weight)
        ctx.set(dut.accumulate, before is not None)
        ctx.set(dut.is_first, before is not None and before[1])
        await ctx.tick()
        if before is not None:
            expected.append(before[0] + (0 if before[1] else expected[-1]))
        if len(expected) > 1:
            assert ctx.get(dut.total) == expected[-1]
        products.append((value * weight, is_first) if term else None)

    run(dut, testbench)
    assert len(expected) == 1 + sum(map(len, sums))
