"""What is seen while it trains, and the stop at the first step that is not sound."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import torch
from dvclive import Live
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from ingot.chat import token_files
from ingot.console import progress
from ingot.console.progress import StageError
from ingot.training.job import Job, everyone, first, processes

# What is kept: figures that depend on the inputs alone. Times and rates would make the report differ in every run.
LOGGED = ("loss", "learning_rate", "grad_norm", "eval_loss")


class Batches:
    """The micro-batches of the present update, as the model was given them: their rows can be named, tokens counted."""

    def __init__(self, model, job: Job):
        self.rows = job.rows
        self.recent: deque = deque(maxlen=job.params.accumulation // processes())
        self.tokens = 0
        model.register_forward_hook(self.seen, with_kwargs=True)

    def seen(self, model, _arguments, given, result):
        if model.training:
            self.recent.append((given["input_ids"], given.get("position_ids"), getattr(result, "loss", None)))
            self.tokens += given["input_ids"].numel()

    def named(self) -> str:
        """The rows of the micro-batches whose loss is no number, of all when the gradients alone are none."""
        bad = [each for each in self.recent if each[2] is not None and not torch.isfinite(each[2])]
        own = [[sample for each in batches for sample in samples(*each[:2])] for batches in (bad, self.recent)]
        bad, recent = ([*chain.from_iterable(some)] for some in zip(*everyone(own), strict=True))
        found = self.numbers(bad or recent)
        shown = ", ".join(str(number) for number in found[:20])
        return f"rows {shown}{' …' if len(found) > 20 else ''} of build/dataset/train.jsonl (make show ROW=train:N-1)"

    def numbers(self, samples: list[list[int]]) -> list[int]:
        """Numbers of the rows that these samples are, counted from 1. A sample is a row's ids, then padding: of several
        rows that it begins with it is the longest.
        """
        longest = [(0, 0)] * len(samples)  # the row's ids, its number
        for number, row in enumerate(token_files.rows(self.rows), 1):
            for place, sample in enumerate(samples):
                if len(row.ids) >= longest[place][0] and sample[: len(row.ids)] == row.ids:
                    longest[place] = (len(row.ids), number)
        return sorted({number for _, number in longest if number})


def samples(ids, positions) -> Iterator[list[int]]:
    """The token ids of each sample of a batch: packed ones begin at position 0, others are padded at their end."""
    for number, row in enumerate(ids.tolist()):
        begins = [0]
        if positions is not None:
            begins = [place for place, position in enumerate(positions[number].tolist()) if position == 0]
        for start, stop in zip(begins, [*begins[1:], len(row)], strict=True):
            yield row[start:stop]


class Sound(TrainerCallback):
    """Raises StageError, before the weights are touched, at the first update whose gradients are not finite, or not
    from the kernels that they should be from.
    """

    def __init__(self, batches: Batches, fell_back: Callable[[], str | None]):
        self.batches, self.fell_back = batches, fell_back

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if kernel := self.fell_back():
            if torch.cuda.memory_stats().get("num_ooms"):  # Unsloth takes this, too, for a kernel that does not work
                raise torch.OutOfMemoryError
            raise StageError(
                f"Unsloth fell back from {kernel} at step {state.global_step + 1}: the adapter's bits would be others "
                "than where it works; its words are above. Mend that, or set adapter.engine to peft"
            )
        if args.fp16:
            return  # the scaler skips such a step and lowers its factor
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        shares = [grad.to_local() if isinstance(grad, DTensor) else grad for grad in gradients]
        finite = torch.stack(torch._foreach_norm(shares)).isfinite().all()
        if all(everyone(bool(finite))):
            return
        raise StageError(
            f"loss or gradient is not finite at step {state.global_step + 1}: training has diverged; lower "
            f"adapter.learning_rate ({args.learning_rate:g}) or raise adapter.warmup, or look at the batch: "
            f"{self.batches.named()}"
        )


class SealedLive(Live):
    """DVCLive that writes its files and looks at nothing else: in a sealed stage there is no repository to be found."""

    def _init_dvc(self):
        pass


class Watch(TrainerCallback):
    """The progress bar with loss, tokens a second and GPU memory, or a line a log where there is no terminal; plots."""

    def __init__(self, job: Job, batches: Batches):
        self.batches, self.cuda = batches, job.params.device == "cuda"
        self.loss: float | None = None  # none is known before the first log
        self.chance = math.log(job.config["vocab_size"])
        self.highest: float | None = None  # a loss above it is no training
        self.live, self.task = None, None
        self.held_out = bool(job.held_out)
        self.folder: Path = job.live
        self.bar = progress.bar("training")

    def __enter__(self) -> Watch:
        if first():
            self.live = SealedLive(str(self.folder), save_dvc_exp=False, dvcyaml=False, report=None)
            self.live.__enter__()
        return self

    def __exit__(self, *failure) -> None:
        self.bar.stop()
        if self.live:
            self.live.__exit__(*failure)

    def on_train_begin(self, args, state, control, **kwargs):
        # A run that goes on tells its whole story, as if it had never been stopped.
        for entry in state.log_history:
            self.plot(entry, entry["step"])
        self.counted = (0, time.monotonic())
        if first():
            self.task = self.bar.add_task("training", total=state.max_steps, completed=state.global_step)
            self.bar.start()

    def on_step_end(self, args, state, control, **kwargs):
        if first():
            self.bar.update(self.task, completed=state.global_step, description=self.words())
        if state.global_step >= state.max_steps:  # the last point is always told
            control.should_log = True
            control.should_evaluate = self.held_out

    def words(self) -> str:
        tokens, began = self.counted
        rate = (self.batches.tokens - tokens) * processes() / (time.monotonic() - began)
        memory = f", {torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if self.cuda else ""
        loss = "" if self.loss is None else f" loss {self.loss:.4f},"
        return f"training,{loss} {rate:,.0f} tokens/s{memory}"

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.loss = float(logs["loss"])
            self.stop_where_diverged(state.global_step)
            if first() and not progress.console.is_terminal:
                progress.console.print(f"  step {state.global_step:,} of {state.max_steps:,}: {self.words()}")
            self.counted = (self.batches.tokens, time.monotonic())  # the rate is that since the last log
        self.plot(logs, state.global_step)

    def stop_where_diverged(self, step: int) -> None:
        """Raise StageError at a loss half above the first one, and above chance: the log of the vocabulary's size."""
        self.highest = self.highest or max(1.5 * self.loss, self.chance)
        if self.loss > self.highest:
            raise StageError(
                f"loss is {self.loss:.1f} at step {step}: training has diverged "
                f"(guessing at random gives {self.chance:.1f})\n"
                "hint: lower adapter.learning_rate, or raise adapter.warmup"
            )

    def plot(self, logs: dict[str, float], step: int) -> None:
        """One point of each curve that the entry has; the last summary has none."""
        known = {key: float(logs[key]) for key in LOGGED if key in logs}
        if self.live and known:
            self.live.step = step
            for key, value in known.items():
                self.live.log_metric(key, value)
            self.live.make_summary()

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.stop()
