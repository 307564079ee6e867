"""The memory account.

Testpoints: ACT and WIDE need exactly the words that the account says; the parts of WEIGHT; block RAMs by hand; the
bytes of a run are those of its regions and descriptors; the ZCU102's accelerators hold DeiT-Small and DeiT-Base.
"""

from dataclasses import replace

import pytest

from hw.account import ZCU102_BLOCKS, Use, block_rams, ddr_bytes, memory_account
from hw.config import CONFIGS
from hw.isa import DESCRIPTOR_BYTES
from hw.program import compile_network
from hw.site import OperandBuffers
from model.config import NETWORKS
from quant.blank import blank_network
from quant.config import NetworkConfig
from tests.programs import array

CONFIG = array((8, 32, 8), weight_words=1000)
NETWORK = blank_network(NetworkConfig(24, 4, 1, 10, 32, 2, 2, 64, selectors=(1,)))


def test_account_is_what_the_compiler_needs():
    account = memory_account(compile_network(NETWORK, CONFIG))
    for name in ("act", "wide"):
        use, field = account[name], f"{name}_words"
        assert use.available == getattr(CONFIG, field)
        exact = replace(CONFIG, **{field: use.used})
        assert memory_account(compile_network(NETWORK, exact))[name] == Use(use.used, use.used)
        with pytest.raises(ValueError, match=f"{field} must be at least {use.used} "):
            compile_network(NETWORK, replace(CONFIG, **{field: use.used - 1}))
    operands = OperandBuffers.of(NETWORK.config, CONFIG).words
    assert account["weight_operands"] == Use(operands, operands)
    assert account["weight_ring"].available == CONFIG.weight_words - operands
    assert account["weight"] == Use(operands + account["weight_ring"].used, CONFIG.weight_words)
    assert 0 < account["weight_ring"].used <= account["weight_ring"].available
    assert 0 < account["param"].used <= CONFIG.param_words
    assert NETWORK.config.num_tokens <= account["token"].used <= CONFIG.token_words


def test_block_rams():
    assert block_rams(CONFIGS["zcu102_2048"]) == {"act": 192, "wide": 192, "weight": 384, "param": 16, "token": 1}
    # Words of 8, 16, 32, 32 and 2 bytes: 4096 x 8, 4096 x 16, 2048 x 32, 512 x 32, 256 x 2.
    assert block_rams(CONFIGS["tiny"]) == {"act": 8, "wide": 16, "weight": 16, "param": 4, "token": 1}
    assert block_rams(replace(CONFIGS["tiny"], act_words=4097, param_words=16)) == {
        **block_rams(CONFIGS["tiny"]),
        "act": 9,
    }


def test_bytes_of_a_run():
    program = compile_network(NETWORK, CONFIG)
    regions = len(program.weights) + program.input_bytes + program.output_bytes
    assert ddr_bytes(program) == regions + DESCRIPTOR_BYTES * len(program.descriptors)


@pytest.mark.parametrize("network", ["deit_small", "deit_base"])
@pytest.mark.parametrize("config", ["zcu102_2048", "zcu102_4096"])
def test_other_sizes_fit_the_board(network, config):
    program = compile_network(blank_network(NETWORKS[network]), CONFIGS[config])
    assert all(0 < use.used <= use.available for use in memory_account(program).values())
    assert sum(block_rams(CONFIGS[config]).values()) <= ZCU102_BLOCKS
