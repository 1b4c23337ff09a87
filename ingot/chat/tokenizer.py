"""A base's tokenizer without transformers, whose import takes longer than reading the files.

`read` gives what transformers' PreTrainedTokenizerFast makes of the same folder, and nothing where its files ask for
anything that only transformers does: keys of tokenizer_config.json that are not known here, tokens that it would add.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# Keys of tokenizer_config.json that change no id of a text without special tokens, and nothing that a template sees;
# for some `encoding.load_tokenizer` has a value of its own.
HARMLESS = {
    "add_bos_token", "add_eos_token", "add_prefix_space", "chat_template", "clean_up_tokenization_spaces", "errors",
    "fix_mistral_regex", "is_local", "legacy", "local_files_only", "model_input_names", "model_max_length",
    "padding_side", "processor_class", "sp_model_kwargs", "spaces_between_special_tokens", "tokenizer_class",
    "truncation_side", "use_default_system_prompt",
}  # fmt: skip
USUAL = {"backend": "tokenizers", "split_special_tokens": False}  # keys that are harmless with this value


class Tokenizer:
    """What rendering and encoding ask of a tokenizer, by the names that transformers has for it."""

    def __init__(self, backend, special_tokens_map: dict[str, str]):
        self.backend_tokenizer, self.special_tokens_map = backend, special_tokens_map
        self.bos_token = special_tokens_map.get("bos_token")

    def apply_chat_template(
        self, conversations: list[list[dict[str, str]]], chat_template: str, tokenize: bool, add_generation_prompt: bool
    ) -> list[str]:
        assert not tokenize
        template = _compiled(chat_template)
        asked = {"add_generation_prompt": add_generation_prompt, **self.special_tokens_map}
        return [template.render(messages=messages, tools=None, documents=None, **asked) for messages in conversations]


def read(folder: Path) -> Tokenizer | None:
    """The tokenizer of a model folder; None where it takes transformers to say what it is."""
    from tokenizers import Tokenizer as Backend

    place, legacy = folder / "tokenizer_config.json", ("added_tokens.json", "special_tokens_map.json")
    config = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {}
    if "added_tokens_decoder" not in config and any((folder / name).is_file() for name in legacy):
        return None
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    if backend.truncation or backend.padding or backend.post_processor is None:
        return None
    added = {token: _flags(one.__getstate__()) for token, one in backend.get_added_tokens_decoder().items()}
    special = {one["content"] for one in added.values() if one["special"]}
    named = {}
    for key, value in config.items():
        if key in HARMLESS or (key in USUAL and value == USUAL[key]):
            continue
        if key == "added_tokens_decoder":
            plain = all(added.get(int(token)) == _flags(one) for token, one in value.items())
        elif key in ("additional_special_tokens", "extra_special_tokens"):
            plain = value is None or (isinstance(value, list) and special.issuperset(map(_content, value)))
        elif key in NAMED:
            plain = value is None or _content(value) in special
            named |= {key: _content(value)} if value is not None else {}
        else:
            plain = False
        if not plain:
            return None
    return Tokenizer(backend, named)


def _content(token: Any) -> str | None:
    """A token's text, as such or in an object; None for anything else."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _flags(token: dict[str, Any]) -> dict[str, Any]:
    kinds = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    return {kind: token.get(kind) for kind in kinds}


@lru_cache
def _compiled(template: str):
    """The template in the environment that transformers gives it."""
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = refuse
    return environment.from_string(template)
