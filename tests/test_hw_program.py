"""The compiler.

Testpoints: order of the heads; weights of later layers loaded before earlier layers compute; one layer name per
descriptor; row parts of LayerNorm and of the patches, and what they wait for; no tap without taps; every weight byte
loaded once; taps of every layer but the keep score; input packing and its refusals; each limit and each memory refused
with numbers, and accepted at exactly those numbers; named configs hold DeiT-Tiny; a compiled program is reproducible.
"""

import re
from dataclasses import replace

import numpy as np
import pytest

from hw.config import CONFIGS
from hw.isa import Drain, Memory, Opcode, Region
from hw.program import compile_network
from quant.config import NetworkConfig
from quant.synthetic import random_network
from tests.programs import SHAPES, array, case

SHAPE = (2, 8, 4)
SMALL = NetworkConfig(12, 4, 1, 10, 24, 2, 3, 40, selectors=(0, 1))
NETWORK = random_network(np.random.default_rng(5), SMALL)


def named(program, layer, opcode):
    """Return the indices of the descriptors of a layer and opcode."""
    return [
        index
        for index, (descriptor, name) in enumerate(zip(program.descriptors, program.layers, strict=True))
        if name == layer and descriptor.opcode == opcode
    ]


def test_scores_of_the_next_head_precede_the_product():
    program = compile_network(NETWORK, array(SHAPE))
    scores = named(program, "blocks.0.attn.scores", Opcode.GEMM)
    products = named(program, "blocks.0.attn.context", Opcode.GEMM)
    assert len(scores) == len(products) == 3
    assert scores[1] < products[0] < scores[2] < products[1] < products[2]
    bases = [program.descriptors[index].dst_base for index in scores]
    assert bases[0] == bases[2] != bases[1]


def test_weights_are_loaded_ahead():
    program = compile_network(NETWORK, array(SHAPE))
    assert named(program, "blocks.0.mlp.fc2", Opcode.LOAD)[-1] < named(program, "blocks.0.mlp.fc1", Opcode.GEMM)[0]
    # A LOAD into words never used before waits for nobody.
    assert program.descriptors[named(program, "blocks.0.attn.k", Opcode.LOAD)[0]].waits == (0, 0, 0, 0, 0)


def test_every_descriptor_has_a_layer():
    program = compile_network(NETWORK, array(SHAPE))
    assert len(program.layers) == len(program.descriptors)
    assert program.layers[0] == "patch_embed" and program.layers[-1] == "end"
    assert {"selectors.0.pooled", "selectors.1.package", "blocks.1.attn.exp", "norm", "head"} <= set(program.layers)


def test_weights_are_loaded_once():
    program = compile_network(NETWORK, array(SHAPE, weight_words=256, param_words=32))
    loads = [d for d in program.descriptors if d.opcode == Opcode.LOAD and d.region == Region.WEIGHTS]
    loads.sort(key=lambda d: d.offset)
    assert [d.offset for d in loads[1:]] == [d.offset + d.length for d in loads[:-1]]
    assert (loads[0].offset, loads[-1].offset + loads[-1].length) == (0, len(program.weights))
    assert (loads[0].memory, loads[1].memory) == (Memory.WIDE, Memory.WEIGHT)


def test_taps_are_those_of_the_golden_model():
    program = compile_network(NETWORK, array(SHAPE), taps=True)
    _, golden, _ = case(0, SHAPE)
    names = {tap.name for tap in program.taps}
    assert len(names) == len(program.taps)
    assert {f"selectors.{i}.{layer}" for i in (0, 1) for layer in ("tokens", "package", "pooled", "head1")} <= names
    assert "selectors.0.keep_score" not in names
    assert {name.split(".")[-1] for name in golden.taps if name.startswith("blocks.")} <= {
        n.split(".")[-1] for n in names
    }
    plain = compile_network(NETWORK, array(SHAPE))
    assert plain.taps == ()
    assert [d.memory for d in plain.descriptors if d.opcode == Opcode.STORE] == [Memory.WIDE, Memory.TOKEN]


def test_input_is_packed_with_a_cls_row():
    program = compile_network(NETWORK, array(SHAPE))
    patches_i8 = np.arange(9 * 16).reshape(9, 16).astype(np.int8)
    packed = np.frombuffer(program.pack_input(patches_i8), np.int8)
    assert len(packed) == program.input_bytes
    tiled = packed[: 5 * 4 * 2 * 4].reshape(5, 4, 2, 4)  # (tile, word, lane, K)
    assert not tiled[0, :, 0].any()
    assert (tiled[0, :, 1].reshape(-1) == patches_i8[0]).all()
    assert (tiled[4, :, 1].reshape(-1) == patches_i8[8]).all()
    with pytest.raises(ValueError, match=re.escape("patches_i8 must be int8 (9, 16), not int8 (10, 16)")):
        program.pack_input(np.zeros((10, 16), np.int8))
    with pytest.raises(ValueError, match="not uint8"):
        program.pack_input(np.zeros((9, 16), np.uint8))


def test_program_bytes_are_reproducible():
    first, second = (compile_network(NETWORK, array(SHAPE), taps=True) for _ in range(2))
    assert first.program_bytes() == second.program_bytes() and first.weights == second.weights
    assert len(first.program_bytes()) == 64 * len(first.descriptors)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (array((2, 16, 16)), "embed_dim must be a multiple of the array's depth 16 (for example 16 or 32), not 24"),
        (array(SHAPE, max_tokens=9), "max_tokens must be at least 10, not 9"),
        (array(SHAPE, act_words=100), "act_words must be at least 168 for 10 tokens of 24 channels, not 100"),
        (array(SHAPE, wide_words=50), "wide_words must be at least 64 for 10 tokens of 24 channels, not 50"),
    ],
)
def test_what_does_not_fit_is_refused(config, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        compile_network(NETWORK, config)


@pytest.mark.parametrize("memory", ["act_words", "wide_words", "weight_words"])
@pytest.mark.parametrize("shape", SHAPES[:3])
def test_the_number_that_is_asked_for_is_enough(memory, shape):
    network, _, _ = case(3, shape)
    words = 16
    for _ in range(20):  # weight_words is refused layer by layer
        try:
            compile_network(network, array(shape, **{memory: words}))
            break
        except ValueError as error:
            asked = re.search(rf"{memory} must be (at least|more than) (\d+)", str(error))
            assert asked and int(asked[2]) >= words
            words = int(asked[2]) + (asked[1] == "more than")
    else:
        pytest.fail("never accepted")
    with pytest.raises(ValueError, match=memory):
        compile_network(network, array(shape, **{memory: words - 1}))


@pytest.fixture(scope="module")
def deit_tiny():
    """A random network of DeiT-Tiny's size with the three selectors of the paper."""
    config = NetworkConfig(224, 16, 3, 1000, 192, 12, 3, 768, selectors=(3, 6, 9))
    return random_network(np.random.default_rng(0), config)


@pytest.mark.parametrize("name", ["zcu102_2048", "zcu102_4096"])
def test_deit_tiny_fits_the_board(deit_tiny, name):
    config = CONFIGS[name]
    block_rams = sum(
        words * word_bytes / 4096
        for words, word_bytes in (
            (config.act_words, config.act_bytes),
            (config.wide_words, config.wide_bytes),
            (config.weight_words, config.weight_bytes),
            (config.param_words, config.param_bytes),
        )
    )
    assert block_rams <= 800  # of 912: row scales, tokens and queues need some too
    program = compile_network(deit_tiny, config)
    gemms = [d for d in program.descriptors if d.opcode == Opcode.GEMM]
    assert sum(d.mode == Drain.SCORE for d in gemms) == 36
    assert len(program.descriptors) < 1000


def test_row_parts_overlap_whatever_the_live_count(deit_tiny):
    program = compile_network(deit_tiny, CONFIGS["zcu102_2048"])
    before = [program.descriptors[index] for index in named(program, "blocks.2.norm1", Opcode.LAYER_NORM)]
    first_tiles = [0, 2, 5, 12]  # of 25 row tiles of eight rows
    assert [part.first_tile for part in before] == first_tiles
    assert [part.rows for part in before] == [16, 24, 56, 0]
    stride = before[0].src_stride
    assert [part.src_base - before[0].src_base for part in before] == [tile * stride for tile in first_tiles]
    assert [part.dst_base - before[0].dst_base for part in before] == [tile * stride for tile in first_tiles]
    # The first part waits for the first part of the layer before, and the array goes on meanwhile.
    last_gemms = named(program, "blocks.1.mlp.fc2", Opcode.GEMM)
    gemms_so_far = sum(d.opcode == Opcode.GEMM for d in program.descriptors[: last_gemms[-1] + 1])
    assert [part.wait_gemm for part in before] == [gemms_so_far - 3, gemms_so_far - 2, gemms_so_far - 1, gemms_so_far]
    after = [program.descriptors[index] for index in named(program, "blocks.3.norm1", Opcode.LAYER_NORM)]
    assert [part.first_tile for part in after] == first_tiles


def test_patches_are_loaded_in_row_parts(deit_tiny):
    program = compile_network(deit_tiny, CONFIGS["zcu102_2048"])
    loads = [d for d in program.descriptors if d.opcode == Opcode.LOAD and d.region == Region.INPUT]
    assert len(loads) == 4
    assert [d.offset for d in loads] == [0, *np.cumsum([d.length for d in loads])[:-1]]
    assert sum(d.length for d in loads) == program.input_bytes
    first = program.descriptors[named(program, "patch_embed", Opcode.GEMM)[0]]
    assert first.wait_load < sum(d.opcode == Opcode.LOAD for d in program.descriptors[:20])


def test_norm_beyond_the_parameters_is_refused():
    config = replace(SMALL, embed_dim=48, selectors=())
    network = random_network(np.random.default_rng(1), config)
    with pytest.raises(ValueError, match="param_words must be at least 24 for the LayerNorm of 48 channels, not 16"):
        compile_network(network, array((2, 4, 2), param_words=16))
    compile_network(network, array((2, 4, 2), param_words=24))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 33, "selectors": tuple(range(33))}, "selectors must be at most 32, not 33"),
        ({"embed_dim": 1028, "num_heads": 1}, "embed_dim must be at most 1024, not 1028"),
        ({"embed_dim": 1024, "num_heads": 256}, "num_heads must be at most 255, not 256"),
    ],
)
def test_limits_of_the_units_are_refused(changes, message):
    network = replace(NETWORK, config=replace(SMALL, **changes))
    with pytest.raises(ValueError, match=message):
        compile_network(network, array(SHAPE))
