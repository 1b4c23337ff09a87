"""llama.cpp as the stages use it: the unmodified converter, the quantiser, and the library through llama-cpp-python.

All of one build, whose folder the stamp describes. `make llama` makes it; the image carries its own.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from ingot.console import progress
from ingot.console.bounds import read_json
from ingot.console.messages import command
from ingot.console.progress import StageError
from ingot.exact.files import contents

SCRIPT = "convert_hf_to_gguf.py"
# In the image both lie elsewhere, and it sets these variables.
SOURCE = Path(os.environ.get("INGOT_LLAMA_SOURCE", "llama.cpp"))
BUILD = Path(os.environ.get("INGOT_LLAMA_BUILD", ".cache/llama.cpp"))
# The versions that upstream pins for its converter, where ours are others (requirements/converter.txt).
CONVERTER = Path(sys.prefix) / "converter"


def check() -> None:
    """Raise StageError unless the build is there, of image.lock's commit, and every file as it was built."""
    stamp = BUILD / "stamp.json"
    again = "run `make image`" if "INGOT_RECIPE" in os.environ else "run `make llama`"
    if not CONVERTER.is_dir():
        raise StageError(f"the converter's packages are not installed ({CONVERTER} is missing): run `make setup`")
    if not stamp.is_file():
        raise StageError(f"llama.cpp is not built ({stamp} is missing): {again}")
    found = read_json(stamp, again)
    built, lock, mend = _commit(found, stamp, again), Path("image.lock"), "run `make image.lock`"
    locked = _commit(read_json(lock, mend).get("llama.cpp"), lock, mend)
    if built != locked:
        raise StageError(f"llama.cpp is built from {built[:12]}, but image.lock names {locked[:12]}: {again}")
    if (known := found.get("files")) is None:
        raise StageError(f"{stamp} has no hashes of llama.cpp's files: {again}, which adds them")
    try:
        for root, part in ((SOURCE, "source"), (BUILD, "build")):
            _as_built(root, known[part], contents(root, found["patterns"][part]), again)
    except (TypeError, KeyError, AttributeError):
        raise StageError(f"{stamp} cannot be read: {again}") from None


def ready() -> None:
    """Raise StageError unless all of llama.cpp that stages use is there: asked before what is costly, not behind it."""
    check()
    library()


def _as_built(root: Path, known: dict[str, str], now: dict[str, str], again: str) -> None:
    """Raise StageError, naming the first file that is not as the stamp knows it."""
    for name in sorted(known.keys() | now.keys()):
        if name in now and now[name] != known.get(name):
            change = "has changed" if name in known else "was added"
        elif name not in now and ("/" in name or name == SCRIPT):  # the image leaves out what no stage runs
            change = "is missing"
        else:
            continue
        raise StageError(f"{root / name} {change} since llama.cpp was built, so its results would be others: {again}")


def _commit(said: Any, path: Path, hint: str) -> str:
    if not isinstance(said, dict) or not isinstance(said.get("commit"), str):
        raise StageError(f"{path}: names no commit of llama.cpp\nhint: {hint}")
    return said["commit"]


def convert(model: Path, out: Path, name: str, kind: str, vocabulary_only: bool = False) -> str:
    """Run convert_hf_to_gguf.py on a model folder; `kind` is its --outtype. Returns what it said.

    The converter reads base name, size and version out of the folder's name, so it is shown the folder under `name`:
    what params.yaml says stands in the file, and where the folder lies does not.
    """
    with tempfile.TemporaryDirectory() as scratch:
        shown = Path(scratch) / name
        shown.symlink_to(model.resolve())
        command = [sys.executable, str(SOURCE / SCRIPT), str(shown), "--model-name", name]
        command += ["--outfile", str(out.resolve()), "--outtype", kind]
        command += ["--vocab-only"] if vocabulary_only else []
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(CONVERTER), *filter(None, [os.environ.get("PYTHONPATH")])])
        }
        return progress.run(command, "converting", r"Writing: +(?P<done>\d+)%", environment)


def quantize(source: Path, out: Path, kind: str, matrix: Path | None) -> str:
    """Run llama-quantize; its bytes do not depend on the number of threads. Returns what it said.

    The path of the importance matrix `matrix` is written into the file, so the quantiser is shown a bare name.
    """
    with tempfile.TemporaryDirectory() as scratch:
        command = [str(BUILD.resolve() / "bin" / "llama-quantize")]
        if matrix:
            (Path(scratch) / matrix.name).symlink_to(matrix.resolve())
            command += ["--imatrix", matrix.name]
        command += [str(source.resolve()), str(out.resolve()), kind]
        counter = r"^\[ *(?P<done>\d+)/ *(?P<total>\d+)\]"
        return progress.run(command, f"quantising to {kind}", counter, folder=Path(scratch))


def imatrix(model: Path, folder: Path, text: str, out: Path, piece: int, device: str) -> None:
    """Run llama-imatrix on the file `text` in `folder`, `piece` tokens at a time; its bytes do not depend on threads.

    The text's name is written into the file, so it is given bare. Raises StageError when nothing was measured.
    """
    if device == "cuda":
        _wants_gpu()
    command = [str(BUILD.resolve() / "bin" / "llama-imatrix"), "-m", str(model.resolve()), "-f", text]
    command += ["-o", str(out.resolve()), "--parse-special", "--no-ppl", "-fit", "off"]
    command += [*(word for flag in ("-c", "-b", "-ub") for word in (flag, str(piece)))]
    command += ["-ngl", "99"] if device == "cuda" else []
    said = progress.run(command, "measuring", r"\[(?P<done>\d+)/(?P<total>\d+)\]", folder=folder)
    if not out.is_file():  # it has ended with status 0 on errors before
        raise StageError(f"llama-imatrix wrote nothing; its last words:\n{said[-1500:]}")


def has_gpu() -> bool:
    """Whether our build of llama.cpp has CUDA and finds a GPU."""
    return library().llama_supports_gpu_offload()


def open_model(path: Path, context: int, device: str, all_logits: bool = False):
    """The GGUF loaded by llama-cpp-python on our own build: wholly on the GPU, or wholly on the CPU.

    `context` in tokens, `device` cpu or cuda. Raises StageError when cuda is asked for and cannot be
    had, or the file cannot be loaded.
    """
    if cuda := device == "cuda":
        _wants_gpu()
    try:
        return library().Llama(
            model_path=str(path),
            n_ctx=context,
            n_batch=context,
            n_ubatch=context,
            n_gpu_layers=-1 if cuda else 0,
            offload_kqv=cuda,
            op_offload=cuda,
            logits_all=all_logits,
            seed=0,
            verbose=False,
        )
    except ValueError as error:  # the library's word for all of it
        raise StageError(
            f"{path}: llama.cpp cannot load it with a context of {context} tokens ({error}): the file is damaged or "
            "not whole, or the memory does not hold that context"
        ) from None


def _wants_gpu() -> None:
    if not has_gpu():
        raise StageError("llama.cpp finds no GPU, or is built without CUDA: `make setup LOCK=cuda`, then `make llama`")


def library():
    """llama-cpp-python on our build of llama.cpp. Raises StageError where it cannot be loaded."""
    os.environ["LLAMA_CPP_LIB_PATH"] = str(BUILD.resolve() / "bin")
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise StageError(f"llama-cpp-python cannot be loaded ({error}): run `make llama`") from None
    return llama_cpp


def end_tokens(loaded) -> set[int]:
    """The tokens that llama.cpp ends an answer at."""
    import llama_cpp

    vocabulary = llama_cpp.llama_model_get_vocab(loaded.model)
    return {token for token in range(loaded.n_vocab()) if llama_cpp.llama_vocab_is_eog(vocabulary, token)}


def chat_template(loaded, model: Path):
    """The file's own chat template, as llama-cpp-python renders it."""
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    if "tokenizer.chat_template" not in loaded.metadata:
        raise StageError(f"{model.name} carries no chat template: servers would guess one")
    eos, bos = (
        loaded.detokenize([token], special=True).decode() if token >= 0 else ""
        for token in (loaded.token_eos(), loaded.token_bos())
    )
    return Jinja2ChatFormatter(loaded.metadata["tokenizer.chat_template"], eos_token=eos, bos_token=bos)


if __name__ == "__main__":
    with command():
        ready() if "evaluation" in sys.argv[1:] else check()
