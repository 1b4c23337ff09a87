"""`ingot new`, the recipe: every value with the reason beside it."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML

from ingot.chat import encoding
from ingot.params.core import Name, nearest, read
from ingot.planning import fit, new_base, recipe
from ingot.planning.cards import Card
from ingot.planning.new_base import Found
from ingot.planning.new_data import DataSet, NewError
from ingot.training.params import UNSLOTH_MODELS, Adapter

METHODS = ["lora", "qlora"]  # what `fit` compares; others are for who edits the recipe
SYSTEM = "You are a helpful assistant."
COVERED = 0.99  # of the conversations, by max_seq_length
LENGTHS = (256, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12_288, 16_384, 24_576, 32_768)
EPOCHS = ((2_000, 3), (50_000, 2))  # below so many rows; 1 above
ROWS = 16  # of an update, unless there are few
UPDATES = 60  # at least
LEAST = 2  # rows
PROMPTS = 20  # training prompts that the evaluation asks, by the defaults
CPU_LIMIT = 1_000_000_000  # parameters; a larger base takes days on a CPU
PHI = "[qkv_proj, o_proj, gate_up_proj, down_proj]"


@dataclass
class Asked:
    """What the user says; None where it is to be found out."""

    name: str | None
    template: str | None
    system: str | None
    columns: str | None
    ignore: list[str] | None
    length: int | None
    epochs: float | None
    method: str | None

    def check(self) -> None:
        """Raise NewError for what cannot be, before any file is read."""
        try:
            TypeAdapter(Name | None).validate_python(self.name)
        except ValidationError:
            text = f"--name {self.name}: letters, digits and . _ - alone, a letter first\nhint: NAME=my-bot"
            raise NewError(text) from None
        if self.name == recipe.DEFAULTS.stem:
            raise NewError(f"--name {self.name}: recipes/{self.name}.yaml holds the defaults\nhint: NAME=my-bot")
        if self.length is not None and self.length < LENGTHS[0] // 2:
            raise NewError(f"--length {self.length}: {LENGTHS[0] // 2} tokens are the least\nhint: LENGTH=2048")
        if self.epochs is not None and self.epochs <= 0:
            raise NewError(f"--epochs {self.epochs:g}: must be above 0\nhint: ARGS='--epochs 2'")
        for option, value, known in (
            ("template", self.template, list(encoding.TEMPLATES)),
            ("method", self.method, METHODS),
        ):
            if value is not None and value not in known:
                raise NewError(f"--{option} {value}: not known{nearest(value, known)}")


def written(
    name: str,
    sets: list[DataSet],
    found: Found,
    card: Card | None,
    asked: Asked,
    counts: list[int],
    refused: int,
    own_system: float,
) -> tuple[str, int]:
    """The recipe's text, and the tokens of one epoch. `counts`: of conversations looked at, besides `refused` rows."""
    rows = sum(len(one.rows) for one in sets)
    if rows < LEAST:
        raise NewError(f"{rows} row: one to train on and one to hold out are the least\nhint: some hundred are of use")
    length, why_length = _length(counts, new_base.longest(found), asked.length)
    # Longer ones are left out whole, so they are neither trained nor planned.
    kept = [count for count in counts if count <= length]
    usable = rows * len(kept) / (len(counts) + refused)
    tokens = usable * sum(kept) / len(kept)
    epochs, why_epochs = _epochs(int(usable), asked.epochs)
    adapter, lines = _adapter(found, card, asked, length, epochs, tokens)
    parts, shares = [], _shares([len(one.rows) for one in sets])
    held_out = min(0.1, max(0.005, round(200 / rows, 3)))
    context = max(length, min(8192, new_base.longest(found)))
    prompts = max(1, int(usable * (1 - held_out)) - 1)
    out = [
        f"# {name}: by `ingot new` from {', '.join(one.name for one in sets)} and {found.folder.name}; edit it freely.",
        "",
        f"name: {name}",
        f"template: {found.template}  # {found.why}",
        f"max_seq_length: {length}  # {why_length}",
        "",
        "raw:",
        "  datasets:",
    ]
    for one, share in zip(sets, shares, strict=True):
        source = {key: value for key, value in one.source.model_dump().items() if value is not None}
        out.append(f"    {one.name}: {flow(source)}")
        ignored = f", ignore: {flow(one.ignore)}" if one.ignore else ""
        parts.append(
            f"    {one.name}: {{share: {share}, columns: {flow(one.columns)}{ignored}}}  # {len(one.rows):,} rows"
        )
    out += ["", "base:", *(f"  {key}: {flow(value)}" for key, value in found.section.items())]
    out += [
        "",
        "dataset:",
        f"  total_samples: {rows}  # all rows; about {usable:,.0f} of them can be trained on",
        f"  eval_share: {held_out}  # about {max(1, round(rows * held_out)):,} rows are held out to measure",
        f"  system: {flow(asked.system or SYSTEM)}  # {_why_system(asked, own_system)}",
        "  mix:",
        *parts,
        "",
        "adapter:",
        *lines,
        f"  epochs: {epochs:g}  # {why_epochs}",
    ]
    if adapter.device == "cpu":
        out += ["", "merged:", "  device: cpu", "", "imatrix:", "  device: cpu"]
    out += ["", "modelfile:", f"  num_ctx: {context}  # the base sees {new_base.longest(found):,} tokens"]
    if adapter.device == "cpu" or prompts < PROMPTS:
        out += ["", "evaluation:"]
        out += ["  device: cpu"] if adapter.device == "cpu" else []
        out += [f"  prompts: {prompts}  # there are no more rows"] if prompts < PROMPTS else []
    return "\n".join(out) + "\n", int(tokens)


def _length(counts: list[int], most: int, asked: int | None) -> tuple[int, str]:
    """max_seq_length, and why."""
    counts = sorted(counts)
    wanted = counts[min(len(counts) - 1, int(COVERED * len(counts)))]
    length = asked or next((each for each in LENGTHS if each >= wanted), most)
    if asked and asked > most:
        raise NewError(f"--length {asked}: the base sees no more than {most:,} tokens\nhint: LENGTH={most}")
    cut = "" if length <= most else f"; the base sees no more than {most:,}"
    length = min(length, most)
    covered = sum(count <= length for count in counts) / len(counts)
    if not covered:
        raise NewError(
            f"{length} tokens: every conversation is longer (the shortest has {counts[0]:,}), and would be left out\n"
            f"hint: {f'LENGTH={counts[0]}' if counts[0] <= most else 'cut the rows'}"
        )
    how = f"{'as asked; ' if asked else ''}covers {covered:.1%} of {len(counts):,} conversations"
    return length, f"{how}{cut}; the longest has {counts[-1]:,} tokens"


def _epochs(rows: int, asked: float | None) -> tuple[float, str]:
    if asked:
        return asked, "as asked"
    few = next((epochs for below, epochs in EPOCHS if rows < below), 1)
    return few, f"{rows:,} rows: {'enough to be read once' if few == 1 else 'few rows are read several times'}"


def _adapter(
    found: Found, card: Card | None, asked: Asked, length: int, epochs: float, tokens: float
) -> tuple[Adapter, list[str]]:
    """The training's settings, and their lines in the recipe."""
    parameters, model = found.section["parameters"], found.config.get("model_type", "")
    values, lines = dict(read(recipe.DEFAULTS)["adapter"]), []
    if card and model not in UNSLOTH_MODELS:
        values["engine"] = "peft"
        lines.append(f"  engine: peft  # Unsloth does not train {model} soundly")
    if model == "phi3":
        values["target_modules"] = YAML(typ="safe").load(PHI)
        lines.append(f"  target_modules: {PHI}  # Phi's layers")
    sequences = max(1.0, tokens * epochs / length)
    rows = ROWS
    while rows > 2 and sequences / rows < UPDATES:
        rows //= 2
    why_rows = f"{rows} rows an update: about {max(1, round(sequences / rows)):,} updates"
    if not card:
        if parameters > CPU_LIMIT:
            raise NewError(
                f"{parameters / 1e9:.1f} B parameters train for days on a CPU, and no NVIDIA card is to be seen here\n"
                "hint: name the card that will train: GPU=rtx3090 (ingot/planning/cards.yaml lists them)"
            )
        values |= {
            "device": "cpu",
            "optimizer": "adamw_torch",
            "batch_size": min(4, rows),
            "method": asked.method or "lora",
        }
        values["accumulation"] = rows // values["batch_size"]
        lines += [
            "  device: cpu  # no NVIDIA card is to be seen here",
            f"  method: {values['method']}  # {'as asked' if asked.method else 'four bits save nothing on a CPU'}",
            "  optimizer: adamw_torch  # a CPU's",
            f"  batch_size: {values['batch_size']}",
            f"  accumulation: {values['accumulation']}  # {why_rows}",
        ]
        return Adapter(**values), lines
    values |= {"batch_size": rows, "accumulation": 1, "method": asked.method or "lora"}
    shape = found.config if "hidden_size" in found.config else None
    best = fit.fastest(Adapter(**values), parameters, length, shape, card)
    if asked.method is None:  # 16-bit weights only where they cost no speed: a merge folds into what was trained on
        four = fit.fastest(Adapter(**values | {"method": "qlora"}), parameters, length, shape, card)
        if four and (not best or best.length < length or best.rate < 0.95 * four.rate):
            best = four
    if not best or best.length < length:
        room = (
            f"{card.name} has room for {best.length} tokens, not for {length}" if best else f"nothing fits {card.name}"
        )
        shorter = f", or LENGTH={best.length}, and lose the longer rows" if best else ""
        raise NewError(f"{room}\nhint: take a smaller base, or a larger card{shorter}")
    made = best.adapter
    why = {
        "lora": "16-bit weights fit, as fast as 4-bit ones",
        "qlora": f"4-bit weights: what {card.name} trains fastest",
    }
    lines += [
        f"  method: {made.method}  # {'as asked' if asked.method else why.get(made.method, 'fits')}",
        f"  batch_size: {made.batch_size}  # at once: the fastest that fits {card.name}, "
        f"{(best.peak + fit.CONTEXT) / 1e9:.1f} of {card.bytes / 1e9:.1f} GB",
        f"  accumulation: {made.accumulation}  # {why_rows}",
    ]
    if made.gradient_checkpointing != values["gradient_checkpointing"]:
        lines.append(f"  gradient_checkpointing: {made.gradient_checkpointing}")
    return made, lines


def _shares(sizes: list[int]) -> list[float]:
    """By size, four digits each, together 1."""
    shares = [max(0.0001, round(size / sum(sizes), 4)) for size in sizes]
    largest = shares.index(max(shares))
    shares[largest] = round(1 - sum(share for place, share in enumerate(shares) if place != largest), 4)
    return shares


def _why_system(asked: Asked, own: float) -> str:
    if asked.system:
        return "as asked"
    return f"for rows without one; {own:.0%} of those looked at have their own" if own else "no row has one of its own"


def plain_name(text: str) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:80].lower()
    return name if re.match("[a-z]", name) else f"model-{name}"


def flow(value: Any) -> str:
    """A value as YAML on one line."""
    yaml, out = YAML(), io.StringIO()
    yaml.width, yaml.default_flow_style = 10_000, True
    yaml.dump(value, out)
    return re.sub(r"\n\.\.\.\n?$", "", out.getvalue()).strip()
