"""Section `f16`: the 16-bit GGUF."""

from typing import Literal

from ingot.params.core import Section


class F16(Section):
    type: Literal["auto", "f16", "bf16"]
