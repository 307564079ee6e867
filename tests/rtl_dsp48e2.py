"""Model of the DSP48E2 primitive for Amaranth's simulator: what UG579 documents for sums of products."""

from amaranth.hdl import Assert, Const, Elaboratable, Module, Signal, Value, signed

from hw.rtl.delay import delay

FIXED_PARAMETERS = {
    "AMULTSEL": "A", "BMULTSEL": "B", "USE_MULT": "MULTIPLY", "USE_SIMD": "ONE48", "ADREG": 0, "DREG": 0,
    "CREG": 1, "ALUMODEREG": 0, "CARRYINREG": 0, "CARRYINSELREG": 0, "INMODEREG": 0, "OPMODEREG": 0,
}  # fmt: skip
IDLE_INPUTS = {
    "ACIN": 30, "ALUMODE": 4, "BCIN": 18, "C": 48, "CARRYCASCIN": 1, "CARRYIN": 1, "CARRYINSEL": 3, "D": 27,
    "INMODE": 5, "MULTSIGNIN": 1, "CEA1": 1, "CEAD": 1, "CEALUMODE": 1, "CEB1": 1, "CEC": 1, "CECARRYIN": 1,
    "CECTRL": 1, "CED": 1, "CEINMODE": 1, "RSTA": 1, "RSTALLCARRYIN": 1, "RSTALUMODE": 1, "RSTB": 1, "RSTC": 1,
    "RSTCTRL": 1, "RSTD": 1, "RSTINMODE": 1, "RSTM": 1, "RSTP": 1,
}  # fmt: skip
"""Ports that a multiply-add leaves at zero, with their widths in UG579."""


class Dsp48e2Model(Elaboratable):
    """The part of a DSP48E2 that UG579 documents for a multiply-add; stands in for its Instance.

    Raises AssertionError if an input or parameter asks for anything that is not modelled.
    """

    def __init__(self, name, **arguments):
        assert name == "DSP48E2"
        self.arguments = arguments

    def take(self, name):
        value = self.arguments.pop(name)
        return value.value if isinstance(value, Const) else value

    def elaborate(self, platform):
        m = Module()
        for name, value in FIXED_PARAMETERS.items():
            assert self.take(f"p_{name}") == value, name
        assert (self.take("i_CEA2"), self.take("i_CEB2")) == (1, 1)
        enable_product, enable_total = self.arguments.pop("i_CEM"), self.arguments.pop("i_CEP")
        for name, width in IDLE_INPUTS.items():
            tied = self.arguments.pop(f"i_{name}")
            assert isinstance(tied, Const) and (tied.value, len(tied)) == (0, width), name
        self.take("i_CLK")
        opmode, rounding = self.arguments.pop("i_OPMODE"), self.take("p_RND")
        stages = {name: self.take(f"p_{name}") for name in ("AREG", "ACASCREG", "BREG", "BCASCREG", "MREG", "PREG")}
        assert stages["AREG"] == stages["ACASCREG"] and stages["BREG"] == stages["BCASCREG"]
        a, b = Value.cast(self.arguments.pop("i_A")), Value.cast(self.arguments.pop("i_B"))
        p, pcout = self.arguments.pop("o_P"), self.arguments.pop("o_PCOUT")
        pcin = Value.cast(self.arguments.pop("i_PCIN"))
        assert not self.arguments, self.arguments
        assert (len(a), len(b), len(pcin), len(p), len(pcout)) == (30, 18, 48, 48, 48)

        # The multiplier takes A[26:0] and B[17:0]; its 45-bit product passes the X and Y multiplexers together.
        a, b = delay(m, a, stages["AREG"], name="a"), delay(m, b, stages["BREG"], name="b")
        product = Signal(signed(45))
        m.d.comb += product.eq(a[:27].as_signed() * b.as_signed())
        assert stages["MREG"] == stages["PREG"] == 1 and len(opmode) == 9
        held, total = Signal(signed(45)), Signal(48)
        w, z = Signal(48), Signal(48)
        is_product = Signal()
        m.d.comb += is_product.eq(opmode[:4] == 0b0101)
        m.d.sync += Assert(is_product)
        for name, addend, choice, sources in (
            ("w", w, opmode[7:], {0b00: 0, 0b01: total, 0b10: rounding}),
            ("z", z, opmode[4:7], {0b000: 0, 0b001: pcin}),
        ):
            is_known = Signal(name=f"{name}_is_known")
            m.d.sync += Assert(is_known)
            with m.Switch(choice):
                for code, source in sources.items():
                    with m.Case(code):
                        m.d.comb += [addend.eq(source), is_known.eq(1)]
        with m.If(enable_product):
            m.d.sync += held.eq(product)
        with m.If(enable_total):
            m.d.sync += total.eq(z + w + held)
        m.d.comb += [p.eq(total), pcout.eq(total)]
        return m
