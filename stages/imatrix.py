"""imatrix: which weights matter most, measured by the fine-tuned model on its own training text.

Reads   params `imatrix`; build/f16, build/dataset
Writes  build/imatrix/imatrix.json: of how much text; and imatrix.gguf, unless imatrix.text is none
"""

import tempfile
from pathlib import Path

from ingot.chat import token_files
from ingot.console import progress
from ingot.console.progress import StageError
from ingot.exact.files import output_folder, write_json, write_text
from ingot.llama import gguf_check, llamacpp
from ingot.llama.params import Imatrix
from ingot.params.core import load

DATASET, F16, OUT = Path("build/dataset"), Path("build/f16"), Path("build/imatrix")
# llama-imatrix reads the text in pieces of this many tokens, and wants two at least.
PIECE = 512


def main() -> None:
    params = load("imatrix", Imatrix)
    task = "measure which weights matter most" if params.text == "train" else "not asked for"
    with progress.stage("imatrix", task) as made, output_folder(OUT) as out:
        if params.text == "none":
            write_json(out / "imatrix.json", {"text": "none"})
            made.append("imatrix.text is none")
            return
        llamacpp.check()
        [model] = sorted(F16.glob("*.gguf"))
        text, rows, tokens = training_text(params.tokens)
        if tokens < 2 * PIECE:
            raise StageError(
                f"imatrix.text: train: the training text has {tokens:,} tokens, and llama-imatrix wants {2 * PIECE:,}: "
                "set it to none, or raise dataset.total_samples"
            )
        with tempfile.TemporaryDirectory() as scratch:
            write_text(Path(scratch) / "train.txt", text)
            llamacpp.imatrix(model, Path(scratch), "train.txt", out / "imatrix.gguf", PIECE, params.device)
        reader = gguf_check.open_file(out / "imatrix.gguf")
        gguf_check.all_finite(reader)
        gguf_check.nothing_local(reader, [str(Path.cwd()), tempfile.gettempdir()])
        measured = sum(tensor.name.endswith(".in_sum2") for tensor in reader.tensors)
        write_json(out / "imatrix.json", {"text": "train", "rows": rows, "tokens": tokens, "tensors": measured})
        made += [progress.quantity(measured, "tensors"), progress.quantity(tokens, "tokens of training text")]


def training_text(most: int) -> tuple[str, int, int]:
    """Conversations as they were trained on, one after the other, up to `most` tokens; how many, and their tokens."""
    texts, tokens = [], 0
    for row in token_files.rows(DATASET / "train.arrow"):
        if tokens and tokens + len(row.ids) > most:
            break
        texts.append(row.text)
        tokens += len(row.ids)
    return "".join(texts), len(texts), tokens


if __name__ == "__main__":
    progress.start(main)
