"""Try llama.cpp, its bindings and our renderers out on a tiny model. `make image` runs this inside."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ingot.chat import encoding, render
from ingot.console.progress import StageError
from ingot.llama import llamacpp
from ingot.model import tiny
from ingot.model.params import Tiny

SHAPE = Tiny(seed=1, hidden_size=256, intermediate_size=256, layers=1, heads=4, kv_heads=2, positions=64, std=0.08)


def main() -> None:
    llamacpp.check()
    with tempfile.TemporaryDirectory() as scratch:
        model, full, small = (Path(scratch) / name for name in ("model", "full.gguf", "small.gguf"))
        model.mkdir()
        tiny.make(model, SHAPE, llamacpp.SOURCE / "models")
        llamacpp.convert(model, full, "selfcheck", "f16")
        llamacpp.quantize(full, small, "Q4_K_M", None)
        loaded = llamacpp.open_model(small, 64, "cpu")
        loaded.eval(loaded.tokenize(b"A loan that trades."))
        loaded.close()
        asked = [[{"role": "user", "content": "What is a bond?"}]]
        by_llama, by_go = render.by_llama(small, asked), render.by_go(encoding.go_template("chatml"), asked)
        if by_llama[0]["text"] != by_go[0]["text"]:
            raise StageError(f"the renderers differ: {by_llama}, {by_go}")
    print("converted, quantised, loaded, rendered: the image works")


if __name__ == "__main__":
    main()
