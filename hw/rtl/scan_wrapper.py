"""A core behind six pins: its inputs are a shift register, its outputs are captured and shifted out.

A package has fewer pins than two AXI4 ports. Place and route needs every input driven by something unknown and every
output used, or it removes what is between them; a scan chain does both, and between its registers and the core lie only
wires, so that paths into and out of the core start and end in registers on the chip, as they do behind an interconnect.
"""

from amaranth.hdl import Cat, ClockDomain, Instance, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Flow, In, Out

CLOCK, RESET = "clk", "rst"
"""The core's pins that the wrapper's own clock and reset drive."""


class ScanWrapper(wiring.Component):
    """An instance of a Verilog module with all its pins on a scan chain.

    In every cycle all inputs of the core move on by one position: the last bit shifted in is input 0. The core's
    outputs go to registers; `capture` copies them, a cycle later, to a shift register whose bit 0 is `scan_out`.

    Members
    -------
    clk : In(1);  rst : In(1) - of the core, after a register.
    scan_in : In(1);  capture : In(1);  scan_out : Out(1)
    """

    def __init__(self, module: str, signature: wiring.Signature):
        """Take the name of the core's module and its pins; CLOCK and RESET must be among them."""
        self._module = module
        members = {name: member for name, member in signature.members.items() if name not in (CLOCK, RESET)}
        self.inputs = {name: member.shape for name, member in members.items() if member.flow is Flow.In}
        self.outputs = {name: member.shape for name, member in members.items() if member.flow is Flow.Out}
        super().__init__({"clk": In(1), "rst": In(1), "scan_in": In(1), "capture": In(1), "scan_out": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = sync = ClockDomain(reset_less=True)
        sync.clk = self.clk
        inputs = {name: Signal(shape, name=name, reset_less=True) for name, shape in self.inputs.items()}
        outputs = {name: Signal(shape, name=name) for name, shape in self.outputs.items()}
        m.submodules.core = Instance(
            self._module,
            **{f"i_{CLOCK}": self.clk, f"i_{RESET}": self._registered(m, self.rst, RESET)},
            **{f"i_{name}": signal for name, signal in inputs.items()},
            **{f"o_{name}": signal for name, signal in outputs.items()},
        )
        chain = Cat(inputs.values())
        m.d.sync += chain.eq(Cat(self._registered(m, self.scan_in, "scan_in"), chain[:-1]))
        seen = self._registered(m, Cat(outputs.values()), "seen")
        shifted = Signal(len(seen), reset_less=True)
        m.d.sync += shifted.eq(Mux(self._registered(m, self.capture, "capture"), seen, shifted[1:]))
        m.d.comb += self.scan_out.eq(shifted[0])
        return m

    def _registered(self, m, value, name):
        register = Signal(len(value), name=f"{name}_register", reset_less=True)
        m.d.sync += register.eq(value)
        return register
