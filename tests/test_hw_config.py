"""AccelConfig: validation, derived sizes, hash and files.

Testpoints: every named config is legal and has its MACs; each field's limits, with the text of the error; the array
shape rules; word sizes; canonical hash: stable, order-free, sensitive to every field; dict and JSON round trip;
unknown, missing and malformed files.
"""

import json
from dataclasses import fields, replace

import pytest

from hw.config import CONFIGS, AccelConfig, load_config

TINY = CONFIGS["tiny"]


@pytest.mark.parametrize(
    "name, macs", [("tiny", 64), ("ecp5", 16), ("demo", 256), ("zcu102_2048", 2048), ("zcu102_4096", 4096)]
)
def test_named_configs(name, macs):
    assert CONFIGS[name].macs == macs
    assert load_config(name) is CONFIGS[name]


@pytest.mark.parametrize(
    "field, low, high",
    [
        ("rows", 2, 4),  # rows must also divide depth
        ("columns", 4, 64),
        ("axi_bytes", 4, 16),
        ("act_words", 16, 65535),
        ("wide_words", 16, 65535),
        ("weight_words", 16, 65535),
        ("param_words", 16, 65535),
        ("max_tokens", 2, 256),
        ("axi_ports", 1, 4),
    ],
)
def test_limits(field, low, high):
    for value in (low, high):
        assert getattr(replace(TINY, **{field: value}), field) == value
    for value in (low - 1, high + 1, 0, -4):
        with pytest.raises(ValueError, match=f"{field}|rows must divide"):
            replace(TINY, **{field: value})


@pytest.mark.parametrize("value", [True, 4.0, "4", None])
@pytest.mark.parametrize("field", [field.name for field in fields(AccelConfig)])
def test_fields_are_integers(field, value):
    with pytest.raises(ValueError, match=f"{field} must be an integer, not {value!r}"):
        replace(TINY, **{field: value})


@pytest.mark.parametrize("field", ["rows", "columns", "depth", "axi_bytes"])
@pytest.mark.parametrize("value", [3, 6, 12, 128, 1])
def test_sizes_are_powers_of_two(field, value):
    with pytest.raises(ValueError, match=rf"{field} must be a power of two in \d+\.\.\d+, not {value}"):
        replace(TINY, **{field: value})


@pytest.mark.parametrize("rows, columns, depth", [(8, 8, 4), (2, 4, 8), (16, 64, 8)])
def test_rows_divide_depth_divides_columns(rows, columns, depth):
    text = f"rows must divide depth and depth must divide columns, not {rows} x {columns} x {depth}"
    with pytest.raises(ValueError, match=text):
        replace(TINY, rows=rows, columns=columns, depth=depth)


def test_word_sizes():
    config = replace(TINY, rows=4, columns=16, depth=8)
    assert (config.act_bytes, config.wide_bytes, config.weight_bytes, config.param_bytes) == (32, 64, 128, 64)


@pytest.mark.parametrize("tokens, row_tiles, token_words", [(2, 1, 32), (3, 2, 32), (64, 32, 64), (197, 99, 256)])
def test_sizes_that_follow_the_tokens(tokens, row_tiles, token_words):
    config = replace(TINY, max_tokens=tokens, pictures=3)
    assert (config.row_tiles, config.row_scale_words, config.token_stride) == (row_tiles, 2 * row_tiles, token_words)
    assert config.token_words == 3 * token_words


def test_hash_is_canonical():
    assert TINY.hash32 == AccelConfig.from_dict(dict(reversed(TINY.to_dict().items()))).hash32
    assert 0 <= TINY.hash32 < 1 << 32
    changed = [
        replace(TINY, **{name: value})
        for name, value in {
            "rows": 4,
            "columns": 16,
            "depth": 8,
            "act_words": 17,
            "wide_words": 17,
            "weight_words": 17,
            "param_words": 17,
            "max_tokens": 5,
            "pictures": 2,
            "axi_bytes": 16,
            "axi_ports": 2,
        }.items()
    ]
    assert len(changed) == len(fields(AccelConfig))
    assert len({config.hash32 for config in (TINY, *changed)}) == 1 + len(changed)


def test_dict_round_trip():
    assert AccelConfig.from_dict(TINY.to_dict()) == TINY


def test_dict_with_unknown_or_missing_field():
    with pytest.raises(ValueError, match="unknown config field 'lanes', allowed: act_words, axi_bytes"):
        AccelConfig.from_dict(TINY.to_dict() | {"lanes": 4})
    with pytest.raises(ValueError, match=r"config is incomplete: .*'rows'"):
        AccelConfig.from_dict({key: value for key, value in TINY.to_dict().items() if key != "rows"})


def test_json_file(tmp_path):
    path = tmp_path / "array.json"
    path.write_text(json.dumps(replace(TINY, columns=16).to_dict()))
    assert load_config(str(path)) == replace(TINY, columns=16)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_malformed_file(tmp_path, content):
    path = tmp_path / "array.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"config file '.*array.json' is not JSON"):
        load_config(str(path))


def test_file_without_object(tmp_path):
    path = tmp_path / "array.json"
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match="must hold a JSON object"):
        load_config(str(path))


@pytest.mark.parametrize("name", ["huge", "missing.json", "", "tiny.txt"])
def test_unknown_config(name):
    with pytest.raises(ValueError, match=rf"config must be one of tiny, demo, .* or a \.json file, not {name!r}"):
        load_config(name)
