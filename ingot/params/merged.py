"""Section `merged`: what the adapter is folded into, and where that is computed."""

from typing import Literal

from ingot.params.core import Section


class Merged(Section):
    base: Literal["original", "nf4"]
    device: Literal["cpu", "cuda"]  # to the same bytes
