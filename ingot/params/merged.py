"""Section `merged`: what the adapter is folded into."""

from typing import Literal

from ingot.params.core import Section


class Merged(Section):
    base: Literal["original", "nf4"]
