"""How much of a stranger's input is taken: in one place, sizes, counts and seconds beyond which it is refused by name.

Nothing that people train on comes near them. What goes beyond is damaged, or made to fill a memory, a disk or a day.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.console.messages import Fault

if TYPE_CHECKING:
    import httpx

MB = 1_000_000

# The hub: a whole listing, its pages together; what names a file; a README, whose front matter is read.
LISTING_SECONDS, LISTING_BYTES, LISTING_FILES = 300, 100 * MB, 100_000
NAME_BYTES, PATH_BYTES = 255, 1000  # of each part and of the whole, as file systems take them
README_BYTES = 5 * MB
ERROR_BYTES, ERROR_SECONDS = MB, 60  # of an answer that says what went wrong
SLOW_BYTES, SLOW_SECONDS = (
    MB // 10,
    300,
)  # the fewest of a file that are to come in so long: an old modem brings 20 times that
# YAML, with what its aliases stand for.
PARAMS_BYTES, YAML_VALUES, YAML_DEPTH = MB, 200_000, 50
# Files of rows. A row of 32 MB is a book of 5,000 pages, or eight times the longest conversation that can be trained.
ROW_CHARACTERS = 32 * MB
WHOLE_CHARACTERS = 256 * MB  # a JSON file that is one object: it is read as one piece, at ten times its size in memory
COLUMNS = 2000
PACKED_FILES = 10_000
UNPACKED_TIMES, UNPACKED_BYTES = 100, 256 * MB  # a packed file may unpack to either, whichever is more
# Of a Parquet file: what its pages hold (at most as often its size as above); the dictionaries of a group of rows, any
# value of which may stand in each row (writers stop at 1 MB a column); and what rows read at once may come to by them.
DICTIONARY_BYTES, AT_ONCE_BYTES = 256 * MB, 1000 * MB
# JSON beside weights and data: locks, stamps, reports, configs, vocabularies (Gemma's tokenizer.json has 35 MB).
JSON_BYTES = 200 * MB
# Ollama: an answer's size, the time that it may take in all, and the lines of a model that is being made.
ANSWER_BYTES, ANSWER_SECONDS = 16 * MB, 1800
VERSION_SECONDS = 30
STATUS_LINES, STATUS_CHARACTERS, CREATE_SECONDS = 10_000, 100_000, 7200


class TooMuch(Fault):
    """What goes beyond a bound."""


class Broken(Fault):
    """A file of ours that does not hold what it should."""


def read_json(path: Path, hint: str, kind: type = dict) -> Any:
    """The value in a JSON file, which is a `kind`. Raises Broken, with the hint, for all that can be wrong with it."""
    try:
        if (size := path.stat().st_size) > JSON_BYTES:
            raise Broken(f"{path}: {size / MB:,.0f} MB, where {JSON_BYTES // MB} at most are read\nhint: {hint}")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Broken(f"{path}: missing\nhint: {hint}") from None
    except (ValueError, RecursionError) as error:
        why = "lists within lists without end" if isinstance(error, RecursionError) else str(error)
        raise Broken(f"{path}: cannot be read as JSON ({why})\nhint: {hint}") from None
    if not isinstance(value, kind):
        names = {dict: "an object", list: "a list"}
        raise Broken(f"{path}: holds {names.get(type(value), 'one value')}, not {names[kind]}\nhint: {hint}")
    return value


def check_yaml(events: Iterable[Any]) -> None:
    """Raise TooMuch where YAML holds too many values or too deep ones, each alias counted as what it stands for.

    `events`: of PyYAML's or ruamel's parser, which calls itself for nothing. To be asked before anything is built of
    them: aliases of aliases, and merges (<<) of merges, double with each line.
    """
    weights: dict[str, int] = {}
    open_: list[tuple[str | None, int]] = [(None, 0)]
    for event in events:
        name, anchor = type(event).__name__, getattr(event, "anchor", None)
        if name in ("SequenceStartEvent", "MappingStartEvent"):
            open_.append((anchor, 1))
            if len(open_) > YAML_DEPTH:
                raise TooMuch(f"holds more than {YAML_DEPTH} lists and sections within each other")
            continue
        if name == "AliasEvent":
            if any(anchor == other for other, _ in open_):
                raise TooMuch(f"holds *{anchor} within what it stands for, without end: write it out")
            weight = weights.get(anchor, 0)
        elif name == "ScalarEvent":
            weight = 1
        elif name in ("SequenceEndEvent", "MappingEndEvent"):
            anchor, weight = open_.pop()
        else:
            continue
        if anchor is not None and name != "AliasEvent":
            weights[anchor] = weight
        above, so_far = open_.pop()
        open_.append((above, so_far + weight))
        if so_far + weight > YAML_VALUES:
            raise TooMuch(f"holds more than {YAML_VALUES:,} values, its aliases (*name) written out: write less")


def answer(client: httpx.Client, method: str, address: str, size: int, seconds: float, **options) -> httpx.Response:
    """A server's whole answer, of `size` bytes at most, within `seconds` in all. Raises TooMuch, and httpx's errors.

    A server that sends a byte now and then, in headers too, would keep each wait for a byte short, and go on for ever.
    """
    found: list[Any] = []
    stopped = threading.Event()

    def ask() -> None:
        try:
            with client.stream(method, address, **options) as response:
                found.append(whole(response, size, seconds, stopped))
        except BaseException as error:  # given on to who asks
            found.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    try:
        asking.join(seconds)
    finally:
        stopped.set()
    if not found:
        raise TooMuch(f"the answer does not end: {seconds:.0f} s have gone by")
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def whole(
    response: httpx.Response, size: int, seconds: float, stopped: threading.Event | None = None
) -> httpx.Response:
    """A streamed answer read to its end, as `answer` does, once its headers are there."""
    import httpx

    until, body = time.monotonic() + seconds, bytearray()
    for piece in response.iter_bytes():  # as they come: in pieces of a size, a trickle would be waited for
        body += piece
        if len(body) > size:
            raise TooMuch(f"the answer has more than {size / MB:g} MB")
        if time.monotonic() > until or (stopped is not None and stopped.is_set()):
            raise TooMuch(f"the answer does not end: {seconds:.0f} s have gone by")
    # Unpacked already, and of another length then.
    gone = ("content-encoding", "content-length", "transfer-encoding")
    headers = [(key, value) for key, value in response.headers.multi_items() if key.lower() not in gone]
    return httpx.Response(response.status_code, headers=headers, content=bytes(body), request=response.request)
