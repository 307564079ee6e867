"""Small products of LUTs and carry chains, where a DSP would be wasted."""

from operator import add

from amaranth.hdl import Cat, Mux

from hw.rtl.tree import reduce_tree


def fabric_product(left, right):
    """Return left * right as a sum of shifted copies of `left`, one for each bit of the short operand `right`.

    Synthesis tools make a DSP of every product that is written as one.
    """
    terms = [Mux(bit, left, 0) << place for place, bit in enumerate(right)]
    if right.shape().signed:
        terms[-1] = -terms[-1]
    return reduce_tree(add, terms)


def fabric_square(value):
    """Return value * value of an unsigned value: half the bits of a product, as each pair of bits occurs twice."""
    squares = Cat(Cat(bit, 0) for bit in value)
    pairs = [Mux(value[place], value[:place], 0) << (place + 1) for place in range(1, len(value))]
    return reduce_tree(add, [squares, *pairs])
