"""`ingot new`, the base: whether it is supported, how large it is, and which template it was tuned with."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ingot.chat import encoding
from ingot.console.progress import StageError
from ingot.model import base_check, base_files
from ingot.params.core import UNPINNED
from ingot.planning.new_data import NewError, same
from ingot.sources import hub, pinning

MODELS = Path("models")
SMALL = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
SMALL += ("added_tokens.json", "chat_template.jinja", "chat_template.json", "README.md")
PATIENCE, ROOM = 5, 2 << 30  # seconds and bytes for the base's own template to render the probe
RENDER = f"""
import json, resource, sys
given = json.load(sys.stdin)
from ingot.chat.tokenizer import Tokenizer
resource.setrlimit(resource.RLIMIT_CPU, ({PATIENCE}, {PATIENCE}))
resource.setrlimit(resource.RLIMIT_AS, ({ROOM}, {ROOM}))
made = []
for messages in given["probes"]:
    try:
        made += Tokenizer(None, given["special"]).apply_chat_template([messages], given["template"], False, False)
    except Exception:
        made.append(None)
print(json.dumps(made))
"""
PROBE = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is a bond?"},
    {"role": "assistant", "content": "A loan that is traded."},
    {"role": "user", "content": "And a share?"},
    {"role": "assistant", "content": "A part of a company."},
]


@dataclass
class Found:
    folder: Path  # with its config and tokenizer, maybe without weights
    section: dict[str, Any]  # `base` of params.yaml
    origin: Path | None  # the folder, where it has yet to be brought to base.path
    config: dict[str, Any]
    template: str
    why: str  # the template was chosen
    notes: list[str]


def look(given: str, template: str | None) -> Found:
    """What a model folder or a hub's repository is. Raises NewError or StageError where it cannot be a base."""
    path = Path(given).expanduser()
    if path.is_dir():
        base_files.check_kind([one.name for one in path.iterdir()], given)
        folder, origin = path, None if path.resolve().parent == MODELS.resolve() else path
        base_files.check_files(path)
        base_check.check_complete(path)
        parameters = sum(prod(shape) for file in base_files.headers(path).values() for _, shape in file.values())
        section = {"source": "local", "path": (MODELS / path.resolve().name).as_posix()}
    elif re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", given) and path.parts[0] != MODELS.name:
        commit = pinning.head(given, "model", UNPINNED)
        snapshot = hub.Snapshot(given, commit, "model")
        base_files.check_kind(snapshot.files(), given)
        folder, origin = snapshot.fetch([name for name in SMALL if name in snapshot.files()]), None
        weights = [
            listed["size"]
            for name, listed in snapshot.files().items()
            if re.fullmatch(r"model[^/]*\.safetensors", name)
        ]
        wide = 4 if base_check.check_config(folder).get("dtype", "") == "float32" else 2
        parameters = sum(weights) // wide
        section = {"source": "hub", "repo": given, "revision": commit}
    else:
        beside = sorted(one.name for one in MODELS.iterdir() if one.is_dir()) if MODELS.is_dir() else []
        there = f"models/ holds {', '.join(beside)}" if beside else "models/ holds no folder"
        raise NewError(
            f"BASE={given}: no such folder; {there}\nhint: a model's folder, or its name on the hub: OWNER/NAME"
        )
    config = base_check.check_config(folder)
    base_check.check_architecture(folder, config)
    if not parameters:
        raise NewError(f"BASE={given}: has no weights in *.safetensors\nhint: take the 16-bit model's own repository")
    notes = []
    if name := _license(folder):
        section["license"] = name
    else:
        notes.append("its licence is not stated: write base.license for the model card")
    section["parameters"] = parameters
    tokenizer = encoding.quick_tokenizer(folder)
    chosen, why = (template, "as asked") if template else _template(tokenizer, folder)
    encoding.check_template(tokenizer, chosen)
    return Found(folder, section, origin, config, chosen, why, notes)


def to_bring(found: Found) -> list[tuple[Path, Path]]:
    """The folder, and where under models/ it is to lie. Raises NewError where something else is there already."""
    if not found.origin:
        return []
    target = Path(found.section["path"])
    if target.exists() and not same(found.origin, target):
        raise NewError(f"{target} is there already, with other content than {found.origin}\nhint: rename one of them")
    return [] if target.exists() else [(found.origin, target)]


def longest(found: Found) -> int:
    """Tokens that the base sees, in training and in llama.cpp alike."""
    inner = found.config.get("text_config", found.config)
    windows = [inner.get("max_position_embeddings") or 2048, base_check.window(found.folder) or 1 << 30]
    return min(windows)


def _template(tokenizer: Any, folder: Path) -> tuple[str, str]:
    """The template that renders as the base's own does; else the one with most marks that are control tokens."""
    fits = []
    for name in encoding.TEMPLATES:
        try:
            encoding.check_template(tokenizer, name)
            fits.append(name)
        except StageError:
            continue
    own = _own(folder)
    theirs = _rendered(own, tokenizer.special_tokens_map) if own else [None, None]
    said, messages = next(
        ((text, some) for text, some in zip(theirs, (PROBE, PROBE[1:]), strict=True) if text), ("", [])
    )
    for name in fits if said else ():
        if said.strip() == encoding.render(tokenizer, messages, encoding.jinja(name)).strip():
            return name, "its own chat template renders a conversation in the same words"
    more = (
        "" if not own else "; its own chat template fails" if not said else "; its own chat template says it otherwise"
    )
    marks = {name: len(encoding.TEMPLATES[name].tokens) for name in fits}
    most = [name for name in fits if marks[name] == max(marks.values()) and marks[name]]
    if len(most) == 1:
        return most[0], f"its marks are control tokens of the base{more}"
    if not fits:
        known = "; ".join(f"{name} ({template.families})" for name, template in encoding.TEMPLATES.items())
        raise NewError(
            f"{folder}: no template's marks are control tokens of this base; known are {known}\n"
            "hint: take the instruct model of this base"
        )
    raise NewError(f"{folder}: several templates would do: {', '.join(fits)}\nhint: name one: TEMPLATE={fits[0]}")


def _own(folder: Path) -> str:
    """The chat template that was published with the base; empty where there is none."""
    if (file := folder / "chat_template.jinja").is_file():
        return file.read_text(encoding="utf-8", errors="replace")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (folder / name).is_file() and isinstance(own := base_files.json_of(folder / name).get("chat_template"), str):
            return own
    return ""


def _rendered(own: str, special: dict[str, str]) -> list[str | None]:
    """What the base's own template makes of the probe with and without its system prompt; None where it fails.

    In a process of its own: a stranger's template may go round for ever, or ask for all memory.
    """
    given = json.dumps({"template": own, "special": special, "probes": [PROBE, PROBE[1:]]})
    try:
        ran = subprocess.run(
            [sys.executable, "-c", RENDER], input=given, capture_output=True, text=True, timeout=2 * PATIENCE
        )
        return json.loads(ran.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return [None, None]


def _license(folder: Path) -> str:
    """What the README's front matter says; empty where it says nothing."""
    if not (file := folder / "README.md").is_file():
        return ""
    head = file.read_text(encoding="utf-8", errors="replace")[:4000]
    front = head.split("---")[1] if head.startswith("---") and head.count("---") > 1 else ""
    found = re.search(r"^license:\s*[\"']?([\w.+-]+)", front, re.M)
    return found[1] if found and found[1] != "other" else ""
