"""The Unsloth engine: its kernels on CUDA, with everything that it would find out for itself told to it.

Unsloth chooses by free memory, by the number of cores and by what is installed, and it keeps compiled code in folders
that outlive a run. All of that is set here from params.yaml, so that the adapter is a function of the stage's inputs.
"""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

from ingot.console.progress import StageError
from ingot.training import attention
from ingot.training.job import Job
from ingot.training.params import UNSLOTH_MODELS, Adapter

CHUNK = 1024  # tokens whose logits over the whole vocabulary exist at once
_kernels = tempfile.TemporaryDirectory(prefix="ingot-kernels-")  # compiled for this run, and gone with it
LOSS = "nll"  # Unsloth's own, fused; TRL's would call the model's layers past it


def begin(params: Adapter, length: int) -> None:
    """Pin what Unsloth reads from its environment, then import it, before TRL and transformers: it changes both."""
    for name in [name for name in os.environ if name.startswith("UNSLOTH_")]:
        del os.environ[name]
    tokens = params.batch_size * length
    cache = Path(_kernels.name)
    os.environ |= {
        # The loss of a large vocabulary is taken in parts: their number, which free memory would set, moves the bits.
        "UNSLOTH_CE_LOSS_N_CHUNKS": str(math.ceil(tokens / CHUNK)),
        "UNSLOTH_DISABLE_STATISTICS": "1",
        "UNSLOTH_DATASET_NUM_PROC": "1",
        "UNSLOTH_COMPILE_LOCATION": str(cache / "unsloth"),
        "TRITON_CACHE_DIR": os.environ.get("TRITON_CACHE_DIR", str(cache / "triton")),
        "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(cache / "inductor")),
    }
    import torch._inductor.config as inductor
    import unsloth  # noqa: F401
    from unsloth_zoo.fused_losses import cross_entropy_loss as loss

    if (os.environ["UNSLOTH_CE_LOSS_N_CHUNKS"], None) != (loss.N_CHUNKS, loss.TARGET_GB):
        raise StageError("Unsloth did not take the pinned number of loss chunks: another version than the locked one")
    # Or Inductor times two forms of a sum (half as many numbers at once) and takes the faster: on a busy card one
    # process in ten took the other one, which adds in another order (benchmarks/README.md).
    inductor.deterministic = True
    if params.attention != "sdpa":
        attention.use_in_unsloth()


def fell_back() -> str | None:
    """Which kernel failed to build or to run, whereupon Unsloth took another one with a line of log: other bits."""
    from unsloth.kernels import utils
    from unsloth_zoo.fused_losses import cross_entropy_loss as loss

    if loss._FUSED_CE_COMPILE_SUPPORTED is False:
        return "its compiled loss"
    return None if utils._USE_NF4_KERNELS or not utils._nf4_kernels_supported() else "its NF4 kernels"


def model(job: Job):
    """The base with its LoRA layers, by Unsloth's loader, from the local folder alone."""
    from unsloth import FastLanguageModel

    from ingot.training import methods

    params = job.params
    if (kind := job.config.get("model_type")) not in UNSLOTH_MODELS:
        raise StageError(
            f"adapter.engine: unsloth does not train {kind} models soundly (it trains {', '.join(UNSLOTH_MODELS)})\n"
            "hint: set adapter.engine to peft, then run make platform"
        )
    loaded, _tokenizer = FastLanguageModel.from_pretrained(
        str(job.base),
        max_seq_length=job.max_seq_length,
        dtype=job.dtype,
        load_in_4bit=params.method == "qlora",
        load_in_16bit=params.method != "qlora",
        quantization_config=methods.quantisation(params, job.dtype),
        use_gradient_checkpointing=job.recompute,
        device_map={"": job.device},
        offload_embedding=False,
        fix_tokenizer=False,
        use_exact_model_name=True,
        local_files_only=True,
        trust_remote_code=False,
    )
    methods.check_targets(loaded, params)
    return FastLanguageModel.get_peft_model(
        loaded,
        r=params.r,
        lora_alpha=params.alpha,
        lora_dropout=params.dropout,
        use_rslora=params.rslora,
        target_modules=list(params.target_modules),
        bias="none",
        use_gradient_checkpointing=job.recompute,
        random_state=job.seed,
    )
