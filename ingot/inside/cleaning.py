"""One turn's text, cleaned as `dataset.clean` says, or the reason why it cannot be trained on."""

from __future__ import annotations

import re
import unicodedata

from ingot.params.dataset import Clean

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # category Cc without tab, newline, carriage return

# UTF-8 that was read as Latin-1 or Windows-1252: a lead byte's character, then those of its continuation bytes. A pair
# can stand in sound text too (`café…”`), so English punctuation and Latin letters, whose pairs no language writes, count
# at once, and the others from three on.
LATIN = {byte: bytes([byte]).decode("latin-1") for byte in range(0x80, 0xC0)}
WINDOWS = {byte: bytes([byte]).decode("cp1252", "ignore") for byte in range(0x80, 0xC0)}
GO_ON = "[" + re.escape("".join(sorted({*LATIN.values(), *WINDOWS.values()} - {""}))) + "]"
MISREAD_AT_ONCE = re.compile(f"â[€\x80]{GO_ON}|[ÂÃ][¡-ª¬-º¼-¿]")
MISREAD = re.compile(f"[Â-ß]{GO_ON}|[à-ï]{GO_ON}{{2}}|[ð-ô]{GO_ON}{{3}}")


class Unfit(Exception):
    """A row that cannot be trained on: the reason, without the row's place, and what of the row shows it."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason)
        self.reason, self.detail = reason, detail


class Cleaner:
    """Cleans texts. What is checked last is what training reads: no earlier step can put a control token together."""

    def __init__(self, params: Clean, special: list[str]):
        self.params, self.special = params, special
        self.begins = {token[:2] for token in special}

    def __call__(self, text: str, role: str) -> str:
        """The text, stripped; raises Unfit. `role` names the turn in the reason."""
        params = self.params
        # First, for what comes next takes the traces away.
        if params.mojibake == "refuse" and not text.isascii() and (found := misread(text)):
            raise Unfit(f"mojibake in the {role} turn", found)
        if params.control_characters != "keep":
            text = self._controls(text, role)
        if params.unicode != "none" and not text.isascii():
            text = unicodedata.normalize(params.unicode, text)
        text = text.strip()
        if any(begin in text for begin in self.begins):
            text = self._tokens(text, role)
        return text

    def _controls(self, text: str, role: str) -> str:
        if self.params.control_characters == "refuse":
            if found := CONTROL.search(text):
                raise Unfit(f"control character in the {role} turn", f"U+{ord(found[0]):04X}")
            return text
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        return CONTROL.sub("", text)

    def _tokens(self, text: str, role: str) -> str:
        for token in self.special:
            if token in text and self.params.control_tokens == "escape":
                text = text.replace(token, f"{token[0]} {token[1:]}")
        for token in self.special:
            if token in text:
                raise Unfit(f"control token {token} in the {role} turn")
        return text


def misread(text: str) -> str:
    """A piece of the text that shows it was decoded wrongly, or nothing."""
    if "\ufffd" in text:
        return "\ufffd"
    if found := MISREAD_AT_ONCE.search(text):
        return found[0]
    found = MISREAD.findall(text)
    return "".join(found[:3]) if len(found) >= 3 else ""
