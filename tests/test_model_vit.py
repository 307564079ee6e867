"""Vision Transformer.

Testpoints: a package bias of b nats weighs e**b tokens; parameter names and shapes are timm's and the selector
contract's; the network equals an independent dense transformer built from torch modules (with the polynomials swapped
for exact functions, within their error); patches are read in timm's order; pictures of a batch do not influence each
other; every parameter receives a gradient; wrong pictures are refused.
"""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from model.approx import Kernels
from model.config import NETWORKS
from model.selector import gumbel_noise
from model.vit import IMAGENET, Attention, Normalisation, VisionTransformer
from quant.config import NetworkConfig

GREY = Normalisation((0.4,), (0.3,))
TINY = NETWORKS["test_tiny"]


def pictures(count: int, config: NetworkConfig = TINY, seed: int = 0) -> Tensor:
    shape = (count, config.in_chans, config.image_size, config.image_size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def network(config: NetworkConfig = TINY, seed: int = 0, shift: float = 0.0) -> VisionTransformer:
    """Build a network whose selectors prune: keep logits are moved by `shift` and spread."""
    torch.manual_seed(seed)
    result = VisionTransformer(config, GREY)
    for selector in result.selectors:
        nn.init.normal_(selector.token_score.weight, std=6.0)
        selector.token_score.bias.data.copy_(torch.tensor([shift, 0.0]).expand(config.num_heads, 2))
    return result.eval()


def test_deit_tiny_has_timm_names_and_shapes() -> None:
    config = replace(NETWORKS["deit_tiny"], selectors=())
    state = VisionTransformer(config, IMAGENET).state_dict()
    block = {
        "norm1.weight": (192,),
        "norm1.bias": (192,),
        "attn.qkv.weight": (576, 192),
        "attn.qkv.bias": (576,),
        "attn.proj.weight": (192, 192),
        "attn.proj.bias": (192,),
        "norm2.weight": (192,),
        "norm2.bias": (192,),
        "mlp.fc1.weight": (768, 192),
        "mlp.fc1.bias": (768,),
        "mlp.fc2.weight": (192, 768),
        "mlp.fc2.bias": (192,),
    }
    expected = {
        "cls_token": (1, 1, 192),
        "pos_embed": (1, 197, 192),
        "patch_embed.proj.weight": (192, 3, 16, 16),
        "patch_embed.proj.bias": (192,),
        "norm.weight": (192,),
        "norm.bias": (192,),
        "head.weight": (1000, 192),
        "head.bias": (1000,),
    } | {f"blocks.{index}.{name}": shape for index in range(12) for name, shape in block.items()}
    assert {name: tuple(value.shape) for name, value in state.items()} == expected
    assert sum(value.numel() for value in state.values()) == 5_717_416


def test_selector_names_extend_timms() -> None:
    names = {name for name in network().state_dict() if name.startswith("selectors.")}
    parts = ("norm", "local", "token1", "token2", "token_score", "head1", "head_score")
    layers = [f"{part}.{kind}" for part in parts for kind in ("weight", "bias")]
    assert names == {f"selectors.{index}.{part}" for index in (0, 1) for part in (*layers, "package_bias")}


@pytest.mark.parametrize("kernels", list(Kernels))
def test_a_bias_of_b_nats_weighs_as_many_tokens_as_e_to_the_b(kernels: Kernels) -> None:
    attention, tokens, copies = network().blocks[0].attn, torch.randn(1, 5, 16), 3
    assert isinstance(attention, Attention)
    selector = network().selectors[0]
    selector.package_bias.data.fill_(math.log(copies))
    bias = selector.column_bias(torch.arange(5)[None] == 4)
    found = attention(tokens, torch.ones(1, 5), kernels, bias)
    several = torch.cat([tokens, tokens[:, 4:].expand(-1, copies - 1, -1)], dim=1)
    expected = attention(several, torch.ones(1, several.shape[1]), kernels)[:, :5]
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02 * expected.abs().max().item())
    assert (attention(tokens, torch.ones(1, 5), kernels) - expected).abs().max() > 0.1 * expected.abs().max()


def reference_logits(source: VisionTransformer, pictures_u8: Tensor) -> Tensor:
    """Logits of the same weights in torch's own transformer layers, with exact GELU and softmax."""
    config, state = source.config, source.state_dict()
    size = config.patch_size
    x = (pictures_u8.float() / 255 - 0.4) / 0.3
    rows = x.unfold(2, size, size).unfold(3, size, size)  # (B, C, row, column, size, size)
    patches = rows.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    tokens = patches @ state["patch_embed.proj.weight"].flatten(1).T + state["patch_embed.proj.bias"]
    tokens = torch.cat([state["cls_token"].expand(len(x), -1, -1), tokens], 1) + state["pos_embed"]
    for index in range(config.depth):
        layer = nn.TransformerEncoderLayer(
            config.embed_dim, config.num_heads, config.mlp_hidden, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True
        )
        names = {
            "self_attn.in_proj_": "attn.qkv.",
            "self_attn.out_proj.": "attn.proj.",
            "linear1.": "mlp.fc1.",
            "linear2.": "mlp.fc2.",
            "norm1.": "norm1.",
            "norm2.": "norm2.",
        }
        layer.load_state_dict(
            {
                ours + kind: state[f"blocks.{index}.{timms}{kind}"]
                for ours, timms in names.items()
                for kind in ("weight", "bias")
            }
        )
        tokens = layer.train()(tokens)  # the fast path of eval mode warns about nested tensors
    tokens = nn.functional.layer_norm(tokens, (config.embed_dim,), state["norm.weight"], state["norm.bias"], 1e-6)
    return tokens[:, 0] @ state["head.weight"].T + state["head.bias"]


def test_dense_network_equals_torchs_own_layers() -> None:
    source = network(replace(TINY, selectors=()))
    x = pictures(8)
    with torch.no_grad():
        logits = source(x).logits
        expected = reference_logits(source, x)
    assert (logits - expected).abs().max() < 0.02 * expected.abs().max()


def test_delta2_scales_the_attention() -> None:
    x = pictures(2)
    full, half = (network(replace(TINY, selectors=(), delta2=delta2)) for delta2 in (1.0, 0.5))
    for block in full.blocks:
        block.attn.qkv.weight.data[-16:] *= 0.5  # half the values
        block.attn.qkv.bias.data[-16:] *= 0.5
    torch.testing.assert_close(half(x).logits, full(x).logits, atol=1e-5, rtol=1e-5)


def test_delta1_reaches_the_mlp_only() -> None:
    x = pictures(2)
    one, half = (network(replace(TINY, delta1=delta1)) for delta1 in (1.0, 0.5))
    assert not torch.allclose(one(x).logits, half(x).logits)
    tokens = one.embed(x)
    valid = tokens.new_ones(tokens.shape[:2])
    torch.testing.assert_close(one.selectors[0](tokens, valid), half.selectors[0](tokens, valid))


def test_pictures_of_a_batch_do_not_mix() -> None:
    source = network(seed=2)
    x = pictures(5)
    torch.testing.assert_close(source(x[3:4]).logits, source(x).logits[3:4], atol=2e-5, rtol=1e-5)


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    source = network(seed=2)
    output = source(pictures(8), gumbel_noise(8, 2, TINY.num_tokens))
    (output.logits.square().sum() + output.tokens.square().sum()).backward()
    without = [name for name, value in source.named_parameters() if value.grad is None or not value.grad.any()]
    assert without == []
    assert all(value.grad.isfinite().all() for value in source.parameters() if value.grad is not None)


def test_wrong_pictures_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"pictures must be uint8 \(B, 1, 16, 16\), not torch.float32 \(2, 1, 16, 16\)"
    ):
        network()(pictures(2).float())
    with pytest.raises(ValueError, match=r"not torch.uint8 \(2, 1, 8, 16\)"):
        network()(pictures(2)[:, :, :8])


def test_wrong_normalisation_is_refused() -> None:
    with pytest.raises(ValueError, match="normalisation must have 1 channels, not 3"):
        VisionTransformer(TINY, IMAGENET)
    with pytest.raises(ValueError, match="std must be positive"):
        Normalisation((0.5,), (0.0,))
    with pytest.raises(ValueError, match="one entry per channel"):
        Normalisation((0.5,), (0.5, 0.5))
