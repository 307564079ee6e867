"""Token selector.

Testpoints: head-weighted scores, also with all importances zero; token scores are a softmax over keep and prune; the
mask keeps CLS, never revives a token, includes the threshold and has straight-through gradients, noise or not; package
is the score-weighted mean, the plain mean for zero weights, nothing for nothing pruned; an incoming package is always
merged; the pooled feature ignores CLS and slots that are not valid.
"""

import pytest
import torch
from torch import Tensor

from model.selector import HeadLinear, TokenSelector, gumbel_noise, keep_mask, keep_scores, package_token, select_masked


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def selector() -> TokenSelector:
    torch.manual_seed(0)
    return TokenSelector(embed_dim=16, num_heads=2, head_branch_hidden=1)


def test_head_linear_gives_every_head_its_own_weights() -> None:
    layer = HeadLinear(3, 4, 2)
    x = random(5, 3, 4)
    layer.bias.data = random(3, 2, seed=1)
    expected = torch.stack([x[:, head] @ layer.weight[head].T + layer.bias[head] for head in range(3)], dim=1)
    torch.testing.assert_close(layer(x), expected)


def test_scores_are_head_weighted_means() -> None:
    token, head = torch.tensor([[0.2, 0.8]]), torch.tensor([[0.3, 0.1]])
    torch.testing.assert_close(keep_scores(token, head), torch.tensor([0.35]))


def test_zero_importances_weigh_heads_equally() -> None:
    assert keep_scores(torch.tensor([[0.25, 0.75]]), torch.zeros(1, 2)).tolist() == [0.5]


def test_parameter_shapes_are_the_contract(selector: TokenSelector) -> None:
    shapes = {name: tuple(value.shape) for name, value in selector.named_parameters()}
    assert shapes == {
        "norm.weight": (16,),
        "norm.bias": (16,),
        "local.weight": (2, 4, 8),
        "local.bias": (2, 4),
        "token1.weight": (2, 4, 8),
        "token1.bias": (2, 4),
        "token2.weight": (2, 2, 4),
        "token2.bias": (2, 2),
        "token_score.weight": (2, 2, 2),
        "token_score.bias": (2, 2),
        "head1.weight": (1, 2),
        "head1.bias": (1,),
        "head_score.weight": (2, 1),
        "head_score.bias": (2,),
        "package_bias": (2,),
    }


def test_row_0_of_the_token_score_is_keep(selector: TokenSelector) -> None:
    with torch.no_grad():
        selector.token_score.weight.zero_()
        selector.token_score.bias.copy_(torch.tensor([[2.0, 0.0], [2.0, 0.0]]))
    scores = selector(random(1, 5, 16), torch.ones(1, 5))
    torch.testing.assert_close(scores, torch.full((1, 5), 0.875))


def test_new_selector_keeps_all_tokens(selector: TokenSelector) -> None:
    assert (selector(random(4, 20, 16), torch.ones(4, 20)) >= 0.5).all()


def test_pooled_feature_ignores_cls_and_invalid_slots(selector: TokenSelector) -> None:
    tokens, valid = random(1, 6, 16), torch.tensor([[1.0, 1, 1, 0, 1, 1]])
    changed = tokens.clone()
    changed[:, [0, 3]] += 7
    others = [1, 2, 4, 5]
    torch.testing.assert_close(selector(changed, valid)[:, others], selector(tokens, valid)[:, others])
    assert not torch.allclose(selector(tokens, torch.ones(1, 6))[:, others], selector(tokens, valid)[:, others])


def test_lone_cls_has_a_finite_score(selector: TokenSelector) -> None:
    assert selector(random(1, 3, 16), torch.tensor([[1.0, 0, 0]])).isfinite().all()


def test_mask_keeps_cls_includes_the_threshold_and_revives_nothing() -> None:
    scores, valid = torch.tensor([[0.1, 0.5, 0.4999, 0.9]]), torch.tensor([[1.0, 1, 1, 0]])
    assert keep_mask(scores, valid).tolist() == [[1, 1, 0, 0]]


@pytest.mark.parametrize("is_noisy", [False, True])
def test_mask_is_binary_with_gradients_for_all_patches(is_noisy: bool) -> None:
    torch.manual_seed(3)
    scores = torch.rand(2, 30).requires_grad_()
    mask = keep_mask(scores, torch.ones(2, 30), gumbel_noise(2, 1, 30)[:, 0] if is_noisy else None)
    assert set(mask.flatten().tolist()) == {0.0, 1.0}
    (gradient,) = torch.autograd.grad(mask.sum(), scores)
    assert (gradient[:, 0] == 0).all() and (gradient[:, 1:] > 0).all()


def test_noise_follows_the_scores() -> None:
    torch.manual_seed(0)
    scores = torch.tensor([0.0, 0.2, 0.7]).expand(20000, 3)
    noise = gumbel_noise(20000, 1, 3)[:, 0]
    shares = keep_mask(scores, torch.ones(20000, 3), noise).mean(0)
    torch.testing.assert_close(shares, torch.tensor([1.0, 0.2, 0.7]), atol=0.02, rtol=0)


def test_package_is_the_weighted_mean_of_the_pruned() -> None:
    tokens, scores = torch.tensor([[[1.0], [2.0], [10.0]]]), torch.tensor([[0.3, 0.1, 0.9]])
    torch.testing.assert_close(package_token(tokens, scores, torch.tensor([[1.0, 1, 0]])), torch.tensor([[[1.25]]]))


def test_package_of_zero_scores_is_the_plain_mean() -> None:
    tokens = torch.tensor([[[1.0], [2.0], [10.0]]])
    package = package_token(tokens, torch.tensor([[0.0, 0, 1]]), torch.tensor([[1.0, 1, 0]]))
    assert package.tolist() == [[[1.5]]]


def test_package_of_nothing_is_zero_and_finite() -> None:
    scores = torch.rand(1, 4).requires_grad_()
    package = package_token(random(1, 4, 2), scores, torch.zeros(1, 4))
    (gradient,) = torch.autograd.grad(package.sum(), scores)
    assert (package == 0).all() and gradient.isfinite().all()


def test_incoming_package_is_merged_whatever_its_score() -> None:
    tokens, scores = random(1, 4, 2), torch.tensor([[1.0, 0.9, 0.8, 0.99]])
    selected, valid = select_masked(tokens, scores, torch.ones(1, 4))
    assert valid.tolist() == [[1, 1, 1, 1]]
    torch.testing.assert_close(selected, tokens)


def test_nothing_pruned_gives_no_package() -> None:
    tokens, scores = random(1, 4, 2), torch.full((1, 4), 0.7)
    _, valid = select_masked(tokens, scores, torch.tensor([[1.0, 1, 1, 0]]))
    assert valid.tolist() == [[1, 1, 1, 0]]
