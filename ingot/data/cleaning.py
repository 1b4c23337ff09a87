"""One turn's text, cleaned as `dataset.clean` says, or the reason why it cannot be trained on."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from typing import Any

from ingot.data.params import Clean

KEPT = "dataset.clean.placeholders: keep"
SHOWN = 60  # characters of a value in a message
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # category Cc without tab, newline, carriage return

# What shows nothing: spaces, controls, marks of direction, joiners, fillers of Hangul, an empty Braille cell, tags.
VISIBLE = re.compile(
    "[^\\s\x00-\x1f\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202f"
    "\u205f-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]"
)

# Lines that show nothing before the first that does; what is left of the blanks is that one's indent.
BEGIN = re.compile(r"(?:\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]|\ufeff)*")

# What `placeholder` leaves out: code in fences, in backquotes, indented by four blanks or a tab after an empty line;
# types of types (`List<Image>`); arguments in a formula (`\frac{{a}}{{b}}`, `x_{{k}}`, `^{{n}}`).
APART = re.compile(
    r"(?P<fence>```|(?<![^\n])~~~)(?s:.*?)(?:(?P=fence)|\Z)|(?P<quote>`+)[^`\n]+(?P=quote)"
    r"|(?:\A|\n[^\S\n]*\n)(?:(?: {4}|\t).*(?:\n|\Z)|[^\S\n]*\n)+"
    r"|\b[A-Z]\w*<[A-Z]\w*>|(?:\\[A-Za-z]{2,}[_^]?|\^|\b[^\W_]_)(?:[_^]?(?:\{\{[^{}\n]*\}\}|\{[^{}\n]*\}))+",
)
# A name in double braces. No name holds what an object or a list of lists does (`{{color: red}}`, `{{a, b}}`).
BLANK = re.compile(
    r"(?<![\\{])(?<!style=)\{{2,}\s*(?!(?i:cite |citation|infobox|reflist|main\||lang\||(?:and|or)\s*\}))"
    r"[^\W\d][^{}\n,:;=]{0,60}(?:\|[^{}\n]{0,60})?\s*\}\}"
)
# Who writes of these means the braces themselves; so do f-strings, `format`, BibTeX, statements of Jinja, HTML around.
TEMPLATING = re.compile(
    r"\b(?:[Jj]inja2?|JINJA2?|Nunjucks|Handlebars|handlebars|Mustache|Twig|Django|Laravel|Liquid template|Flask"
    r"|Jekyll|dbt|Airflow|Postman|Terraform|[Aa]nsible|Helm|helm (?:chart|template)s?"
    r"|Vue|vue\.?js|Angular|AngularJS|JSX|GitHub Actions|LaTeX|BibTeX|[Mm]ediaWiki|[Ww]iki(?:text|code|markup)"
    r"|[Ff][ -]?strings?|[Tt]emplat(?:ing|e engines?|e languages?)|(?:double|curly) (?:curly )?bra(?:ces|ckets))\b"
    r"|\b[fF][rR]?[\"']|\.format\(|@[a-z]+\{\w+,|\{%"
    r"|\$\{\{ *(?:github|secrets|matrix|env|inputs|steps|needs|runner|vars|jobs?)\."
    r"|</(?:h[1-6]|p|div|span|a|b|i|em|strong|li|ul|ol|t[drh]|table|body|html|head|title|button|form|label|option"
    r"|select|template|script)>"
    r"|<[A-Za-z][^<>\n]*=(?:[\"'][^\"'<>\n]*)?\{\{"
)
MEDIUM = "images?|img|pic(?:ture)?s?|photos?|videos?|audios?|speech|sound|media|图片|图像|画像|视频|사진|이미지|동영상"
WHICH = r"(?:[\s_:#=-]*(?:\d|id|url|here|omitted|attached|start|end|pad|patch|soft|token|placeholder))*"
# What a loader was to put a picture, a film or a sound in place of.
MEDIA = re.compile(
    rf"<(?:start_of_|end_of_)?(?P<tag>{MEDIUM}){WHICH}\s*/?>|<\|(?:{MEDIUM}|vision)\w*\|>"
    rf"|(?<![\w\]])\[(?:{MEDIUM}){WHICH}\](?![(:\[])",
    re.I,
)
# A tag that is spoken of: by its kind after it, or in the midst of a line on HTML.
SPOKEN_OF = re.compile(
    r"[\"'”’]?(?:,? (?:and|or|und|et|y)?,? ?<\w+/?>)* (?:HTML\w* )?(?:tag|element|attribute|component)s?\b", re.I
)
SPOKEN_OF_BEFORE = re.compile(r"\b(?:tag|element|component)s? [\"'“]?(?:<\w+/?>,? (?:(?:and|or) )?)*$", re.I)
CLOSED = re.compile(r"</(\w+)>")
HTML = re.compile(r"\b(?:X?HTML5?|CSS|SVG|XML|tags?)\b", re.I)

# A table's cells for "nothing": what pandas reads as such, SQL's \N, what a sheet writes for a formula that failed.
NOTHING = {
    "#N/A", "#N/A N/A", "#NA", "#NV", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "NaT", "None", "n/a", "nan", "null", "\\N",
}  # fmt: skip
FAILED = re.compile(r"#[A-ZÄÖÜ][A-ZÄÖÜ0-9/]*[!?]")

# UTF-8 that was read as Latin-1 or Windows-1252: a lead byte's character, then those of its continuation bytes.
BYTE = {bytes([byte]).decode("latin-1"): byte for byte in range(0x80, 0x100)}
BYTE |= {char: byte for byte in range(0x80, 0xA0) if (char := bytes([byte]).decode("cp1252", "ignore"))}
GO_ON = "[" + re.escape("".join(sorted(char for char, byte in BYTE.items() if byte < 0xC0))) + "]"
# What no language writes: its first hit is enough. English punctuation; a sign, a letter or an opening quote after a
# capital that is rarely a word's last (but Â² may be an operator's square); a dash between it and a small letter; a
# no-break space where it cannot end a word in capitals; the first half of an emoji.
MISREAD_AT_ONCE = re.compile(
    f"â[€\x80]{GO_ON}|(?!(?<![a-z])Â[²³])[ÂÃ][\x80-\x84\x86-\x9f¡-ª¬-º¼-¿ŠŒŽšœžŸƒˆ‰†‡„]|Ã–(?=[a-z])|(?<![A-ZÀ-Þ])Â\xa0"
    f"|ð[Ÿ\x9f]{GO_ON}"
)
# The rest stands in sound text too (`Gruß“`, `café\xa0»`), but there it is a few of the characters beyond ASCII; of
# text that was misread it is all of them, save those that the decoder dropped (CUT). A square Ångström counts for
# nothing.
MISREAD = re.compile(f"(?!Å[²³±·])[Â-ß]{GO_ON}|[à-ï]{GO_ON}{{2}}|[ð-ô]{GO_ON}{{3}}")
CUT = re.compile(f"[à-ï]{GO_ON}(?!{GO_ON})|[ð-ô]{GO_ON}{{1,2}}(?!{GO_ON})")
BEYOND = re.compile("[" + re.escape("".join(sorted(BYTE))) + "]")
LETTERS, PART = 3, 0.75  # different letters that come out when it is read again; the part of it that must be misread


class Unfit(Exception):
    """A row that cannot be trained on: the reason (not the place), what shows it, and the param that takes it."""

    def __init__(self, reason: str, detail: str = "", taken_by: str = ""):
        super().__init__(reason)
        self.reason, self.detail, self.taken_by = reason, detail, taken_by


class Cleaner:
    """Cleans texts. What is checked last is what training reads: no earlier step can put a control token together."""

    def __init__(self, params: Clean, special: list[str]):
        self.params, self.special = params, special
        self.begins = {token[:2] for token in special}

    def __call__(self, text: str, role: str) -> str:
        """The text, trimmed; raises Unfit. `role` names the turn in the reason."""
        params = self.params
        # First, for what comes next takes the traces away.
        if params.mojibake == "refuse" and not text.isascii() and (found := misread(text)):
            raise Unfit(f"mojibake in the {role} turn", found, "dataset.clean.mojibake: keep")
        if params.control_characters != "keep":
            text = self._controls(text, role)
        if params.placeholders == "refuse" and (found := placeholder(text)):
            raise Unfit(f"placeholder in the {role} turn", found, KEPT)
        if params.unicode != "none" and not text.isascii():
            text = unicodedata.normalize(params.unicode, text)
        text = trimmed(text) if shows(text) else ""
        if any(begin in text for begin in self.begins):
            text = self._tokens(text, role)
        return text

    def _controls(self, text: str, role: str) -> str:
        if "\r" in text:  # of Windows and old Macs: a line's end, as which it would be trained on
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        if not (found := CONTROL.search(text)):
            return text
        if self.params.control_characters == "refuse":
            way = "dataset.clean.control_characters: remove"
            raise Unfit(f"control character in the {role} turn", f"U+{ord(found[0]):04X}", way)
        return CONTROL.sub("", text)

    def _tokens(self, text: str, role: str) -> str:
        for token in self.special:
            if token in text and self.params.control_tokens == "escape":
                text = text.replace(token, f"{token[0]} {token[1:]}")
        for token in self.special:
            if token in text:
                raise Unfit(f"control token {token} in the {role} turn", "", "dataset.clean.control_tokens: escape")
        return text


def told(text: str, length: int = SHOWN) -> str:
    """Data in a message: cut, and quoted where it holds what a terminal would not show as it is."""
    text = text if len(text) <= length else text[:length] + " …"
    return text if text.isprintable() else repr(text)


def column_name(name: str) -> str:
    """A column's name in a message, quoted where it is none that is seen to its ends: `Unnamed: 0`, or with blanks."""
    return told(name) if re.fullmatch(r"[\w.\[\]/-]+", name) else shown(name)


def shown(value: Any, default: Callable[[Any], str] = str) -> str:
    """A value in a message: text in quotes, all else as JSON, cut; `default` writes what JSON has no form for."""
    if isinstance(value, str):
        return repr(value if len(value) <= SHOWN else value[:SHOWN] + " …")
    return told(json.dumps(value, ensure_ascii=False, default=default), SHOWN)


def shows(text: str) -> bool:
    """Whether there is anything to be seen in it."""
    return VISIBLE.search(text) is not None


def trimmed(text: str) -> str:
    """The text without blank lines and blanks around it, but with its first line's indent, of whatever blanks.

    One blank, but a tab, before a text of one line is no indent: many sets write answers so.
    """
    text = text.rstrip()
    if not text or not (text[0].isspace() or text[0] == "\ufeff"):
        return text
    text = text[BEGIN.match(text).end() :]
    one = text[:1].isspace() and text[:1] != "\t" and not text[1:2].isspace()
    return text.lstrip() if one and "\n" not in text else text


def placeholder(text: str) -> str:
    """What was never filled in, or nothing: a name in double braces, a tag for a picture, a film or a sound.

    In doubt it is one: `dataset.clean.placeholders: keep` is the way out. It is none in code (fences, backquotes, an
    indented block), in a formula, where the text shows that it is about templates (TEMPLATING), and as a tag that is
    closed, quoted or spoken of (`the <video> tag`).
    """
    if "{{" not in text and "<" not in text and "[" not in text:
        return ""
    text = APART.sub("\n", text) if "{{" in text or MEDIA.search(text) else ""
    if (found := BLANK.search(text)) and not TEMPLATING.search(text):
        return found[0]
    closed = {*CLOSED.findall(text)} if "</" in text else ()
    for found in MEDIA.finditer(text):
        if found["tag"] is None or not (found["tag"] in closed or _spoken_of(text, *found.span())):
            return found[0]
    return ""


def _spoken_of(text: str, begin: int, end: int) -> bool:
    """Whether a tag stands between quotes, or the text around it is about tags."""
    before, after = text[max(0, begin - 200) : begin].rpartition("\n")[2], text[end : end + 200].partition("\n")[0]
    return (
        before[-1:] + after[:1] in ("''", '""', "“”")
        or bool(SPOKEN_OF.match(after) or SPOKEN_OF_BEFORE.search(before))
        or bool(before.strip() and after.strip(" ?!.") and HTML.search(before + after))
    )


def says_nothing(cell: str) -> bool:
    """Whether all of a table's cell is what programs write where there is no value."""
    cell = cell.strip()
    return cell in NOTHING or (cell[:1] == "#" and FAILED.fullmatch(cell) is not None)


def misread(text: str) -> str:
    """A piece of the text that shows it was decoded wrongly, or nothing."""
    if "\ufffd" in text:
        return "\ufffd"
    if found := MISREAD_AT_ONCE.search(text):
        return found[0]
    if len(pieces := MISREAD.findall(text)) < LETTERS:
        return ""
    again = {piece: char for piece in set(pieces) if (char := reread(piece)) and unicodedata.category(char)[0] != "C"}
    if sum(map(str.isalpha, again.values())) < LETTERS:
        return ""
    found = [piece for piece in pieces if piece in again]
    beyond = len(BEYOND.findall(text)) - len("".join(CUT.findall(text)))
    return "".join(found[:3]) if len("".join(found)) > PART * beyond else ""


def reread(piece: str) -> str:
    """The one character that the bytes of the piece are in UTF-8, or nothing."""
    return bytes(map(BYTE.__getitem__, piece)).decode("utf-8", "ignore")
