"""llama.cpp's CUDA build on a GPU: its perplexity tool and our own measuring, each against the CPU.

    make setup LOCK=cuda && make llama
    cmake --build .cache/llama.cpp --target llama-perplexity
    python benchmarks/llama_cuda.py             (--ledger: without llama-perplexity)

A random Qwen2 of 0.4 B parameters is converted and quantised; its words are noise, its arithmetic is not.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from ingot.chat.encoding import Encoded
from ingot.llama import apart, llamacpp
from ingot.model import tiny
from ingot.model.params import Tiny
from ingot.proof import ledger, measure
from ingot.proof.ledger import Boundary

SHAPE = Tiny(
    seed=1, hidden_size=1024, intermediate_size=4096, layers=16, heads=16, kv_heads=8, positions=512, std=0.02
)  # fmt: skip
TEXT = "The yield of a bond moves against its price, and a longer bond moves more. " * 120


def perplexity(model: Path, text: Path, layers: int, *more: str) -> tuple[str, float]:
    """What llama-perplexity prints of `model` with so many layers on the GPU, and the seconds it took."""
    command = [str(llamacpp.BUILD.resolve() / "bin/llama-perplexity"), "-m", str(model), "-f", str(text)]
    command += ["-c", "512", "--verbosity", "4", "-ngl", str(layers), *more]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    said = done.stdout + done.stderr
    if done.returncode:
        raise SystemExit(said[-3000:])
    return said, time.perf_counter() - start


def by_tool(full: Path, small: Path, text: Path, logits: Path) -> None:
    for file in (full, small):
        for layers in (0, 99):
            said, seconds = perplexity(file, text, layers)
            figure = re.search(r"Final estimate: PPL = (\S+)", said)
            offloaded = re.search(r"offloaded (\d+/\d+) layers", said)
            print(f"llama-perplexity {file.stem:5} -ngl {layers:2}  PPL {figure and figure[1]}  "
                  f"{offloaded and offloaded[0]}  {seconds:.1f} s", flush=True)  # fmt: skip
    perplexity(full, text, 99, "--kl-divergence-base", str(logits))
    said, _ = perplexity(small, text, 99, "--kl-divergence-base", str(logits), "--kl-divergence")
    print(*re.findall(r"^(?:Mean +KLD|Same top p).*$", said, re.M), sep="\n", flush=True)


def gpu() -> Iterator[bool]:
    yield llamacpp.has_gpu()


def beginning(model: Path) -> Iterator[tuple[str, list[int]]]:
    """The first 500 tokens of the text, and what they say."""
    loaded = llamacpp.open_model(model, 512, "cpu")
    ids = loaded.tokenize(TEXT.encode(), add_bos=False, special=True)[:500]
    yield TEXT[: len(loaded.detokenize(ids).decode())], ids
    loaded.close()


def main() -> None:
    print("GPU:", *apart.each(gpu))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model, text, logits = folder / "model", folder / "text", folder / "logits"
        model.mkdir()
        text.write_text(TEXT)
        tiny.make(model, SHAPE, llamacpp.SOURCE / "models")
        full, small = folder / "full.gguf", folder / "small.gguf"
        llamacpp.convert(model, full, "bench", "f16")
        llamacpp.quantize(full, small, "Q4_K_M", None)
        if "--ledger" not in sys.argv[1:]:
            by_tool(full, small, text, logits)
        [(words, ids)] = apart.each(beginning, small)
        row = Encoded(text=words, ids=ids, trained=[True] * len(ids))
        for device in ("cpu", "cuda", "cuda"):
            start = time.perf_counter()
            file = Boundary("file", None, 0, partial(measure.by_llama, small, [row], device, device))
            [step] = ledger.take([file], [row], Path(tempfile.mkdtemp(dir=folder)))
            print(f"held-out loss {device:4} {step.figures()['loss']}  {time.perf_counter() - start:.1f} s", flush=True)
        # As evaluation does it: PyTorch is on the GPU, and llama.cpp comes to it.
        given = [("base", None, partial(measure.by_transformers, model))]
        given += [
            ("16-bit", "base", partial(measure.by_llama, full)),
            ("Q4_K_M", "16-bit", partial(measure.by_llama, small)),
        ]
        steps = [Boundary(name, before, 0, partial(said, [row], "cuda", name)) for name, before, said in given]
        for step in ledger.take(steps, [row], Path(tempfile.mkdtemp(dir=folder))):
            print(f"ledger on the GPU: {step.boundary.name} {step.figures()}", flush=True)


if __name__ == "__main__":
    from benchmarks.llama_cuda import main  # its functions go to llama.cpp's process by the module's name

    main()
