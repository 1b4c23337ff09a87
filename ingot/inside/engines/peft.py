"""The PEFT engine: TRL's SFTTrainer on a transformers model, bitsandbytes for the 4-bit base. CPU or CUDA."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from dvclive import Live
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from ingot.inside import chat, portable, progress
from ingot.inside.determinism import seed_everything
from ingot.inside.engines.job import Job, Result
from ingot.inside.progress import StageError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# What is logged: figures that depend on the inputs alone. Times and rates would make the report differ in every run.
LOGGED = {"loss": "loss", "learning_rate": "learning_rate", "grad_norm": "grad_norm"}
COMPLETE = "complete"


def train(job: Job, out: Path) -> Result:
    """Train, and write adapter_model.safetensors and adapter_config.json into `out` as PEFT does.

    Goes on from the last whole checkpoint in `job.checkpoints`, if there is one.
    """
    from datasets import Dataset

    params = job.params
    if params.device == "cuda" and not torch.cuda.is_available():
        raise StageError(
            "adapter.device: cuda: no CUDA device is visible here; set it to cpu, or run where there is one"
        )
    # Before the adapter's first weights are drawn: the trainer itself seeds too late for them.
    seed_everything(job.seed)
    if params.device == "cpu":
        portable.use()
    model = adapted_model(job)
    tokenizer = chat.load_tokenizer(job.base)
    rows = Dataset.from_list([{"input_ids": row.ids, "labels": row.labels()} for row in job.rows])
    trainer = SFTTrainer(
        model=model, args=arguments(job), train_dataset=rows, processing_class=tokenizer, callbacks=[MarkComplete()]
    )
    # TRL makes a QLoRA's weights bfloat16, PEFT makes them float32 again when a checkpoint is loaded: a run that goes on
    # would differ from one that was never stopped. Float32 from the start is exact in both.
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    trainer.remove_callback(PrinterCallback)
    with SealedLive(str(job.live), save_dvc_exp=False, dvcyaml=False, report=None) as live:
        trainer.add_callback(Watch(live))
        trainer.train(resume_from_checkpoint=last_complete(job.checkpoints))
    model.save_pretrained(str(out))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return Result(trainer.state.global_step, trainable, losses[-1])


def adapted_model(job: Job):
    """The base, 4-bit or 16-bit by `method`, with fresh LoRA layers."""
    params, dtype = job.params, DTYPES[job.params.precision]
    quantised = None
    if params.method == "qlora":
        quantised = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=params.double_quant,
            bnb_4bit_compute_dtype=dtype,
        )
    model = AutoModelForCausalLM.from_pretrained(
        str(job.base),
        dtype=dtype,
        quantization_config=quantised,
        device_map={"": params.device},
        attn_implementation="sdpa",
        local_files_only=True,
    )
    model.config.use_cache = False
    if quantised:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=params.gradient_checkpointing)
    present = linear_layers(model)
    if missing := [module for module in params.target_modules if module not in present]:
        raise StageError(
            f"adapter.target_modules: {', '.join(missing)}: no linear layer of the base that a merge could fold back; "
            f"those are {', '.join(sorted(present))}"
        )
    config = LoraConfig(
        r=params.r,
        lora_alpha=params.alpha,
        lora_dropout=params.dropout,
        target_modules=list(params.target_modules),
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def linear_layers(model) -> set[str]:
    """Last names of the layers that LoRA can be attached to."""
    return {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "lm_head" not in name
    }


def arguments(job: Job) -> SFTConfig:
    """The trainer's settings; all that matter come from params.yaml."""
    params = job.params
    return SFTConfig(
        output_dir=str(job.checkpoints),
        num_train_epochs=params.epochs,
        per_device_train_batch_size=params.batch_size,
        gradient_accumulation_steps=params.accumulation,
        learning_rate=params.learning_rate,
        lr_scheduler_type=params.scheduler,
        warmup_steps=params.warmup,  # below 1 it is a share of all steps
        weight_decay=params.weight_decay,
        max_grad_norm=params.max_grad_norm,
        optim=params.optimizer,
        logging_steps=params.logging_steps,
        save_steps=params.save_steps,
        save_total_limit=params.save_total_limit,
        packing=params.packing,
        max_length=job.max_seq_length,
        gradient_checkpointing=params.gradient_checkpointing,
        seed=job.seed,
        data_seed=job.seed,
        use_cpu=params.device == "cpu",
        bf16=params.precision == "bf16",
        fp16=params.precision == "fp16",
        dataloader_num_workers=0,
        report_to="none",
        disable_tqdm=True,
    )


def last_complete(checkpoints: Path) -> str | None:
    """The newest checkpoint that was written to its end."""
    found = [path.parent for path in checkpoints.glob(f"checkpoint-*/{COMPLETE}")]
    newest = max(found, key=lambda path: int(path.name.split("-")[1]), default=None)
    if newest:
        progress.console.print(f"  going on from {newest}")
    return str(newest) if newest else None


class SealedLive(Live):
    """DVCLive that writes its files and looks at nothing else: in a sealed stage there is no repository to be found."""

    def _init_dvc(self):
        pass


class MarkComplete(TrainerCallback):
    """Marks a checkpoint once all of its files are written; a run killed in mid-write leaves it unmarked."""

    def on_save(self, args, state, control, **kwargs):
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()


class Watch(TrainerCallback):
    """The progress bar, DVCLive's plots, and the stop at the first step whose figures are no numbers."""

    def __init__(self, live: Live):
        self.live, self.bar, self.task = live, progress.bar("training"), None

    def on_train_begin(self, args, state, control, **kwargs):
        self.task = self.bar.add_task("training", total=state.max_steps, completed=state.global_step)
        self.bar.start()
        # A run that goes on tells its whole story, as if it had never been stopped.
        for entry in state.log_history:
            self.plot(entry, entry["step"])

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(self.task, completed=state.global_step)
        if state.global_step >= state.max_steps:  # the last point is always told
            control.should_log = True

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in logs:
            return
        for key in ("loss", "grad_norm"):
            if not math.isfinite(float(logs[key])):
                self.bar.stop()
                raise StageError(
                    f"{key} is {logs[key]} at step {state.global_step}: training has diverged; lower "
                    f"adapter.learning_rate ({args.learning_rate:g}) or raise adapter.warmup"
                )
        self.plot(logs, state.global_step)
        self.bar.update(self.task, description=f"training, loss {float(logs['loss']):.4f}")

    def plot(self, logs: dict[str, float], step: int) -> None:
        """One point of each curve; entries without a loss, such as the last summary, have none."""
        if "loss" in logs:
            self.live.step = step
            for key, name in LOGGED.items():
                self.live.log_metric(name, float(logs[key]))
            self.live.next_step()

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.stop()
