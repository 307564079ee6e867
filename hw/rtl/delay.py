"""Delay of a value by a fixed number of cycles."""

from amaranth.hdl import Signal


def delay(m, value, cycles, *, name, reset_less=True):
    """Return `value` as it was `cycles` cycles ago, in the shape of `value`.

    Datapath registers have no reset, so that they map to the registers of a DSP or to shift-register LUTs; a delayed
    valid or enable bit needs reset_less=False.
    """
    for stage in range(cycles):
        register = Signal(value.shape(), name=f"{name}_{stage + 1}", reset_less=reset_less)
        m.d.sync += register.eq(value)
        value = register
    return value
