"""merged: fold the adapter into the base's weights, with a few rows of a few tensors in memory.

Reads   params `merged`; build/base, build/adapter
Writes  build/merged/: the base's files with every targeted weight changed, and the chat template it was trained on
"""

from pathlib import Path

from ingot.console import progress
from ingot.exact.files import output_folder, size_of
from ingot.model import tokenizer_files
from ingot.model.params import Merged
from ingot.params.core import load

BASE, ADAPTER, OUT = Path("build/base"), Path("build/adapter"), Path("build/merged")


def main() -> None:
    params = load("merged", Merged)
    with progress.stage("merged", f"fold the adapter into the {params.base} weights on {params.device}") as made:
        from ingot.model import fold
        from ingot.model.merge import merge

        adapter = fold.read(ADAPTER, params.device)
        with output_folder(OUT) as out:
            changed = merge(BASE, adapter, out, through_nf4=params.base == "nf4")
            tokenizer_files.files(BASE, (ADAPTER / "chat_template.jinja").read_text(encoding="utf-8"), out)
        made += [
            progress.quantity(len(changed), "tensors changed"),
            progress.quantity(len(list(OUT.glob("*.safetensors"))), "shards"),
            progress.bytes_(size_of(OUT)),
        ]


if __name__ == "__main__":
    progress.start(main)
