"""Held-out loss of a model, and what the final file answers: the same tokens whoever computes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from ingot.inside import llamacpp, progress
from ingot.inside.chat import Encoded, Message
from ingot.inside.modelfile import Modelfile
from ingot.inside.progress import StageError


@dataclass
class Total:
    """A sum of negative log likelihoods (nats) over `tokens` trained tokens."""

    nats: float = 0.0
    tokens: int = 0

    def figures(self) -> dict[str, float]:
        """Mean loss in nats a token, and perplexity, rounded to what is stable across processors."""
        loss = self.nats / self.tokens
        return {"loss": round(loss, 4), "perplexity": round(math.exp(min(loss, 700)), 2)}


def transformers_loss(model: Path, rows: list[Encoded], device: str, label: str) -> Total:
    """The loss by transformers: float32 on a CPU, bfloat16 on CUDA."""
    import torch
    from transformers import AutoModelForCausalLM

    from ingot.inside import portable

    if device == "cpu":
        portable.use()
    elif not torch.cuda.is_available():
        raise StageError(
            "evaluation.device: cuda: no CUDA device is visible here; set it to cpu, or run where there is one"
        )
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    loaded = AutoModelForCausalLM.from_pretrained(
        str(model), dtype=dtype, device_map={"": device}, attn_implementation="sdpa", local_files_only=True
    ).eval()
    total = Total()
    with torch.inference_mode(), progress.bar(label) as bar:
        for row in bar.track(rows, description=label):
            logits = loaded(torch.tensor([row.ids], device=device)).logits[0].float()
            total = _add(total, torch.log_softmax(logits, dim=-1).cpu(), row)
    return total


def gguf_loss(model: Path, rows: list[Encoded], device: str, label: str) -> Total:
    """The loss by llama.cpp, which must tokenise the conversations as training did."""
    import torch

    loaded = llamacpp.open_model(model, max(len(row.ids) for row in rows), device, all_logits=True)
    total = Total()
    with progress.bar(label) as bar:
        for row in bar.track(rows, description=label):
            if (ids := loaded.tokenize(row.text.encode(), add_bos=False, special=True)) != row.ids:
                raise StageError(f"{model.name} tokenises other than the base does:\n{ids}\n{row.ids}\n{row.text}")
            loaded.reset()
            loaded.eval(row.ids)
            logits = torch.from_numpy(loaded.scores[: len(row.ids)].copy())
            total = _add(total, torch.log_softmax(logits, dim=-1), row)
    loaded.close()
    return total


def _add(total: Total, log_probabilities, row: Encoded) -> Total:
    """Add a row: the trained token at position i is predicted at i - 1. `log_probabilities`: tokens × vocabulary."""
    places = [place for place, trained in enumerate(row.trained) if trained and place]
    nats = -sum(log_probabilities[place - 1, row.ids[place]].item() for place in places)
    return Total(total.nats + nats, total.tokens + len(places))


@dataclass(frozen=True)
class Answer:
    question: str
    expected: str
    given: str
    ended: bool  # by itself, before num_predict ran out

    @property
    def word_for_word(self) -> bool:
        return self.ended and self.given == self.expected


def answers(model: Path, served: Modelfile, conversations: list[list[Message]], device: str) -> list[Answer]:
    """Ask the file each conversation's last question, greedily, by its own template and the Modelfile's stops."""
    loaded = llamacpp.open_model(model, int(served.parameters["num_ctx"]), device)
    if "tokenizer.chat_template" not in loaded.metadata:
        raise StageError(f"{model.name} carries no chat template: servers would guess one")
    given = []
    with progress.bar("asking") as bar:
        for messages in bar.track(conversations, description=f"asking {model.name}"):
            reply = loaded.create_chat_completion(
                messages=messages[:-1],
                temperature=0.0,
                max_tokens=int(served.parameters["num_predict"]),
                stop=served.stops,
            )["choices"][0]
            ended = reply["finish_reason"] == "stop"
            given.append(Answer(messages[-2]["content"], messages[-1]["content"], reply["message"]["content"], ended))
    loaded.close()
    return given
