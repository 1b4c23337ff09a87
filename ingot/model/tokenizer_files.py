"""The files beside the weights as they are shipped: the base's own, verbatim, but for the template."""

from __future__ import annotations

import shutil
from pathlib import Path

from ingot.console.bounds import read_json
from ingot.exact.files import write_json, write_text


def files(base: Path, template: str, out: Path) -> None:
    """Copy all of a base but its weights into `out`; `template` is the chat template's source.

    Verbatim, for tokenizer files that transformers 5 saves anew break the converter or, worse, its merges. The template
    trained on is the template shipped: as a file, and nowhere else to contradict it. What would have a reader fetch and
    run code (`auto_map`: the converter asks nobody) is left out.
    """
    for path in sorted(base.iterdir()):
        if path.suffix != ".safetensors" and path.name != "chat_template.json":
            shutil.copyfile(path, out / path.name)
    write_text(out / "chat_template.jinja", template)
    path = out / "tokenizer_config.json"
    config = _json(path)
    shipped = {key: value for key, value in config.items() if key not in ("chat_template", "auto_map")}
    # As transformers 5 saves them: the converter's transformers 4 reads neither. The tokens are in tokenizer.json, too.
    if isinstance(shipped.get("extra_special_tokens"), list):
        del shipped["extra_special_tokens"]
    if shipped.get("tokenizer_class") == "TokenizersBackend":
        shipped["tokenizer_class"] = "PreTrainedTokenizerFast"
    if _prefixes_first_only(_json(out / "tokenizer.json")):
        # llama.cpp would put a space after every control token. Behind a BOS, "first only" is nowhere.
        shipped["add_prefix_space"] = False
    if shipped != config:
        write_json(path, shipped)
    if "auto_map" in (model := _json(out / "config.json")):
        write_json(out / "config.json", {key: value for key, value in model.items() if key != "auto_map"})


def _prefixes_first_only(tokenizer: dict) -> bool:
    """Whether a space is put before a text's first word alone (Mistral 7B v0.3), not after control tokens (Llama 2)."""
    before = tokenizer.get("pre_tokenizer")
    return isinstance(before, dict) and before.get("type") == "Metaspace" and before.get("prepend_scheme") == "first"


def _json(path: Path) -> dict:
    return read_json(path, "fetch the base again") if path.is_file() else {}
