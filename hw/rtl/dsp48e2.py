"""The DSP48E2 of UltraScale+ as a multiply-add, for synthesis (DSP user guide UG579)."""

from amaranth.hdl import Cat, ClockSignal, Const, Instance

CASCADE_WIDTH = 48
A_WIDTH, B_WIDTH = 30, 18

W_ZERO, W_TOTAL, W_ROUNDING = 0b00, 0b01, 0b10
Z_ZERO, Z_CASCADE = 0b000, 0b001
"""What is added to the product: W and Z of the OPMODE tables."""

PRODUCT = 0b01_01
"""X and Y: both halves of the product."""


def opmode(*, w, z):
    """Return an OPMODE that adds w and z to the product; each a constant from above or a value."""
    return Cat(Const(PRODUCT, 4), Const(z, 3) if isinstance(z, int) else z, Const(w, 2) if isinstance(w, int) else w)


def extended(value, width):
    """Return a value with its sign, if it has one, repeated to a width."""
    sign = value[-1] if value.shape().signed else Const(0)
    return Cat(value, sign.replicate(width - len(value)))


def dsp48e2(*, input_registers, rounding=0, enable_product=1, enable_total=1, **ports):
    """Return a DSP48E2 with M and P registers and 0 or 1 in front: P = A * B + W + Z.

    rounding: the constant that W_ROUNDING adds. enable_product, enable_total: of the registers M and P.
    ports: i_OPMODE, i_A, i_B, i_PCIN, o_P and o_PCOUT.
    """
    unused_inputs = {
        "ACIN": 30, "ALUMODE": 4, "BCIN": 18, "C": 48, "CARRYCASCIN": 1, "CARRYIN": 1, "CARRYINSEL": 3, "D": 27,
        "INMODE": 5, "MULTSIGNIN": 1, "CEA1": 1, "CEAD": 1, "CEALUMODE": 1, "CEB1": 1, "CEC": 1, "CECARRYIN": 1,
        "CECTRL": 1, "CED": 1, "CEINMODE": 1, "RSTA": 1, "RSTALLCARRYIN": 1, "RSTALUMODE": 1, "RSTB": 1, "RSTC": 1,
        "RSTCTRL": 1, "RSTD": 1, "RSTINMODE": 1, "RSTM": 1, "RSTP": 1,
    }  # fmt: skip
    return Instance(
        "DSP48E2",
        p_AMULTSEL="A",
        p_BMULTSEL="B",
        p_USE_MULT="MULTIPLY",
        p_USE_SIMD="ONE48",
        p_AREG=input_registers,
        p_ACASCREG=input_registers,
        p_BREG=input_registers,
        p_BCASCREG=input_registers,
        p_MREG=1,
        p_PREG=1,
        p_ADREG=0,
        p_DREG=0,
        p_CREG=1,  # C is unused: its register saves power (UG579, unused ports)
        p_ALUMODEREG=0,
        p_CARRYINREG=0,
        p_CARRYINSELREG=0,
        p_INMODEREG=0,
        p_OPMODEREG=0,
        p_RND=Const(rounding, CASCADE_WIDTH),
        i_CLK=ClockSignal(),
        i_CEA2=Const(1),
        i_CEB2=Const(1),
        i_CEM=enable_product,
        i_CEP=enable_total,
        **{f"i_{name}": Const(0, width) for name, width in unused_inputs.items()},
        **ports,
    )
