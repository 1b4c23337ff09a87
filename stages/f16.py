"""f16: convert the merged model to a 16-bit GGUF with llama.cpp's own, unmodified converter.

Reads   params `f16`, `name`; build/merged
Writes  build/f16/NAME-F16.gguf, or NAME-BF16.gguf
"""

import json
import os
from pathlib import Path

from ingot.console import progress
from ingot.console.progress import StageError
from ingot.exact.files import output_folder
from ingot.llama import gguf_check, llamacpp
from ingot.llama.params import F16
from ingot.model import weights
from ingot.params.core import Name, load

MERGED, OUT = Path("build/merged"), Path("build/f16")


def main() -> None:
    params, name = load("f16", F16), load("name", Name)
    with progress.stage("f16", "convert to a 16-bit GGUF") as made, output_folder(OUT) as out:
        llamacpp.check()
        kind = params.type
        if kind == "auto":
            beyond = weights.beyond_f16(MERGED)
            kind = "bf16" if beyond else "f16"
            if beyond:
                progress.console.print(
                    f"  {beyond[0]} reaches {beyond[1]:g}, which f16 cannot hold: the file stays bf16"
                )
        gguf = out / f"{name}-{kind.upper()}.gguf"
        llamacpp.convert(MERGED, gguf, name, kind)
        reader = gguf_check.open_file(gguf)
        gguf_check.all_finite(reader)
        gguf_check.nothing_local(reader, [str(Path.cwd()), os.path.expanduser("~")])
        shipped = gguf_check.field(reader, "tokenizer.chat_template")
        if shipped != (MERGED / "chat_template.jinja").read_text(encoding="utf-8"):
            raise StageError(f"the converter wrote another chat template than the one trained on:\n{shipped}")
        vocabulary = json.loads((MERGED / "config.json").read_text())["vocab_size"]
        if (rows := len(gguf_check.field(reader, "tokenizer.ggml.tokens"))) != vocabulary:
            raise StageError(f"the GGUF has {rows} tokens, the model's embedding {vocabulary} rows")
        made += [
            kind,
            progress.quantity(len(reader.tensors), "tensors, all finite"),
            progress.bytes_(gguf.stat().st_size),
        ]


if __name__ == "__main__":
    progress.start(main)
