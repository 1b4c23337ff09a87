"""Try llama.cpp and its bindings out: a tiny model is converted, quantised and loaded. `make image` runs this inside."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ingot.inside import llamacpp, tiny
from ingot.params.base import Tiny

SHAPE = Tiny(seed=1, hidden_size=256, intermediate_size=256, layers=1, heads=4, kv_heads=2, positions=64, std=0.08)


def main() -> None:
    llamacpp.check()
    with tempfile.TemporaryDirectory() as scratch:
        model, full, small = (Path(scratch) / name for name in ("model", "full.gguf", "small.gguf"))
        model.mkdir()
        tiny.make(model, SHAPE, llamacpp.SOURCE / "models")
        llamacpp.convert(model, full, "selfcheck", "f16")
        llamacpp.quantize(full, small, "Q4_K_M")
        loaded = llamacpp.open_model(small, 64, "cpu")
        loaded.eval(loaded.tokenize(b"A loan that trades."))
        loaded.close()
    print("converted, quantised, loaded: the image works")


if __name__ == "__main__":
    main()
