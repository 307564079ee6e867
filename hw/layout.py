"""How pictures lie in the INPUT region and results in the OUTPUT region: what the host packs and reads.

Imports: numpy and modules that import nothing else, so that it also runs on the board.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hw.config import AccelConfig
from hw.isa import Memory
from hw.taps import Tap
from hw.tiling import TRANSFER_BYTES, Channels, ceil_div, round_up, transfer_words
from hw.weights import pack_tokens
from quant.config import NetworkConfig
from quant.network import I8, I16, U16


@dataclass(frozen=True)
class RunLayout:
    """The host's view of a run: `pictures` pictures of one network on one accelerator."""

    config: AccelConfig
    network_config: NetworkConfig
    pictures: int

    @property
    def picture_bytes(self) -> int:
        """Size of a picture in the INPUT region."""
        config, network = self.config, self.network_config
        tiles, words = ceil_div(network.num_tokens, config.rows), ceil_div(network.patch_dim, config.depth)
        return transfer_words(tiles * words, config.act_bytes) * config.act_bytes

    @property
    def input_bytes(self) -> int:
        """Size of the INPUT region."""
        return self.pictures * self.picture_bytes

    @property
    def logits_bytes(self) -> int:
        """Size of a picture's logits in the OUTPUT region."""
        words = ceil_div(self.network_config.num_classes, self.config.depth)
        return transfer_words(words, self.config.wide_bytes) * self.config.wide_bytes

    @property
    def result_bytes(self) -> int:
        """Size of a picture's logits and live tokens, which lie at the start of the OUTPUT region."""
        return self.logits_bytes + round_up(2 * self.network_config.num_tokens, TRANSFER_BYTES)

    def pack_input(self, *patches_i8: I8) -> bytes:
        """Return the INPUT region: of each picture (num_patches, patch_dim); the CLS row is added as zeros.

        Raises ValueError if the number of pictures, a shape or a type is another.
        """
        if len(patches_i8) != self.pictures:
            raise ValueError(f"patches_i8 must be those of {self.pictures} pictures, not {len(patches_i8)}")
        return b"".join(self._pack_picture(each_i8) for each_i8 in patches_i8)

    def _pack_picture(self, patches_i8: I8) -> bytes:
        shape = (self.network_config.num_patches, self.network_config.patch_dim)
        if patches_i8.shape != shape or patches_i8.dtype != np.int8:
            raise ValueError(f"patches_i8 must be int8 {shape}, not {patches_i8.dtype} {patches_i8.shape}")
        packed = pack_tokens(np.pad(patches_i8, ((1, 0), (0, 0))), self.config)
        return packed.ljust(self.picture_bytes, b"\0")

    def token_counts(self, counts: Sequence[int], picture: int = 0) -> tuple[int, ...]:
        """Return a picture's live count after each selector, from those of the TOKENS registers."""
        selectors = len(self.network_config.selectors)
        return tuple(counts[picture * selectors : (picture + 1) * selectors])

    def logits_tap(self, picture: int) -> Tap:
        """Return the tap of the logits, which a program always stores, with the live tokens."""
        classes = Channels.dense(self.network_config.num_classes)
        words = classes.words(self.config.depth)
        offset = picture * self.result_bytes
        return Tap("head", picture, 0, Memory.WIDE, "int16", offset, words, classes.positions, rows=1)

    def logits(self, output: bytes, picture: int = 0) -> I16:
        """Return the (num_classes,) logits of a picture in the OUTPUT region."""
        logits_i16: I16 = self.logits_tap(picture).read(output, 1, self.config)[0]
        return logits_i16

    def tokens(self, output: bytes, count: int, picture: int = 0) -> U16:
        """Return the `count` tokens that reached the last block: CLS is 0, patch p is p + 1, the package 65535."""
        offset = picture * self.result_bytes + self.logits_bytes
        return np.frombuffer(output, "<u2", count, offset).astype(np.uint16)
