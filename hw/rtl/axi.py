"""AXI4 and AXI4-Lite pins, and the payloads of the AXI4 channels inside the core.

Pin names and widths: AMBA AXI Protocol Specification (ARM IHI 0022), lower case without the interface prefix.
"""

from amaranth.lib import data
from amaranth.lib.wiring import In, Out, Signature

from hw.regmap import ADDRESS_BITS
from hw.timing import BURST_BLOCKS

AXI_ADDRESS_WIDTH = 40
"""Physical address bits of the Zynq UltraScale+ processing system."""

ID_WIDTH = 1
"""One bit tells the two clients of a read channel apart; writes use 0."""

BLOCK_BYTES = 64
"""Granularity of every DDR access of the core: regions, offsets, lengths and descriptors are multiples of it."""


def axi_lite_signature() -> Signature:
    """AXI4-Lite with 32-bit data, seen from the master."""
    return Signature(
        {
            "awaddr": Out(ADDRESS_BITS),
            "awprot": Out(3),
            "awvalid": Out(1),
            "awready": In(1),
            "wdata": Out(32),
            "wstrb": Out(4),
            "wvalid": Out(1),
            "wready": In(1),
            "bresp": In(2),
            "bvalid": In(1),
            "bready": Out(1),
            "araddr": Out(ADDRESS_BITS),
            "arprot": Out(3),
            "arvalid": Out(1),
            "arready": In(1),
            "rdata": In(32),
            "rresp": In(2),
            "rvalid": In(1),
            "rready": Out(1),
        }
    )


def _address_pins(prefix):
    return {
        f"{prefix}id": Out(ID_WIDTH),
        f"{prefix}addr": Out(AXI_ADDRESS_WIDTH),
        f"{prefix}len": Out(8),
        f"{prefix}size": Out(3),
        f"{prefix}burst": Out(2),
        f"{prefix}lock": Out(1),
        f"{prefix}cache": Out(4),
        f"{prefix}prot": Out(3),
        f"{prefix}valid": Out(1),
        f"{prefix}ready": In(1),
    }


def axi4_signature(axi_bytes: int) -> Signature:
    """AXI4 with axi_bytes of data, seen from the master."""
    return Signature(
        {
            **_address_pins("aw"),
            "wdata": Out(8 * axi_bytes),
            "wstrb": Out(axi_bytes),
            "wlast": Out(1),
            "wvalid": Out(1),
            "wready": In(1),
            "bid": In(ID_WIDTH),
            "bresp": In(2),
            "bvalid": In(1),
            "bready": Out(1),
            **_address_pins("ar"),
            "rid": In(ID_WIDTH),
            "rdata": In(8 * axi_bytes),
            "rresp": In(2),
            "rlast": In(1),
            "rvalid": In(1),
            "rready": Out(1),
        }
    )


transfer_layout = data.StructLayout({"block": AXI_ADDRESS_WIDTH - 6, "blocks": 32})
"""A contiguous DDR access: first block (address / 64) and how many."""

burst_layout = data.StructLayout({"block": AXI_ADDRESS_WIDTH - 6, "blocks": range(BURST_BLOCKS + 1)})
"""One burst: first block and how many, within one group of BURST_BLOCKS."""

address_layout = data.StructLayout({"id": ID_WIDTH, "address": AXI_ADDRESS_WIDTH, "len": 8})
"""What varies on AR and AW; `len` is beats - 1 as on the bus."""


def read_beat_layout(axi_bytes):
    """One beat of R as a client sees it; `error` stands for SLVERR or DECERR."""
    return data.StructLayout({"data": 8 * axi_bytes, "last": 1, "error": 1})


def write_beat_layout(axi_bytes):
    """One beat of W; all its bytes are written."""
    return data.StructLayout({"data": 8 * axi_bytes, "last": 1})
