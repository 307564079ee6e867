"""The Verilog modules of a core: the top, and the blocks that occur many times and are elaborated once."""

from amaranth.lib.wiring import Component

from hw.config import AccelConfig
from hw.rtl.activation_element import ActivationElement
from hw.rtl.drain_element import DrainElement
from hw.rtl.exp_channel import ExpChannel
from hw.rtl.gemm_array import GemmColumn
from hw.rtl.norm_channel import NormChannel
from hw.rtl.packed_dot import Multiplier
from hw.rtl.top import SeparateModules, Top

TOP_MODULE = "heatvit_core"
COLUMN_MODULE = "heatvit_gemm_column"
ELEMENT_MODULE = "heatvit_drain_element"
ACTIVATION_MODULE = "heatvit_activation_element"
NORM_MODULE = "heatvit_norm_channel"
EXP_MODULE = "heatvit_exp_channel"
RAM_MODULE = "heatvit_ram"
"""Not generated: ram.v defines it."""


def make_modules(config: AccelConfig, multiplier: Multiplier) -> dict[str, Component]:
    """Return the components to generate by module name; the last one, the top, instantiates the others and RAM_MODULE.

    Elaborating a large array in place takes minutes, and as long again in every tool that reads it.
    """
    separate = SeparateModules(COLUMN_MODULE, ELEMENT_MODULE, ACTIVATION_MODULE, NORM_MODULE, EXP_MODULE, RAM_MODULE)
    return {
        COLUMN_MODULE: GemmColumn(config, multiplier),
        ELEMENT_MODULE: DrainElement(),
        ACTIVATION_MODULE: ActivationElement(),
        NORM_MODULE: NormChannel(),
        EXP_MODULE: ExpChannel(),
        TOP_MODULE: Top(config, multiplier, separate),
    }
