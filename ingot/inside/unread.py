"""What a mapping does not read, of columns and of turns: what of it changes what a row means, and a list of all with a sample.

A name says what to look for, the values decide: a `history` is earlier turns where it holds a list, and not as "2020".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy

from ingot.inside.cleaning import Unfit, shown, told
from ingot.inside.progress import StageError
from ingot.inside.readers import parsed
from ingot.params.dataset import Part

# Names as `_name` writes them: isChosen, is-chosen and is_chosen are all `chosen`.
CLASSES = ("label", "labels")  # which may be an answer's verdict (KTO's) or a text's class
VERDICTS = (
    *CLASSES, "kto_tag", "kto_label", "desirable", "preferred", "accepted", "approved", "chosen", "good", "correct", "liked",
    "thumbs_up", "feedback",
)  # fmt: skip
SPOKEN = (  # by words, not by numbers
    "quality", "verdict", "judgement", "judgment", "rating", "vote", "reaction", "status", "thumbs", "thumb",
)  # fmt: skip
# Whether a row is to be trained on at all.
MARKS = (
    "weight", "loss", "loss_mask", "loss_weight", "sample_weight", "train", "training", "trainable", "trained", "for_training",
    "use_for_training", "include", "included", "keep", "kept", "use", "used", "valid",
)  # fmt: skip
# The same the other way round: what is true says no.
DENIALS = (
    "rejected", "dispreferred", "undesirable", "unwanted", "bad", "wrong", "incorrect", "disliked", "disapproved", "thumbs_down",
    "downvoted", "reject", "undesired", "dislike",
)  # fmt: skip
OMISSIONS = (
    "exclude", "excluded", "skip", "skipped", "discard", "discarded", "drop", "dropped", "ignore", "ignored", "remove", "removed",
    "deleted", "masked", "untrainable", "dont_train", "no_train", "invalid",
)  # fmt: skip
NOUNS = "answer|response|completion|output|reply"
NUMBERS = {"1": True, "1.0": True, "0": False, "0.0": False, "-1": False, "-1.0": False}
WORDS = dict.fromkeys(
    ("true", "t", "yes", "y", "good", "desirable", "desired", "wanted", "accepted", "accept", "approved", "chosen", "preferred",
     "thumbs_up", "thumb_up", "thumbsup", "liked", "correct", "keep", "include", "👍"), True,
) | dict.fromkeys(
    ("false", "f", "no", "n", "bad", "undesirable", "undesired", "unwanted", "rejected", "reject", "disapproved", "thumbs_down",
     "thumb_down", "thumbsdown", "disliked", "incorrect", "wrong", "drop", "exclude", "skip", "discard", "👎"), False,
)  # fmt: skip
# JSON with a key that may be one of these.
KEYED = r'(?i)"[^"]*(?:{})[^"]*"\s*:'.format(
    "|".join(name.replace("_", "[ _-]?") for name in (*VERDICTS, *SPOKEN, *MARKS, *DENIALS, *OMISSIONS))
)
UP_OR_DOWN = {"up": True, "down": False}  # of thumbs and votes; of a price they say something else
NOTHING = ("", "nan", "none", "null")
EMPTY = ["", "[]", "{}", "null", '""', "[null]"]  # texts, as those of JSON, that hold nothing
FEW = 16  # different values of a column that may be a verdict
PLAIN = ("id", "name", "timestamp", "created_at", "tool_call_id", "call_id")  # of a turn: says nothing of its text
LOOKED_AT = 2000  # characters of what may be a path, an address or base64
DEEP = 8  # objects and lists within each other that are looked into
MOST = 50  # names of turns' unread fields that are listed

MEDIA = "png|jpe?g|gif|webp|bmp|tiff?|svg|heic|avif|ico|mp4|mov|avi|mkv|webm|m4v|mpe?g|wav|mp3|flac|ogg|oga|opus|m4a|aac|wma"
FILE = re.compile(
    rf"(?i)data:(image|audio|video)/|\S+://\S+$|\S*[^\s/]/[^\s/]\S+$|.*\.({MEDIA})([?#].*)?$|[a-z0-9+/_-]{{64,}}=*$"
)
SIGNATURE = re.compile(r"[{<\n]|\w\(")
SPEAKERS = re.compile(
    r"(?im)^\W{0,4}(user|human|assistant|bot|system|ai|q|a|question|answer|customer|agent|사용자|用户)\W{0,4}[:：]|<\|im_start\|>"
)
CHOICE = re.compile(
    rf"(?i)(?:(?:{NOUNS}|model|assistant|option|candidate|choice|text)[ _-]?)?(?:[ab]|[0-3])|(?:tie|both|neither)\b.{{0,20}}"
    rf"|left|right|first|second|chosen|rejected"
)
OF_A_REJECTED = re.compile(
    r"score|reward|rating|count|num|logp|token|length|model|_id|source|reason|_by|_at|date|avg|rank"
)

# Columns that never say what a number under `label` stands for, and those that are made for nothing else.
NO_CLASS = re.compile(
    rf"{NOUNS}|assistant|chosen|prompt|question|instruction|input|user|^text$|sentence|model|source|generator|author|origin|annotator|"
    r"labell?(er|ed)|dataset|(^|_)by$"
)
OF_LABEL = re.compile(r"(text_)?labels?_?(text|names?|str|string|desc(ription)?|class|word|title|readable)?(_text)?")


class Kind(NamedTuple):
    """What a row is that has something in a column or a field of a turn: by names, then by values; and what to do about it."""

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
        "preference data", r"(?!.*(?:" + OF_A_REJECTED.pattern + r")).*(?:rejected|dispreferred|non_?preferred).*", _text,
        "an answer that is not to be learnt: of two answers one is trained on here, as of any other row", "map the better answer",
    ),
    Kind(
        "preference data",
        r"winner|(overall_)?preference|(better|safer|preferred|chosen|best)(_(" + NOUNS + r"))?(_id)?", _choice,
        "which says which of several answers is the better: one is trained on here, as of any other row",
        "map the better answer", every=True, places="column",
    ),
    Kind(
        "pictures or sound",
        r"(.*_)?(media|mm_data|multi_?modal(_data|_inputs?)?|images?|imgs?|pictures?|photos?|videos?|audios?|sounds?|pixel_values|speech|screenshots?)(_(paths?|urls?|files?|filenames?|file_names?|names?|bytes|base64|b64|data))?(_?\d+)?", _medium,
        "pictures or sound: text alone is trained on here", "take the set's rows that are text alone",
    ),
    Kind(
        "attached files", r"attachments?|files?", _text,
        "which are not read: text alone is trained on here", "write their text into the turn", places="turn",
    ),
    Kind(
        "tools", r"tool|function", lambda value: isinstance(value, list | dict),
        "tools that the model could call: they are not part of what is trained here", "write them into the system prompt of each row",
    ),
    Kind(
        "tools", r"((available|allowed)_)?(tools|functions|apis)|(tools?|functions?|apis?)_(schemas?|definitions?|specs?|list)", _definitions,
        "tools that the model could call: they are not part of what is trained here", "write them into the system prompt of each row",
    ),
    Kind(
        "tool calls", r"(tool|function)_calls?", _definitions,
        "calls that the answer makes: they are read as `tool_calls` of a turn alone", "write them there, or into the answer's text",
    ),
    Kind(
        "earlier turns", r"((chat|conversation|conversational|dialog|dialogue|message)_)?history|(previous|past|prior|earlier)_(turns|messages|conversations?|dialogs?|dialogues?)", _turns,
        "turns before the question: only lists of turns are read", "write all turns as one list: {messages: [{role, content}, …]}",
    ),
    Kind(
        "earlier turns", r"(.*_)?context|previous|prior|past", _list_of_turns,
        "turns before the question: only lists of turns are read", "write all turns as one list: {messages: [{role, content}, …]}",
    ),
    Kind(
        "thoughts", r"thoughts?|thinking_content|reasoning_text|reasoning_details|chain_of_thought|cot|scratchpad", lambda value: value is True or _text(value),
        "which led to the answer: they are read as `reasoning_content` alone", "rename them to reasoning_content", places="turn",
    ),
    Kind(
        "a mask", r"((loss|label|train|training|turn)_)?masks?|(turn_|loss_)?weights", _mask,
        "which says what of it is not to be trained on: every answer is trained on here", "",
    ),
    Kind(
        "a mark", r"train_on_(inputs?|prompts?|questions?|user)", lambda value: value is True or WORDS.get(_word(value)) is True or value == 1,
        "which asks to train on the questions, too: answers alone are trained on here", "", places="column",
    ),
)  # fmt: skip


class Refused(Unfit):
    """A row that a field of its turns speaks against, with the field as `ignore` names it, and what to do."""

    def __init__(self, reason: str, detail: str, field: str, hint: str = ""):
        super().__init__(reason, detail)
        self.field, self.hint = field, hint


class Telling(NamedTuple):
    """An unread column that changes what rows mean: which, and the reason why they are refused."""

    column: str
    reason: str
    rows: numpy.ndarray


def telling(rows, name: str, part: Part, left: dict[str, str], fail: bool) -> list[Telling]:
    """The columns without which rows would be taken for what they are not; those of `part.ignore` are left alone.

    `left` are columns that cannot be read. Raises StageError where no row is free of it, or any is not and is to `fail`.
    """
    place, ignored = f"dataset.mix.{name}", set(part.ignore or ())
    of_turns = {
        field for field in ignored if field.startswith(tuple(f"{column}[]." for column in part.columns.lists()))
    }
    if unknown := sorted(ignored - of_turns - {*rows.column_names, *left}):
        there = ", ".join(map(told, [*rows.column_names, *left][:30]))
        raise StageError(f"{place}.ignore: no column {unknown[0]!r}; there are {there}\n  hint: take it out")
    found = []
    for column in unread(rows, part, left):
        if column in ignored:
            continue
        for reason, those, hint in _what(rows, column, left):
            count, first = int(those.sum()), int(those.argmax())
            if fail or count == len(rows):
                sample = "" if column in left else f", where it holds {sample_of(rows, column, first)}"
                ways = [hint] if hint else []
                ways += ["leave those rows out (dataset.unfit: drop)"] if count < len(rows) else []
                way = f"{', or '.join(ways)}; " if ways else ""
                raise StageError(
                    f"{place}: {count:,} of {len(rows):,} rows have {reason} (the first is row {first}{sample})\n"
                    f"  hint: {way}if it means something else, or to train on them all the same: {ignoring(name, column)}"
                )
            found.append(Telling(column, f"has {reason}", those))
    return found


def ignoring(name: str, field: str) -> str:
    """What stands in params.yaml so that the field is left alone."""
    written = field if re.fullmatch(r"[A-Za-z_]\w*", field) else json.dumps(told(field), ensure_ascii=False)
    return f"dataset.mix.{name}.ignore: [{written}]"


def unread(rows, part: Part, left: dict[str, str]) -> list[str]:
    """The columns that the mapping does not name, in their order."""
    mapped = part.columns.wanted()
    return [column for column in [*rows.column_names, *left] if column not in mapped]


def listed(rows, name: str, part: Part, left: dict[str, str]) -> list[dict[str, Any]]:
    """For the report: each unread column that holds something, in how many rows, and the first of them."""
    found = []
    for column in unread(rows, part, left):
        if column in left:
            found.append(
                {"source": name, "column": column, "rows": len(rows), "sample": "", "why": told(left[column], 200)}
            )
        elif (those := filled(rows, column)).any():
            sample = sample_of(rows, column, int(those.argmax()))
            found.append({"source": name, "column": column, "rows": int(those.sum()), "sample": sample})
    return found


def fields(found: dict[str, tuple[int, Any]], name: str, part: Part) -> list[dict[str, Any]]:
    """The same of the fields of turns that were not read. Raises StageError for one of `ignore` that no turn has."""
    lists = tuple(f"{column}[]." for column in part.columns.lists())
    if unknown := sorted(field for field in {*(part.ignore or ())} - {*found} if field.startswith(lists)):
        there = f"not read are {', '.join(map(told, found))}" if found else "all that turns have is read"
        raise StageError(
            f"dataset.mix.{name}.ignore: no turn has anything in {told(unknown[0])!a}; {there}\n  hint: take it out"
        )
    return [
        {"source": name, "column": field, "rows": rows, "sample": sample(value)}
        for field, (rows, value) in found.items()
    ]


def lines(columns: list[dict[str, Any]], raw: dict[str, int]) -> list[str]:
    """The same for the terminal, a line a column."""
    return [
        f"{one['source']}: {'' if '[].' in one['column'] else 'column '}{told(one['column'])} is not read: {one['rows']:,} of "
        f"{raw[one['source']]:,} rows hold something, such as {one['sample']}"
        if one["sample"]
        else f"{one['source']}: column {told(one['column'])} is not read: it {one['why']}"
        for one in columns
    ]


def filled(rows, column: str) -> numpy.ndarray:
    """Which rows hold something in it: no null, no blank text, no empty list, no JSON of these."""
    return numpy.concatenate(
        [_filled(_plain(chunk)) for chunk in rows.data.column(column).chunks] or [numpy.zeros(0, bool)]
    )


def sample_of(rows, column: str, row: int) -> str:
    """A value, cut, as a message shows it."""
    chunk = _plain(rows.data.column(column).slice(row, 1).combine_chunks())
    return sample(chunk.to_pylist()[0])


def sample(value: Any) -> str:
    return shown(value, lambda it: f"{len(it)} bytes" if isinstance(it, bytes) else str(it))


def has(value: Any) -> bool:
    """Whether there is anything in a field of a turn."""
    return value.strip() not in EMPTY if isinstance(value, str) else value is not None and value not in ([], {})


def turn_fault(field: str, value: Any, role: str) -> tuple[str, str] | None:
    """Why a row is refused for a field of a turn that is not read, and what to do about it; None where it is like any other."""
    name, value = _name(field), _opened(value)
    if role == "assistant":
        if (partly := name == "weight" and _word(value) not in ("1", "1.0", "true")) or _denies(name, value):
            said = "is not 1" if partly else "says not to train on it"
            return f"{field[:40]} of an answer that {said}, but every answer is trained on", ""
        if isinstance(value, list | dict) and (inner := _no_within(field, value)):
            return f"{inner[:40]} of an answer that says not to train on it, but every answer is trained on", ""
        if name == "mask":
            return "mask of an answer, which some tools train on and some do not: every answer is trained on here", ""
    for kind in _kinds(name, "turn"):
        if kind.fits(value):
            if kind.what in ("pictures or sound", "attached files"):
                return f"{field[:40]} of a turn, and only text is trained on", kind.hint
            return f"{kind.what} in {field[:40]!a} of a turn, {kind.holds}", kind.hint
    return None


def _what(rows, column: str, left: dict[str, str]) -> list[tuple[str, numpy.ndarray, str]]:
    """What an unread column says of rows, of which, and what to do; empty where it is like any other."""
    name = _name(column)
    kinds = _kinds(name, "column")
    if column in left:
        return [(_reason(kind, column), numpy.ones(len(rows), bool), kind.hint) for kind in kinds[:1]]
    found = []
    if _meaning(name):
        those, whole = _denied(rows, column, name)
        found = [(_saying(name, repr(column)), those, "")] if those.any() else []
        if whole:
            return found
    for kind in kinds:
        those = _fitting(rows, column, kind)
        if those.any() and not (kind.every and (those != filled(rows, column)).any()):
            return [*found, (_reason(kind, column), those, kind.hint)]
    return [*found, *_within(rows, column)]


@lru_cache(1000)
def _kinds(name: str, place: str) -> list[Kind]:
    return [kind for kind in KINDS if place in kind.places and re.fullmatch(kind.names, name)]


def _reason(kind: Kind, column: str) -> str:
    return f"{kind.what} in {column!a}, {kind.holds}"


def _saying(name: str, column: str) -> str:
    if _meaning(name)[0] in (MARKS, OMISSIONS):
        return f"a {column} that says not to train on them"
    return f"a {column} that says the answer is not wanted (KTO): every answer is trained on here"


@lru_cache(1000)
def _name(name: str) -> str:
    """A column's name in small letters, its words joined by _, without what says nothing."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    name = re.sub(r"[\W_]+", "_", name.lower()).strip("_")
    name = re.sub(r"(?<=\w)_(?:flag|(?:from|for|in)_(?:the_)?train(?:ing)?)$", "", name)
    return re.sub(rf"^(?:(?:{NOUNS})_(?=\w))?(?:is|was|should|to|do|be)_(?:be_)?(?=\w)", "", name)


@lru_cache(1000)
def _meaning(name: str) -> tuple[tuple[str, ...], bool, bool] | None:
    """Which of the lists the name is in; which of true and false is its yes; whether only these say it, as under `bad_answer`."""
    for names, good in ((VERDICTS, True), (SPOKEN, True), (MARKS, True), (DENIALS, False), (OMISSIONS, False)):
        if name in names or re.sub(rf"^(?:{NOUNS}|user|human|sample|example)_", "", name) in {*names} - {*CLASSES}:
            return names, good, False
        if re.sub(rf"_(?:{NOUNS}|example|sample|row)$", "", name) in {*names} - {*CLASSES, "correct"}:
            return names, good, True
    if name.startswith("not_") and (meaning := _meaning(name.removeprefix("not_"))):
        return meaning[0], not meaning[1], meaning[2]
    return None


def _word(value: Any) -> str:
    """A value as the tables of words have it: thumbs-down and "Thumbs down" are thumbs_down."""
    word = str(value).strip().strip('"').lower()
    return word if word in NUMBERS else re.sub(r"[\s_-]+", "_", word)


@lru_cache(1000)
def _known(name: str) -> dict[str, bool]:
    """The words that are a yes or a no under the name."""
    names, _, strict = _meaning(name)
    if strict:
        return {"true": True, "false": False}
    words = WORDS | UP_OR_DOWN if re.search(r"thumbs?$|vote$|reaction$|feedback$", name) else WORDS
    return words if names is SPOKEN else words | NUMBERS


def _denies(name: str, value: Any) -> bool:
    """Whether one value, seen alone, says no; a number under `label` is taken for a class."""
    if not (meaning := _meaning(name)) or isinstance(value, list | dict):
        return False
    word = _word(value)
    return not (name in CLASSES and word in NUMBERS) and _known(name).get(word) is (not meaning[1])


def _denied(rows, column: str, name: str) -> tuple[numpy.ndarray, bool]:
    """The rows that a column of verdicts says no to, and whether verdicts are all that it holds.

    They are where all values are words such as yes and no, or booleans, or 0, 1 and -1; among others only JSON's own
    booleans are verdicts. Under `label` a number is a class and no verdict where a column of texts stands one to one with
    it, as `label_text` does, or Parquet's metadata name the classes.
    """
    import pyarrow
    from pyarrow import compute

    kind, none = rows.data.column(column).type, numpy.zeros(len(rows), bool)
    if pyarrow.types.is_nested(kind) or pyarrow.types.is_binary(kind):
        return none, False
    good, known = _meaning(name)[1], _known(name)
    chunks = [_plain(chunk) for chunk in rows.data.column(column).chunks]
    words = {value: _word(value) for value in _different(chunks) or () if value is not None}
    words = {value: word for value, word in words.items() if word not in NOTHING}
    whole = bool(words) and {*words.values()} <= known.keys()
    if whole and name in CLASSES and {*words.values()} <= NUMBERS.keys() and _is_class(rows, column, chunks, [*words]):
        return none, True
    no = [value for value, word in words.items() if whole and known[word] is not good]
    if not whole and name.endswith("weight") and (pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind)):
        no = [0]
    elif not whole and name.endswith("weight") and _json(kind):
        no = ["0", "0.0"]
    elif not whole and _json(kind):
        no = ["false" if good else "true"]
    those = [compute.is_in(chunk, pyarrow.array(no, chunk.type)).to_numpy(zero_copy_only=False) for chunk in chunks]
    return numpy.concatenate([*those, none[:0]]), whole


def _json(kind) -> bool:
    return getattr(kind, "extension_name", "") == "arrow.json"


def _different(chunks: Iterable) -> set[Any] | None:
    """The values that there are; None where they are more than a few."""
    from pyarrow import compute

    values: set[Any] = set()
    for chunk in chunks:
        values.update(compute.unique(chunk).to_pylist())
        if len(values) > FEW:
            return None
    return values


def _is_class(rows, column: str, chunks: list, labels: list[Any]) -> bool:
    """Whether a column of texts says what each number stands for: one text for each of them, which is no verdict itself.

    Questions and answers are no such texts, nor is who wrote them: of two models one may be the worse in every row.
    """
    import pyarrow
    from pyarrow import compute

    if (
        type(rows.features[column]).__name__ == "ClassLabel"
    ):  # of Parquet that `datasets` wrote: it names the classes itself
        return True
    label = pyarrow.chunked_array(chunks)
    for other in rows.column_names:
        name, kind = _name(other), rows.data.column(other).type
        if other == column or not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
            continue
        of_label = OF_LABEL.fullmatch(name) is not None
        if not of_label and (_meaning(name) or NO_CLASS.search(name)):
            continue
        text = rows.data.column(other)
        words = {_word(one) for one in _different(text.chunks) or () if one is not None}
        if len(words) != len(labels) or words <= (WORDS | NUMBERS).keys():
            continue
        if not of_label and not 1 < len(labels) < len(rows):
            continue  # as one to one as is any column of one row a label
        both = pyarrow.table({"label": label, "text": text}).filter(compute.is_valid(label))
        if both.group_by(["label", "text"]).aggregate([]).num_rows == len(labels):
            return True
    return False


def _fitting(rows, column: str, kind: Kind) -> numpy.ndarray:
    """The rows whose values are of the kind."""
    type_ = rows.data.column(column).type
    if "binary" in str(type_):  # of Parquet: no need to read the pictures
        return filled(rows, column)
    found = []
    for chunk in rows.data.column(column).chunks:
        full, values = _filled(_plain(chunk)), _plain(chunk).to_pylist()
        found.append(
            numpy.array(
                [bool(there) and kind.fits(_opened(value, type_)) for there, value in zip(full, values, strict=True)],
                bool,
            )
        )
    return numpy.concatenate(found or [numpy.zeros(0, bool)])


def _opened(value: Any, kind: Any = None) -> Any:
    """What JSON text holds, where it is an object or a list, or the column is JSON."""
    if isinstance(value, str) and (value.lstrip()[:1] in ("[", "{") or (kind is not None and _json(kind))):
        try:
            return parsed(value)
        except (ValueError, RecursionError):
            return value
    return value


def _within(rows, column: str) -> list[tuple[str, numpy.ndarray, str]]:
    """The same of verdicts within the column: of a `meta` of {"desirable": false}, of `labels` of ["bad"]."""
    import pyarrow
    from pyarrow import compute

    kind, found, start = rows.data.column(column).type, {}, 0
    named = _meaning(_name(column)) is not None or any(_meaning(_name(field)) for field in _fields(kind))
    for chunk in map(_plain, rows.data.column(column).chunks):
        places: Iterable[int] = ()
        if pyarrow.types.is_string(chunk.type) or pyarrow.types.is_large_string(chunk.type):
            some = compute.match_substring_regex(chunk, r"^\s*[\[{]" if named else r"^\s*\{")
            if not named and compute.any(some).as_py():
                some = compute.and_(some, compute.match_substring_regex(chunk, KEYED))
            places = numpy.flatnonzero(compute.fill_null(some, False).to_numpy(zero_copy_only=False))
        elif named and pyarrow.types.is_nested(kind) and "binary" not in str(kind):
            places = range(len(chunk))
        for place in places:
            if no := _no_within(column, _opened(chunk[int(place)].as_py())):
                found.setdefault(no, numpy.zeros(len(rows), bool))[start + place] = True
        start += len(chunk)
    return [
        (_saying(_name(no), repr(column) if no == column else f"{told(no)!a} in {column!a}"), those, "")
        for no, those in found.items()
    ]


def _no_within(name: str, value: Any, depth: int = 0) -> str:
    """The name, in an object or in objects within it, of what says no: a boolean, a word, a list of nothing else."""
    if isinstance(value, dict):
        return next(
            (no for key, item in value.items() if depth < DEEP and (no := _no_within(key, item, depth + 1))), ""
        )
    items = value if isinstance(value, list) else [value]
    if not (meaning := _meaning(_name(name))):
        return ""
    kinds = (bool, str) if meaning[0] in (VERDICTS, DENIALS) and _name(name) not in CLASSES else bool
    if isinstance(value, list):
        kinds = (bool, str)  # as a column's own words are
    return name if items and all(isinstance(item, kinds) and _denies(_name(name), item) for item in items) else ""


def _fields(kind) -> Iterator[str]:
    import pyarrow

    for field in kind if pyarrow.types.is_struct(kind) else ():
        yield field.name
        yield from _fields(field.type)


def _plain(chunk):
    """JSON as its text, and views as strings, which Arrow computes with."""
    import pyarrow

    chunk = getattr(chunk, "storage", chunk)
    return chunk.cast(pyarrow.large_string()) if pyarrow.types.is_string_view(chunk.type) else chunk


def _filled(chunk) -> numpy.ndarray:
    import pyarrow
    from pyarrow import compute

    kind = chunk.type
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
        text = compute.utf8_trim_whitespace(chunk)
        full = compute.and_(chunk.is_valid(), compute.invert(compute.is_in(text, pyarrow.array(EMPTY, kind))))
    elif pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_fixed_size_list(kind):
        full = compute.greater(compute.fill_null(compute.list_value_length(chunk), 0), 0)
    else:
        full = chunk.is_valid()
    return full.to_numpy(zero_copy_only=False)
