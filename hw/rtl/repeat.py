"""A block that occurs many times: elaborated in place, or an instance of a Verilog module generated once."""

from amaranth.hdl import ClockSignal, Instance, ResetSignal
from amaranth.lib.wiring import Flow


def place(m, name, component, module=None):
    """Add one block to `m.submodules[name]` and return its ports.

    component is a class without arguments and with a `SIGNATURE` of plain ports. module is None, or the name of the
    Verilog module generated separately from it: a large array then takes seconds instead of minutes to compile.
    """
    if module is None:
        m.submodules[name] = block = component()
        return block
    ports = component.SIGNATURE.create(path=(name,))
    pins = {
        f"{'i' if member.flow is Flow.In else 'o'}_{port}": getattr(ports, port)
        for port, member in component.SIGNATURE.members.items()
    }
    m.submodules[name] = Instance(module, i_clk=ClockSignal(), i_rst=ResetSignal(), **pins)
    return ports
