"""Small products of LUTs and carry chains, where a DSP would be wasted."""

from operator import add

from amaranth.hdl import Mux

from hw.rtl.tree import reduce_tree


def fabric_product(left, right):
    """Return left * right as a sum of shifted copies of `left`, one for each bit of the short operand `right`.

    Synthesis tools make a DSP of every product that is written as one.
    """
    terms = [Mux(bit, left, 0) << place for place, bit in enumerate(right)]
    if right.shape().signed:
        terms[-1] = -terms[-1]
    return reduce_tree(add, terms)
