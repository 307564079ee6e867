"""Balanced trees of adders or comparators: logarithmic depth where Python's sum() and max() build a chain."""


def reduce_tree(operation, values):
    """Combine a non-empty list of values pairwise with an associative two-argument operation."""
    values = list(values)
    while len(values) > 1:
        pairs = [operation(left, right) for left, right in zip(values[::2], values[1::2], strict=False)]
        values = pairs + values[2 * len(pairs) :]
    return values[0]
