"""merged: fold the adapter into the 16-bit weights, shard by shard.

Reads   params `merged`; build/base, build/adapter
Writes  build/merged/: the base's files with every targeted weight changed, and the chat template it was trained on
"""

import json
import shutil
from pathlib import Path

from ingot.artifact import output_folder, size_of, write_json, write_text
from ingot.inside import progress
from ingot.inside.lora import Adapter
from ingot.params.core import load
from ingot.params.merged import Merged

BASE, ADAPTER, OUT = Path("build/base"), Path("build/adapter"), Path("build/merged")


def main() -> None:
    params = load("merged", Merged)
    with progress.stage("merged", f"fold the adapter into the {params.base} weights") as made:
        adapter = Adapter(ADAPTER, params.base)
        with output_folder(OUT) as out:
            shards = sorted(BASE.glob("*.safetensors"))
            with progress.bar("merging") as bar:
                for shard in bar.track(shards, description="merging"):
                    merge(shard, out / shard.name, adapter)
            adapter.all_used()
            # Verbatim: tokenizer files that transformers 5 saves anew break the converter or, worse, its merges.
            for path in sorted(BASE.iterdir()):
                if path.suffix != ".safetensors":
                    shutil.copyfile(path, out / path.name)
            ship_template((ADAPTER / "chat_template.jinja").read_text(encoding="utf-8"), out)
        made += [
            progress.quantity(adapter.count, "tensors changed"),
            progress.quantity(len(shards), "shards"),
            progress.bytes_(size_of(OUT)),
        ]


def merge(shard: Path, out: Path, adapter: Adapter) -> None:
    """One shard into a new file; its tensors are the only ones in memory."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(str(shard), framework="pt") as file:
        tensors = {key: adapter.folded(key, file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118
    # One metadata key: safetensors writes them in the order of a hash map.
    save_file(tensors, str(out), metadata={"format": "pt"})


def ship_template(template: str, out: Path) -> None:
    """The template trained on is the template shipped: as a file, and nowhere else to contradict it."""
    write_text(out / "chat_template.jinja", template)
    (out / "chat_template.json").unlink(missing_ok=True)
    path = out / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if config.pop("chat_template", None) is not None:  # the converter would prefer it to the file
        write_json(path, config)


if __name__ == "__main__":
    progress.start(main)
