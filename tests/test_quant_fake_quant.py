"""Straight-through operations.

Testpoints: the value is the exact one and the gradient the surrogate's; saturated codes give no gradient; each mode
runs its own sides only; float twins equal the integer functions within their bounds; the weighted softmax is
gathering for weights 0 and 1 and has a gradient for the weight of a pruned column.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from quant import approx
from quant.fake_quant import (
    ABSENT,
    Format,
    Mode,
    combine,
    plan_sigmoid,
    polynomial_gelu,
    straight_through,
    weighted_softmax,
)


def forbidden() -> Tensor:
    raise AssertionError("this side must not run")


def test_straight_through_takes_the_value_of_one_and_the_gradient_of_the_other() -> None:
    x = torch.tensor([0.1, 0.7], requires_grad=True)
    y = straight_through(x * 3, torch.tensor([5, -2]))
    assert y.tolist() == [5.0, -2.0] and y.dtype == torch.float32
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [3.0, 3.0]


def test_saturated_codes_have_no_gradient() -> None:
    x = torch.tensor([-3.0, -1.28, 0.5, 1.27, 3.0], requires_grad=True)
    form = Format.signed(0.01, 8)
    out = combine(Mode.TRAIN, lambda: (x.detach() * 100).round().clamp(-128, 127).to(torch.int64), lambda: x, form)
    assert out.codes.tolist() == [-128, -128, 50, 127, 127]
    assert torch.equal(out.value, out.codes * 0.01)
    out.value.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_codes_of_gelu_lie_above_its_minimum() -> None:
    form = Format.gelu(0.01, 1.0)
    assert form.value(torch.tensor(-128)).item() == pytest.approx(approx.GELU_MIN, abs=approx.GELU_OFFSET_SCALE)
    assert Format.gelu(0.01, 0.5) == Format.signed(0.01, 8)
    x = torch.tensor([-0.5, 0.0, 2.0, 3.0], requires_grad=True)
    out = combine(Mode.TRAIN, lambda: torch.tensor([-128, -111, 89, 127]), lambda: x, form)
    assert torch.equal(out.value, out.codes * 0.01 + form.zero)
    assert (out.value - x).abs().tolist()[1:3] == pytest.approx([0.0, 0.0], abs=0.005)
    out.value.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0.0, 1.0, 1.0, 0.0]


def test_modes_run_only_their_sides() -> None:
    form, ones = Format(1.0, 0, 255), torch.ones(2)
    integer = combine(Mode.INTEGER, lambda: ones, forbidden, form)
    real = combine(Mode.FLOAT, forbidden, lambda: ones, form)
    assert integer.codes is ones and integer.value is ABSENT
    assert real.value is ones and real.codes is ABSENT
    assert integer.map(lambda x: x * 2).codes.tolist() == [2.0, 2.0] and integer.map(torch.neg).value is ABSENT


def test_float_twins_equal_the_integer_functions() -> None:
    codes = torch.arange(-(1 << 15), 1 << 15)
    x = codes.to(torch.float64) / 1024
    for delta1 in (0.5, 1.0):
        integer = approx.gelu(codes, *approx.gelu_constants(delta1), 0) * 2.0**-26
        assert bool(((polynomial_gelu(x, delta1) - integer).abs() <= 3e-4 + 2**-13 * x.abs()).all())
    assert float((plan_sigmoid(x) - approx.sigmoid(codes) / 256).abs().max()) <= 2**-8


def test_weighted_softmax_is_a_softmax_of_the_columns_that_count() -> None:
    rng = np.random.default_rng(0)
    score = torch.from_numpy(rng.normal(0, 4, (5, 12)))
    weight = torch.tensor([1.0, 0.0] * 6, dtype=torch.float64)
    out = weighted_softmax(score, weight)
    assert bool((out[:, 1::2] == 0).all())
    expected = torch.softmax(score[:, ::2] * np.log(2), dim=-1)
    assert torch.allclose(out[:, ::2], expected, atol=1e-12)


def test_the_weight_of_a_pruned_column_has_a_gradient() -> None:
    score = torch.tensor([[1.0, 3.0, 0.0]])  # the pruned column lies above the peak
    weight = torch.tensor([1.0, 0.0, 1.0], requires_grad=True)
    value = torch.tensor([1.0, 2.0, 3.0])
    (weighted_softmax(score, weight) @ value).sum().backward()
    assert weight.grad is not None and bool(torch.isfinite(weight.grad).all()) and weight.grad[1] > 0
