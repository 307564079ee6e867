"""Port signatures shared by all units: descriptors, memory reads and writes, unit commands."""

from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Out, Signature

from hw.config import AccelConfig
from hw.isa import FIELD_BITS

ADDRESS_WIDTH = 16
"""Every on-chip address is a word index of 16 bits; the unit that forms it checks it against the memory's depth."""

descriptor_layout = data.StructLayout(FIELD_BITS)
"""A decoded descriptor; the fields and their order are those of hw.isa."""

PARAM_ENTRY = data.StructLayout({"bias": 32, "mult": 16, "shift": 6, "unused": 10})
"""One PARAM entry: bias i32, mult u16, shift of a GEMM column; beta i32 and gamma i16 of a LayerNorm channel."""

ROW_SCALE_ENTRY = data.StructLayout({"mult": 16, "shift": 6})
"""Requantize constants of one row: quant.approx.row_scale."""


def unit_signature():
    """Command side of a unit, seen from the unit.

    Members
    -------
    command : In(stream of descriptor_layout) - taken when the unit is idle; GEMM takes one before the last is done.
    done : Out(1) - one cycle per command, when all its writes are visible to later reads.
    fault : Out(1) - an address left its memory; the unit finishes or freezes, the sequencer ends the run.
    """
    return {
        "command": In(stream.Signature(descriptor_layout)),
        "done": Out(1),
        "fault": Out(1),
    }


def read_signature(width):
    """Read port, seen from the reader.

    Members
    -------
    request : Out(stream of a word address) - a transfer is a granted read.
    response : In(width), response_valid : In(1) - READ_LATENCY cycles after each transfer, in order, no back-pressure.
    """
    return Signature(
        {
            "request": Out(stream.Signature(ADDRESS_WIDTH)),
            "response": In(width),
            "response_valid": In(1),
        }
    )


def write_signature(width, enables):
    """Write port, seen from the writer: a stream of {address, data, enable}; `enables` equal parts of the word.

    A transferred write is visible to every read request that transfers in a later cycle.
    """
    layout = data.StructLayout({"address": ADDRESS_WIDTH, "data": width, "enable": enables})
    return Signature({"request": Out(stream.Signature(layout))})


def act_read(config: AccelConfig):
    """Read port of ACT: R lanes of K int8, lane 0 in the low bits."""
    return read_signature(8 * config.act_bytes)


def act_write(config: AccelConfig):
    """Write port of ACT, one enable per lane."""
    return write_signature(8 * config.act_bytes, config.rows)


def wide_read(config: AccelConfig):
    """Read port of WIDE: R lanes of K int16, lane 0 in the low bits."""
    return read_signature(8 * config.wide_bytes)


def wide_write(config: AccelConfig):
    """Write port of WIDE, one enable per lane."""
    return write_signature(8 * config.wide_bytes, config.rows)


def weight_read(config: AccelConfig):
    """Read port of WEIGHT: C columns of K int8, column 0 in the low bits."""
    return read_signature(8 * config.weight_bytes)


def weight_write(config: AccelConfig):
    """Write port of WEIGHT, one enable per byte."""
    return write_signature(8 * config.weight_bytes, config.weight_bytes)


def param_read(config: AccelConfig):
    """Read port of PARAM: K PARAM_ENTRY."""
    return read_signature(8 * config.param_bytes)


def param_write(config: AccelConfig):
    """Write port of PARAM, one enable per word."""
    return write_signature(8 * config.param_bytes, 1)


def row_scale_read(config: AccelConfig):
    """Read port of the row-scale memory: R ROW_SCALE_ENTRY."""
    return read_signature(ROW_SCALE_ENTRY.size * config.rows)


def row_scale_write(config: AccelConfig):
    """Write port of the row-scale memory, one enable per lane."""
    return write_signature(ROW_SCALE_ENTRY.size * config.rows, config.rows)


def token_read():
    """Read port of the token list: the patch index of one live token, u16."""
    return read_signature(16)
