"""The overlay package on a simulated ZCU102: unmodified pynq.Overlay, driver and accelerator on the numpy machine.

Testpoints
- one picture, many, and several that share a run equal the golden model: logits, classes, counts, kept tokens
- the next pictures are packed into a second buffer while the core works; start and wait by hand; no picture, too many
- a driver that skips flush or invalidate, of any buffer, fails
- a hung core times out with its status; watchdog, bad program and unreadable memory are decoded; an interrupt aborts;
  the device works again after each
- another VLNV, another config than the manifest's, another core than the manifest's, no manifest: refused
- a second user is refused while the first is there, also before the bitstream is written; not after it
- the first prediction of docs/zcu102.md is code that runs
- buffers are freed; values for registers are plain ints; the driver takes no address of a slice
"""

import re
from dataclasses import replace
from pathlib import Path

import board
import numpy as np
import pynq
import pytest

from bitstreams.device_lock import DeviceBusyError
from bitstreams.driver import AcceleratorError, WrongCoreError
from bitstreams.manifest import Manifest
from bitstreams.pynq_driver import HeatVitIP, open_accelerator
from heatvit.compiled import make_samples
from hw.isa import DESCRIPTOR_BYTES, Descriptor, ErrorCode, Opcode
from hw.overlay import INSTANCE
from hw.regmap import REGISTERS, Status
from quant.reference import run
from sim.overlay_files import write_overlay
from sim.zcu102 import SimulatedZcu102

NETWORK, PICTURES = board.network_and_pictures(5)
GOLDEN = [run(NETWORK, picture, taps=False) for picture in PICTURES]
NO_TOKENS = replace(board.SMALL, selectors=())
OTHER = replace(board.CONFIG, act_words=2048)


@pytest.fixture(scope="module")
def compiled():
    return board.compiled_network(NETWORK)


@pytest.fixture(scope="module")
def bitstream(tmp_path_factory):
    return write_overlay(tmp_path_factory.mktemp("overlay"), board.CONFIG)


@pytest.fixture
def core():
    return board.HostCore()


@pytest.fixture
def device(core):
    return SimulatedZcu102(core)


@pytest.fixture
def accelerator(bitstream, compiled, device):
    with open_accelerator(bitstream, compiled, device=device) as accelerator:
        yield accelerator


def check(predictions, golden=GOLDEN):
    """Predictions must be exactly the golden model's."""
    assert len(predictions) == len(golden)
    for prediction, inference in zip(predictions, golden, strict=True):
        assert prediction.logits_i16.tolist() == inference.logits_i16.tolist()
        assert prediction.label == inference.logits_i16.argmax()
        assert prediction.token_counts == tuple(inference.num_tokens)
        assert prediction.tokens.tolist() == inference.tokens[-1].tolist()
        kept = [int(token) - 1 for token in inference.tokens[-1] if 0 < token <= board.SMALL.num_patches]
        assert prediction.kept_patches(board.SMALL.num_patches).tolist() == kept


def broken(compiled, index, **fields):
    """The network with fields of a descriptor of its program changed."""
    start = index * DESCRIPTOR_BYTES
    old = Descriptor.unpack(compiled.descriptors[start : start + DESCRIPTOR_BYTES])
    new = replace(old, **fields).pack()
    return replace(
        compiled, descriptors=compiled.descriptors[:start] + new + compiled.descriptors[start + DESCRIPTOR_BYTES :]
    )


def test_predictions_equal_the_golden_model(accelerator):
    assert len({inference.num_tokens[0] for inference in GOLDEN}) > 2  # the pictures are pruned differently
    check(accelerator.predict(PICTURES))
    check(accelerator.predict(PICTURES[1]), GOLDEN[1:2])
    assert accelerator.predict(PICTURES[:0]) == []


@pytest.mark.parametrize("pictures", [2, 3])
def test_pictures_that_share_a_run(bitstream, device, pictures):
    network = board.compiled_network(NETWORK, pictures)
    with open_accelerator(bitstream, network, device=device) as accelerator:
        check(accelerator.predict(PICTURES))  # the last run is not full


def test_network_without_selectors_keeps_all_tokens(bitstream, device):
    network, pictures = board.network_and_pictures(1, NO_TOKENS)
    with open_accelerator(bitstream, board.compiled_network(network), device=device) as accelerator:
        (prediction,) = accelerator.predict(pictures)
    assert prediction.logits_i16.tolist() == run(network, pictures[0], taps=False).logits_i16.tolist()
    assert prediction.token_counts == () and prediction.tokens.tolist() == list(range(NO_TOKENS.num_tokens))


def test_next_pictures_are_packed_beside_a_run(accelerator, core, monkeypatch):
    events = []
    stage, wait = accelerator.core.stage, accelerator.core.wait
    monkeypatch.setattr(accelerator.core, "stage", lambda packed: (events.append("stage"), stage(packed))[1])
    monkeypatch.setattr(accelerator.core, "wait", lambda: (events.append("wait"), wait())[1])
    check(accelerator.predict(PICTURES[:3]), GOLDEN[:3])
    assert events == ["stage", "stage", "wait", "stage", "wait", "wait"]


def test_start_and_wait(accelerator):
    accelerator.start(PICTURES[0])
    with pytest.raises(RuntimeError, match="a run is in progress"):
        accelerator.start(PICTURES[1])
    check(accelerator.wait(), GOLDEN[:1])
    for wrong in (PICTURES[:0], PICTURES[:2]):
        with pytest.raises(ValueError, match=f"a run takes 1 to 1 pictures, not {len(wrong)}"):
            accelerator.start(wrong)
    with pytest.raises(ValueError, match=r"pictures must be uint8 \(1, 8, 8\)"):
        accelerator.predict(PICTURES.astype(float))


def test_skipped_flush_of_the_program_fails(bitstream, compiled, device, monkeypatch):
    monkeypatch.setattr(device, "flush", lambda *_: None)
    with (
        open_accelerator(bitstream, compiled, device=device) as accelerator,
        pytest.raises(AcceleratorError, match="BAD_OPCODE at descriptor 0"),
    ):
        accelerator.predict(PICTURES)


@pytest.mark.parametrize("side", ["flush", "invalidate"])
def test_skipped_flush_or_invalidate_of_pictures_fails(accelerator, device, monkeypatch, side):
    check(accelerator.predict(PICTURES))
    monkeypatch.setattr(device, side, lambda *_: None)
    logits = [prediction.logits_i16.tolist() for prediction in accelerator.predict(PICTURES)]
    assert logits != [inference.logits_i16.tolist() for inference in GOLDEN]


def test_hung_core_times_out_with_its_status(bitstream, compiled, device):
    hung = broken(compiled, 0, wait_store=1000)
    with open_accelerator(bitstream, hung, device=device, timeout_s=0.05, watchdog_cycles=0) as accelerator:
        for _ in range(2):
            with pytest.raises(TimeoutError, match=r"waiting for the run to end \(status BUSY\)"):
                accelerator.predict(PICTURES)
    with open_accelerator(bitstream, compiled, device=device) as accelerator:
        check(accelerator.predict(PICTURES))


@pytest.mark.parametrize(
    ("index", "fields", "code"),
    [
        (0, {"wait_store": 1000}, ErrorCode.WATCHDOG),
        (1, {"opcode": 99}, ErrorCode.BAD_OPCODE),
        (-1, {"opcode": Opcode.STORE, "offset": 1 << 20, "length": 64, "region": 2}, ErrorCode.BAD_ADDRESS),
    ],
)
def test_errors_of_the_core_are_decoded(bitstream, compiled, device, index, fields, code):
    index %= len(compiled.descriptors) // DESCRIPTOR_BYTES
    with (
        open_accelerator(bitstream, broken(compiled, index, **fields), device=device) as accelerator,
        pytest.raises(AcceleratorError, match=rf"accelerator reports {code.name} at descriptor {index} \(status ERROR"),
    ):
        accelerator.predict(PICTURES)


def test_unreadable_memory_is_decoded(accelerator, core):
    high = REGISTERS["WEIGHTS_HI"].offset
    before = core.read32(high)
    core.write32(high, before ^ 1)
    with pytest.raises(AcceleratorError, match="AXI_READ"):
        accelerator.predict(PICTURES)
    core.write32(high, before)
    check(accelerator.predict(PICTURES))


def test_interrupted_run_is_aborted_and_the_device_works_again(accelerator, core):
    def interrupt():
        if core.read32(REGISTERS["STATUS"].offset) == Status.BUSY:
            core.hook = None
            raise KeyboardInterrupt

    core.hook = interrupt
    with pytest.raises(KeyboardInterrupt):
        accelerator.predict(PICTURES)
    assert core.read32(REGISTERS["ERROR"].offset) == ErrorCode.ABORTED
    check(accelerator.predict(PICTURES))


def test_interrupt_beside_a_run_aborts_it_too(accelerator, core, monkeypatch):
    stage, staged = accelerator.core.stage, []

    def interrupt(packed):
        if staged:
            raise KeyboardInterrupt
        staged.append(packed)
        stage(packed)

    monkeypatch.setattr(accelerator.core, "stage", interrupt)
    with pytest.raises(KeyboardInterrupt):
        accelerator.predict(PICTURES)
    assert core.read32(REGISTERS["ERROR"].offset) == ErrorCode.ABORTED
    monkeypatch.undo()
    check(accelerator.predict(PICTURES))


def opened(bitstream, compiled, device):
    """Open and close."""
    with open_accelerator(bitstream, compiled, device=device):
        pass


def test_network_for_another_accelerator_is_refused(bitstream, device):
    other = board.compiled_network(NETWORK, config=OTHER)
    message = "compiled for another accelerator than the bitstream's: act_words 2048 (bitstream 4096)"
    with pytest.raises(ValueError, match=re.escape(message)):
        opened(bitstream, other, device)


def test_core_that_is_not_the_manifests_is_refused(bitstream, compiled):
    with pytest.raises(WrongCoreError, match=r"CONFIG_HASH must be 0x[0-9a-f]{8}, not 0x[0-9a-f]{8}"):
        opened(bitstream, compiled, SimulatedZcu102(board.HostCore(OTHER)))


def test_core_of_somebody_else_is_refused(bitstream, compiled, core, device):
    core._registers["ID"] = 0x12345678
    with pytest.raises(WrongCoreError, match="ID must be 0x48565431, not 0x12345678"):
        opened(bitstream, compiled, device)


def test_wrong_or_missing_manifest_is_refused(compiled, device, tmp_path):
    bitstream = write_overlay(tmp_path, board.CONFIG)
    manifest = tmp_path / "manifest.json"
    replace(Manifest.load(manifest), vlnv="somebody.org:ip:other:1.0").save(manifest)
    with pytest.raises(ValueError, match=r"must hold heatvit\.org:.*, not somebody\.org:ip:other:1\.0"):
        opened(bitstream, compiled, device)
    manifest.write_text("{}")
    with pytest.raises(ValueError, match=r"manifest\.json: .* is missing"):
        opened(bitstream, compiled, device)
    manifest.unlink()
    with pytest.raises(FileNotFoundError, match=r"manifest\.json"):
        opened(bitstream, compiled, device)


def test_design_without_our_core_is_refused(compiled, device, tmp_path):
    bitstream = write_overlay(tmp_path, board.CONFIG)
    handoff = bitstream.with_suffix(".hwh")
    handoff.write_text(handoff.read_text().replace("heatvit.org:accelerator", "somebody.org:accelerator"))
    with pytest.raises(ValueError, match=f"{INSTANCE} of .* must be a heatvit.org:.*, not a DefaultIP"):
        opened(bitstream, compiled, device)


def test_second_user_is_refused_before_the_download(bitstream, compiled, device, monkeypatch):
    downloads = []
    download = device.download
    monkeypatch.setattr(device, "download", lambda *args: (downloads.append(1), download(*args)))
    with open_accelerator(bitstream, compiled, device=device) as accelerator:
        with pytest.raises(DeviceBusyError, match=f"device {device.tag} is in use by process"):
            opened(bitstream, compiled, device)
        assert downloads == [1]
        check(accelerator.predict(PICTURES))
    opened(bitstream, compiled, device)


def test_buffers_are_freed(bitstream, compiled, device, core):
    opened(bitstream, compiled, device)
    assert core.memory._buffers == {}


def test_full_memory_is_told(bitstream, compiled, device, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("Failed to allocate memory buffer")

    monkeypatch.setattr(device, "allocate", refuse)
    with pytest.raises(MemoryError, match=r"no \d+ bytes of contiguous memory are left: Failed to allocate"):
        opened(bitstream, compiled, device)


def test_driver_is_bound_and_gives_plain_ints(bitstream, device, core):
    ip = getattr(pynq.Overlay(str(bitstream), device=device), INSTANCE)
    assert isinstance(ip, HeatVitIP)
    ip.write32(REGISTERS["WATCHDOG"].offset, np.int64(7))
    assert core.read32(REGISTERS["WATCHDOG"].offset) == 7
    assert type(ip.read32(REGISTERS["WATCHDOG"].offset)) is int
    buffer = ip.allocate(100)
    assert type(buffer.device_address) is int and type(buffer.host) is np.ndarray
    buffer.free()
    assert buffer.host.size == 0 and core.memory._buffers == {}


def test_first_prediction_of_the_documentation(tmp_path, device, monkeypatch, capsys):
    text = (Path(__file__).parent.parent / "docs" / "zcu102.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    write_overlay(tmp_path, board.CONFIG)
    samples = make_samples(NETWORK, PICTURES, [-1] * len(PICTURES))
    replace(board.compiled_network(NETWORK), samples=samples).save(tmp_path / "network.npz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pynq.Device, "_active_device", device, raising=False)
    exec(code, {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(PICTURES) and all(line.endswith(" exact") for line in lines)
