"""Training: TRL's SFTTrainer on the engine's model, to the same bits in every process, going on where stopped."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ingot.chat import encoding
from ingot.console.progress import StageError
from ingot.exact.pins import seed_everything
from ingot.model.weights import parameters
from ingot.training import checkpoints
from ingot.training.job import MULTIPLE, Job, Result, processes, rank
from ingot.training.out_of_memory import advice, leave, smaller


def train(job: Job, engine: ModuleType, out: Path | None) -> Result:
    """Train, and write what was trained into `out` (None: another process writes it).

    adapter_model.safetensors and adapter_config.json, or for method `full` the base's files with new weights. Goes on
    from the last whole checkpoint in `job.checkpoints`, if there is one.
    """
    params = job.params
    if params.device == "cuda":
        torch.cuda.set_device(job.device)
    if params.accumulation % processes():
        raise StageError(
            f"adapter.accumulation: {params.accumulation}: {processes()} processes train together, and share the rows "
            "of an update evenly: make it a multiple of their number"
        )
    if params.shard and job.dtype == torch.float16:
        raise StageError(
            "adapter.shard: true is not supported with fp16 (this GPU has no bf16)\nhint: set adapter.shard to false"
        )
    # Before the adapter's first weights are drawn: the trainer itself seeds too late for them.
    seed_everything(job.seed)
    try:
        return _run(job, engine, out)
    except torch.OutOfMemoryError:
        raise StageError(_too_large(job)) from None


def _run(job: Job, engine: ModuleType, out: Path | None) -> Result:
    from transformers import EarlyStoppingCallback, PrinterCallback
    from trl import SFTTrainer

    from ingot.training import watch

    params = job.params
    model, tokenizer = engine.model(job), encoding.load_tokenizer(job.base)
    batches = watch.Batches(model, job)
    trainer = SFTTrainer(
        model=model,
        args=arguments(job, engine.LOSS),
        train_dataset=_dataset(job.rows, job.checkpoints),
        eval_dataset=_dataset(job.held_out, job.checkpoints) if job.held_out else None,
        processing_class=tokenizer,
        callbacks=[watch.Sound(batches, engine.fell_back), checkpoints.Checkpoints(params.save_total_limit)],
    )
    # Unsloth takes it back, with a line of log, where it cannot keep samples apart.
    if trainer.args.packing != params.packing:
        raise StageError(
            f"adapter.packing: true: Unsloth does not pack {job.config.get('model_type')} models: set it to false, or "
            "adapter.engine to peft"
        )
    _train_in_float32(model)
    trainer.remove_callback(PrinterCallback)
    if params.patience:
        trainer.add_callback(EarlyStoppingCallback(params.patience))
    if params.shard:
        from torch.distributed.fsdp import MixedPrecisionPolicy

        # Gradients are summed in float32, as without sharding; accelerate would sum them in 16 bit.
        policy = MixedPrecisionPolicy(param_dtype=job.dtype, reduce_dtype=torch.float32)
        trainer.accelerator.state.fsdp_plugin.mixed_precision_policy = policy
    with watch.Watch(job, batches) as watching:
        trainer.add_callback(watching)
        trainer.train(resume_from_checkpoint=checkpoints.last_complete(job.checkpoints))
    if out or params.shard:
        checkpoints.save(model, job.base, out)
    history = trainer.state.log_history
    losses = [entry["loss"] for entry in history if "loss" in entry]
    held_out = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    if params.keep == "best":
        held_out.append(trainer.state.best_metric)
    trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return Result(trainer.state.global_step, trainable, losses[-1], held_out[-1] if held_out else None)


def _train_in_float32(model) -> None:
    """TRL makes a QLoRA's weights bfloat16, PEFT makes them float32 again when a checkpoint is loaded: a run that goes
    on would differ from one that was never stopped. Float32 from the start is exact in both.
    """
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


def _dataset(rows: Path, scratch: Path):
    """A token file as a dataset on the disk, opened by a link in `scratch`: what TRL makes of it (packed, shuffled),
    the library datasets writes beside the file that it reads.
    """
    from datasets import Dataset

    link = scratch / "tokens" / rows.name
    link.parent.mkdir(parents=True, exist_ok=True)
    # Replaced at once: a resumed run may lie in another folder now, and on several GPUs each process makes the link.
    made = link.with_name(f"{rows.name}.{rank()}")
    made.unlink(missing_ok=True)
    made.symlink_to(rows.resolve())
    made.replace(link)
    return Dataset.from_file(str(link)).select_columns(["input_ids", "labels"])


def sharing() -> dict[str, Any]:
    """FSDP's settings; a new dictionary each time, for the trainer writes into it."""
    return {
        "fsdp": True,
        "fsdp_config": {"state_dict_type": "SHARDED_STATE_DICT"},  # each process writes its share
        # Gradients are shared out after each batch: kept until the update, every GPU would hold all of them.
        "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}},
    }


def arguments(job: Job, loss: str):
    """The trainer's settings; all that matter come from params.yaml."""
    from trl import SFTConfig

    params = job.params
    steps = params.eval_steps
    return SFTConfig(
        output_dir=str(job.checkpoints),
        num_train_epochs=params.epochs,
        per_device_train_batch_size=params.batch_size,
        per_device_eval_batch_size=params.batch_size,
        gradient_accumulation_steps=params.accumulation // processes(),
        learning_rate=params.learning_rate,
        lr_scheduler_type=params.scheduler,
        warmup_steps=params.warmup,  # below 1 it is a share of all steps
        weight_decay=params.weight_decay,
        max_grad_norm=params.max_grad_norm,
        optim=params.optimizer,
        logging_steps=params.logging_steps,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if steps and job.held_out else "no",
        eval_steps=steps or None,
        eval_packing=False,
        prediction_loss_only=True,
        load_best_model_at_end=params.keep == "best",
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        save_steps=params.save_steps,
        save_total_limit=None,  # saving.Checkpoints removes old ones, after the new one is whole
        packing=params.packing,
        pad_to_multiple_of=MULTIPLE if params.device == "cuda" else None,
        max_length=job.max_seq_length,
        loss_type=loss,
        gradient_checkpointing=bool(job.recompute),
        seed=job.seed,
        data_seed=job.seed,
        use_cpu=params.device == "cpu",
        bf16=job.dtype == torch.bfloat16,
        fp16=job.dtype == torch.float16,
        dataset_num_proc=None,
        dataloader_num_workers=0,
        ddp_find_unused_parameters=False if processes() > 1 else None,
        **(sharing() if params.shard else {}),
        report_to="none",
        disable_tqdm=True,
    )


def _too_large(job: Job) -> str:
    """The message, with what to change; what is next is left for `make repro RETRY=smaller`."""
    given = (parameters(job.base), job.max_seq_length, job.config)
    again = {False: "off", True: "on"}.get(job.recompute, "unsloth")
    done = job.params.model_copy(update={"gradient_checkpointing": again})
    words = advice(job.params, *given, job.memory)
    return f"the GPU's memory did not suffice: {words}{leave(smaller(done, *given))}"
