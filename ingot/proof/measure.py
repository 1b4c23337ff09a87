"""What models say on held-out text, by transformers and by llama.cpp: their logits, for the same tokens."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.chat.encoding import Encoded
from ingot.console import progress
from ingot.console.progress import StageError
from ingot.llama import apart, llamacpp

if TYPE_CHECKING:
    import numpy

# Of one row: the logits that foretell its trained tokens, [trained tokens, vocabulary] in float32, and the seconds that
# the row took.
Said = tuple["numpy.ndarray", float]


def places(row: Encoded) -> list[int]:
    """Where the trained tokens stand; each is foretold by the logits of the place before. The first token has none."""
    return [place for place, trained in enumerate(row.trained) if trained and place]


def by_transformers(
    model: Path, rows: Sequence[Encoded], device: str, label: str, adapter: Path | None = None, quantised: Any = None
) -> Iterator[Said]:
    """What transformers computes, row by row: in float32 on a CPU, in bfloat16 on CUDA.

    `adapter` is put on the model by PEFT; `quantised` is bitsandbytes' configuration, for a model loaded in 4 bits.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from ingot.exact import cpu_math
    from ingot.training import methods

    if device == "cpu":
        cpu_math.use()
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    loaded = AutoModelForCausalLM.from_pretrained(
        str(model), dtype=dtype_on(device), quantization_config=quantised, device_map={"": device},
        attn_implementation=methods.attention(config), local_files_only=True, trust_remote_code=False,
    )  # fmt: skip
    methods.keep_layout(loaded)
    if adapter:
        from peft import PeftModel

        loaded = PeftModel.from_pretrained(loaded, str(adapter))
    loaded.eval()
    with torch.inference_mode(), progress.bar(label) as bar:
        for row in bar.track(rows, description=label):
            began = time.perf_counter()
            before = torch.tensor([place - 1 for place in places(row)], device=device)
            logits = loaded(torch.tensor([row.ids], device=device), logits_to_keep=before).logits[0]
            yield logits.float().cpu().numpy(), time.perf_counter() - began
    del loaded
    gc.collect()  # PEFT's models hold themselves in circles
    if device == "cuda":
        torch.cuda.empty_cache()  # or the next model, if llama.cpp's, finds the memory taken


def dtype_on(device: str):
    """What transformers computes in. Raises StageError when there is no such device."""
    import torch

    if device == "cpu":
        return torch.float32
    if not torch.cuda.is_available():
        raise StageError(
            "evaluation.device: cuda: no CUDA device is visible here; set it to cpu, or run where there is one"
        )
    return torch.bfloat16


def by_llama(model: Path, rows: Sequence[Encoded], device: str, label: str) -> Iterator[Said]:
    """What llama.cpp computes, row by row. It must tokenise the conversations as training did, or StageError."""
    with progress.bar(label) as bar:
        yield from bar.track(apart.each(evaluated, model, rows, device), total=len(rows), description=label)


def evaluated(model: Path, rows: Sequence[Encoded], device: str) -> Iterator[Said]:
    """The work of `by_llama`, for a process of its own."""
    loaded = llamacpp.open_model(model, max(len(row.ids) for row in rows), device, all_logits=True)
    for row in rows:
        if (ids := loaded.tokenize(row.text.encode(), add_bos=False, special=True)) != row.ids:
            raise StageError(f"{model.name} tokenises other than the base does:\n{ids}\n{row.ids}\n{row.text}")
        began = time.perf_counter()
        loaded.reset()
        loaded.eval(row.ids)
        yield loaded.scores[[place - 1 for place in places(row)]], time.perf_counter() - began
    loaded.close()
