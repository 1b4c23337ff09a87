"""What names and values say of a row beyond its text: an answer is not wanted, there is a picture, a tool, a mask."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from ingot.data.cleaning import Unfit
from ingot.sources.json_text import parsed

# Names as `plain_name` writes them: isChosen, is-chosen and is_chosen are all `chosen`.
CLASSES = ("label", "labels")  # which may be an answer's verdict (KTO's) or a text's class
VERDICTS = (
    *CLASSES, "kto_tag", "kto_label", "desirable", "preferred", "accepted", "approved", "chosen", "good", "correct",
    "liked", "thumbs_up", "feedback",
)  # fmt: skip
SPOKEN = (  # by words, not by numbers
    "quality", "verdict", "judgement", "judgment", "rating", "vote", "reaction", "status", "thumbs", "thumb",
)  # fmt: skip
MARKS = (  # whether a row is to be trained on at all
    "weight", "loss", "loss_mask", "loss_weight", "sample_weight", "train", "training", "trainable", "trained",
    "for_training", "use_for_training", "include", "included", "keep", "kept", "use", "used", "valid",
)  # fmt: skip
# The same the other way round: what is true says no.
DENIALS = (
    "rejected", "dispreferred", "undesirable", "unwanted", "bad", "wrong", "incorrect", "disliked", "disapproved",
    "thumbs_down", "downvoted", "reject", "undesired", "dislike",
)  # fmt: skip
OMISSIONS = (
    "exclude", "excluded", "skip", "skipped", "discard", "discarded", "drop", "dropped", "ignore", "ignored", "remove",
    "removed", "deleted", "masked", "untrainable", "dont_train", "no_train", "invalid",
)  # fmt: skip
NOUNS = "answer|response|completion|output|reply"
NUMBERS = {"1": True, "1.0": True, "0": False, "0.0": False, "-1": False, "-1.0": False}
WORDS = dict.fromkeys(
    ("true", "t", "yes", "y", "good", "desirable", "desired", "wanted", "accepted", "accept", "approved", "chosen",
     "preferred", "thumbs_up", "thumb_up", "thumbsup", "liked", "correct", "keep", "include", "👍"), True,
) | dict.fromkeys(
    ("false", "f", "no", "n", "bad", "undesirable", "undesired", "unwanted", "rejected", "reject", "disapproved",
     "thumbs_down", "thumb_down", "thumbsdown", "disliked", "incorrect", "wrong", "drop", "exclude", "skip", "discard",
     "👎"), False,
)  # fmt: skip
UP_OR_DOWN = {"up": True, "down": False}  # of thumbs and votes; of a price they say something else
NOTHING = ("", "nan", "none", "null")
PLAIN = ("id", "name", "timestamp", "created_at", "tool_call_id", "call_id")  # of a turn: says nothing of its text
LOOKED_AT = 2000  # characters of what may be a path, an address or base64
DEEP = 8  # objects and lists within each other that are looked into
EMPTY = ["", "[]", "{}", "null", '""', "[null]"]  # texts, as those of JSON, that hold nothing
MOST = 50  # names of turns' unread fields that are listed
MEDIA = (
    "png|jpe?g|gif|webp|bmp|tiff?|svg|heic|avif|ico|mp4|mov|avi|mkv|webm|m4v|mpe?g"
    "|wav|mp3|flac|ogg|oga|opus|m4a|aac|wma"
)
FILE = re.compile(
    rf"(?i)data:(image|audio|video)/|\S+://\S+$|\S*[^\s/]/[^\s/]\S+$|.*\.({MEDIA})([?#].*)?$|[a-z0-9+/_-]{{64,}}=*$"
)
SIGNATURE = re.compile(r"[{<\n]|\w\(")
SPEAKERS = re.compile(
    r"(?im)^\W{0,4}(user|human|assistant|bot|system|ai|q|a|question|answer|customer|agent|사용자|用户)\W{0,4}"
    r"[:：]|<\|im_start\|>"
)
CHOICE = re.compile(
    rf"(?i)(?:(?:{NOUNS}|model|assistant|option|candidate|choice|text)[ _-]?)?(?:[ab]|[0-3])"
    rf"|(?:tie|both|neither)\b.{{0,20}}|left|right|first|second|chosen|rejected"
)
OF_A_REJECTED = re.compile(
    r"score|reward|rating|count|num|logp|token|length|model|_id|source|reason|_by|_at|date|avg|rank"
)


class Kind(NamedTuple):
    """What a row is that has something in a column or a field of a turn: by names, then values; what to do about it."""

    what: str
    names: str  # matches the whole name
    fits: Callable[[Any], bool]
    holds: str
    hint: str
    every: bool = False  # only where every value of the column fits
    places: str = "column turn"


def _text(value: Any) -> bool:
    return isinstance(value, str | list | dict)


def _medium(value: Any, depth: int = 0) -> bool:
    """A path, an address, base64, bytes, or numbers in a list: what text has of pictures and sound."""
    if isinstance(value, str):
        return value.lower() not in ("n/a", *NOTHING) and FILE.match(value.strip()[:LOOKED_AT]) is not None
    if isinstance(value, list):
        return depth < DEEP and any(isinstance(item, int | float) or _medium(item, depth + 1) for item in value)
    return isinstance(value, bytes) or (isinstance(value, dict) and any(item is not None for item in value.values()))


def _definitions(value: Any) -> bool:
    return isinstance(value, list | dict) or (isinstance(value, str) and SIGNATURE.search(value) is not None)


def _turns(value: Any) -> bool:
    if isinstance(value, list):
        return any(_text(item) for item in value)
    if isinstance(value, dict):  # one list for each field
        return any(isinstance(item, list) for item in value.values())
    return isinstance(value, str) and SPEAKERS.search(value) is not None


def _list_of_turns(value: Any) -> bool:
    return isinstance(value, list) and any(
        isinstance(item, dict) and item.keys() & {"role", "from", "speaker"} for item in value
    )


def _choice(value: Any) -> bool:
    return not isinstance(value, bool | float) and CHOICE.fullmatch(str(value)) is not None


def _mask(value: Any) -> bool:
    """Zeros and ones, one for each turn or token."""
    return isinstance(value, list) and 0 in value and all(item in (0, 1) for item in value)


KINDS = (
    Kind(
        "preference data", r"(?!.*(?:" + OF_A_REJECTED.pattern + r")).*(?:rejected|dispreferred|non_?preferred).*",
        _text, "an answer that is not to be learnt: of two answers one is trained on here, as of any other row",
        "map the better answer",
    ),
    Kind(
        "preference data",
        r"winner|(overall_)?preference|(better|safer|preferred|chosen|best)(_(" + NOUNS + r"))?(_id)?", _choice,
        "which says which of several answers is the better: one is trained on here, as of any other row",
        "map the better answer", every=True, places="column",
    ),
    Kind(
        "pictures or sound",
        r"(.*_)?(media|mm_data|multi_?modal(_data|_inputs?)?|images?|imgs?|pictures?|photos?|videos?|audios?|sounds?"
        r"|pixel_values|speech|screenshots?)"
        r"(_(paths?|urls?|files?|filenames?|file_names?|names?|bytes|base64|b64|data))?(_?\d+)?", _medium,
        "pictures or sound: text alone is trained on here", "take the set's rows that are text alone",
    ),
    Kind(
        "attached files", r"attachments?|files?", _text,
        "which are not read: text alone is trained on here", "write their text into the turn", places="turn",
    ),
    Kind(
        "tools", r"tool|function", lambda value: isinstance(value, list | dict),
        "tools that the model could call: they are not part of what is trained here",
        "write them into the system prompt of each row",
    ),
    Kind(
        "tools",
        r"((available|allowed)_)?(tools|functions|apis)|(tools?|functions?|apis?)_(schemas?|definitions?|specs?|list)",
        _definitions, "tools that the model could call: they are not part of what is trained here",
        "write them into the system prompt of each row",
    ),
    Kind(
        "tool calls", r"(tool|function)_calls?", _definitions,
        "calls that the answer makes: they are read as `tool_calls` of a turn alone",
        "write them there, or into the answer's text",
    ),
    Kind(
        "earlier turns", r"((chat|conversation|conversational|dialog|dialogue|message)_)?history"
        r"|(previous|past|prior|earlier)_(turns|messages|conversations?|dialogs?|dialogues?)", _turns,
        "turns before the question: only lists of turns are read",
        "write all turns as one list: {messages: [{role, content}, …]}",
    ),
    Kind(
        "earlier turns", r"(.*_)?context|previous|prior|past", _list_of_turns,
        "turns before the question: only lists of turns are read",
        "write all turns as one list: {messages: [{role, content}, …]}",
    ),
    Kind(
        "thoughts", r"thoughts?|thinking_content|reasoning_text|reasoning_details|chain_of_thought|cot|scratchpad",
        lambda value: value is True or _text(value),
        "which led to the answer: they are read as `reasoning_content` alone", "rename them to reasoning_content",
        places="turn",
    ),
    Kind(
        "a mask", r"((loss|label|train|training|turn)_)?masks?|(turn_|loss_)?weights", _mask,
        "which says what of it is not to be trained on: every answer is trained on here", "",
    ),
    Kind(
        "a mark", r"train_on_(inputs?|prompts?|questions?|user)",
        lambda value: value is True or WORDS.get(word_of(value)) is True or value == 1,
        "which asks to train on the questions, too: answers alone are trained on here", "", places="column",
    ),
)  # fmt: skip


class Refused(Unfit):
    """A row that a field of its turns speaks against, with the field as `ignore` names it, and what to do."""

    def __init__(self, reason: str, detail: str, field: str, hint: str = ""):
        super().__init__(reason, detail)
        self.field, self.hint = field, hint


def has(value: Any) -> bool:
    """Whether there is anything in a field of a turn."""
    return value.strip() not in EMPTY if isinstance(value, str) else value is not None and value not in ([], {})


def turn_fault(field: str, value: Any, role: str) -> tuple[str, str] | None:
    """Why a row is refused for an unread field of a turn, and what to do about it; None where it is like any other."""
    name, value = plain_name(field), opened(value)
    if role == "assistant":
        if (partly := name == "weight" and word_of(value) not in ("1", "1.0", "true")) or denies(name, value):
            said = "is not 1" if partly else "says not to train on it"
            return f"{field[:40]} of an answer that {said}, but every answer is trained on", ""
        if isinstance(value, list | dict) and (inner := no_within(field, value)):
            return f"{inner[:40]} of an answer that says not to train on it, but every answer is trained on", ""
        if name == "mask":
            return "mask of an answer, which some tools train on and some do not: every answer is trained on here", ""
    for kind in kinds(name, "turn"):
        if kind.fits(value):
            if kind.what in ("pictures or sound", "attached files"):
                return f"{field[:40]} of a turn, and only text is trained on", kind.hint
            return f"{kind.what} in {field[:40]!a} of a turn, {kind.holds}", kind.hint
    return None


@lru_cache(1000)
def kinds(name: str, place: str) -> list[Kind]:
    return [kind for kind in KINDS if place in kind.places and re.fullmatch(kind.names, name)]


@lru_cache(1000)
def plain_name(name: str) -> str:
    """A column's name in small letters, its words joined by _, without what says nothing."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    name = re.sub(r"[\W_]+", "_", name.lower()).strip("_")
    name = re.sub(r"(?<=\w)_(?:flag|(?:from|for|in)_(?:the_)?train(?:ing)?)$", "", name)
    return re.sub(rf"^(?:(?:{NOUNS})_(?=\w))?(?:is|was|should|to|do|be)_(?:be_)?(?=\w)", "", name)


@lru_cache(1000)
def meaning_of(name: str) -> tuple[tuple[str, ...], bool, bool] | None:
    """The lists with the name; which of true and false is its yes; whether only these say it, as under `bad_answer`."""
    for names, good in ((VERDICTS, True), (SPOKEN, True), (MARKS, True), (DENIALS, False), (OMISSIONS, False)):
        if name in names or re.sub(rf"^(?:{NOUNS}|user|human|sample|example)_", "", name) in {*names} - {*CLASSES}:
            return names, good, False
        if re.sub(rf"_(?:{NOUNS}|example|sample|row)$", "", name) in {*names} - {*CLASSES, "correct"}:
            return names, good, True
    if name.startswith("not_") and (meaning := meaning_of(name.removeprefix("not_"))):
        return meaning[0], not meaning[1], meaning[2]
    return None


def word_of(value: Any) -> str:
    """A value as the tables of words have it: thumbs-down and "Thumbs down" are thumbs_down."""
    word = str(value).strip().strip('"').lower()
    return word if word in NUMBERS else re.sub(r"[\s_-]+", "_", word)


@lru_cache(1000)
def known_words(name: str) -> dict[str, bool]:
    """The words that are a yes or a no under the name."""
    names, _, strict = meaning_of(name)
    if strict:
        return {"true": True, "false": False}
    words = WORDS | UP_OR_DOWN if re.search(r"thumbs?$|vote$|reaction$|feedback$", name) else WORDS
    return words if names is SPOKEN else words | NUMBERS


def denies(name: str, value: Any) -> bool:
    """Whether one value, seen alone, says no; a number under `label` is taken for a class."""
    if not (meaning := meaning_of(name)) or isinstance(value, list | dict):
        return False
    word = word_of(value)
    return not (name in CLASSES and word in NUMBERS) and known_words(name).get(word) is (not meaning[1])


def is_json(kind) -> bool:
    return getattr(kind, "extension_name", "") == "arrow.json"


def opened(value: Any, kind: Any = None) -> Any:
    """What JSON text holds, where it is an object or a list, or the column is JSON."""
    if isinstance(value, str) and (value.lstrip()[:1] in ("[", "{") or (kind is not None and is_json(kind))):
        try:
            return parsed(value)
        except (ValueError, RecursionError):
            return value
    return value


def no_within(name: str, value: Any, depth: int = 0) -> str:
    """The name, in an object or in objects within it, of what says no: a boolean, a word, a list of nothing else."""
    if isinstance(value, dict):
        return next((no for key, item in value.items() if depth < DEEP and (no := no_within(key, item, depth + 1))), "")
    items = value if isinstance(value, list) else [value]
    if not (meaning := meaning_of(plain_name(name))):
        return ""
    kinds = (bool, str) if meaning[0] in (VERDICTS, DENIALS) and plain_name(name) not in CLASSES else bool
    if isinstance(value, list):
        kinds = (bool, str)  # as a column's own words are
    return name if items and all(isinstance(item, kinds) and denies(plain_name(name), item) for item in items) else ""
