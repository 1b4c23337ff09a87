"""All of params.yaml: every section, and what must hold between them. Used before anything runs, never by a stage."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import get_args

from pydantic import TypeAdapter, ValidationError

from ingot.data.params import Dataset
from ingot.llama.params import F16, ByImportance, Gguf, Imatrix
from ingot.model.params import Base, Merged
from ingot.params.core import (
    PARAMS_FILE,
    UNPINNED,
    Name,
    ParamsError,
    Section,
    Seed,
    SequenceLength,
    Template,
    faults_of,
    nearest,
    read,
)
from ingot.proof.params import Evaluation
from ingot.sealing.params import Container
from ingot.serving.params import Card, Modelfile
from ingot.sources.params import Raw
from ingot.training.params import VIRTUAL, Adapter


class Params(Section):
    name: Name
    seed: Seed
    max_seq_length: SequenceLength
    template: Template
    raw: Raw
    base: Base
    dataset: Dataset
    adapter: Adapter
    merged: Merged
    f16: F16
    imatrix: Imatrix
    gguf: Gguf
    modelfile: Modelfile
    evaluation: Evaluation
    card: Card
    container: Container

    @property
    def uses_cuda(self) -> bool:
        return "cuda" in (self.adapter.device, self.merged.device, self.imatrix.device, self.evaluation.device)


def validate(path: Path = PARAMS_FILE) -> Params:
    """The file, whole and sound. Raises ParamsError with every fault at once."""
    return checked(read(path), path)


def checked(data: dict, path: Path) -> Params:
    """The same of what a file holds, or would."""
    known = list(Params.model_fields)
    faults = [f"{key}: unknown section{nearest(key, known)}" for key in data if key not in known]
    parsed = {}
    for key, field in Params.model_fields.items():
        if key not in data:
            faults.append(f"{key}: missing; no default stands in the code, so write it")
            continue
        kind = TypeAdapter(field.rebuild_annotation())
        try:
            parsed[key] = kind.validate_python(data[key])
        except ValidationError as error:
            faults += faults_of(key, error)
    faults += _between(parsed)
    if faults:
        raise ParamsError(faults, path)
    return Params.model_construct(**parsed)


def unpinned(params: Params) -> list[str]:
    """The keys whose commit is still to be pinned: no build can start from them."""
    keys = [
        f"raw.datasets.{name}.revision" for name, source in params.raw.datasets.items() if source.revision == UNPINNED
    ]
    return [*keys, *(["base.revision"] if params.base.revision == UNPINNED else [])]


def no_gguf(params: Params) -> str | None:
    """Why these params can be trained but never merged, or None."""
    if params.adapter.method not in VIRTUAL:
        return None
    return (
        f"adapter.method: {params.adapter.method!r}: its virtual tokens stand beside the weights, so no GGUF can hold "
        "them: `make train` trains and measures it; for a GGUF take qlora, lora, dora, ia3 or full"
    )


def _not_on_nf4(adapter: Adapter) -> str:
    """What says that training is not on NF4 with double quantisation; empty where it is."""
    if adapter.method == "qlora" and adapter.double_quant:
        return ""
    return f"adapter.method is {adapter.method!r}, double_quant {str(adapter.double_quant).lower()}"


def _between(parsed: dict) -> list[str]:
    """Faults between sections, as far as those sections are sound by themselves."""
    faults = []
    if {"raw", "dataset"} <= parsed.keys():
        fetched = list(parsed["raw"].datasets)
        faults += [
            f"dataset.mix.{name}: raw.datasets has no such dataset{nearest(name, fetched)}"
            for name in parsed["dataset"].mix
            if name not in fetched
        ]
    if "adapter" in parsed and (other := _not_on_nf4(parsed["adapter"])):
        if "merged" in parsed and parsed["merged"].base == "nf4":
            faults.append(f"merged.base: 'nf4' is what a qlora with double_quant trains on; {other}: take original")
        if "evaluation" in parsed and parsed["evaluation"].merge_bases:
            faults.append(
                "evaluation.merge_bases: true: compares the two weights that a qlora with double_quant can be merged "
                f"into; {other}: set it to false"
            )
    if {"gguf", "imatrix"} <= parsed.keys() and parsed["imatrix"].text == "none":
        faults += [
            f"gguf.types: {kind}: rounds by an importance matrix, and imatrix.text is none: set it to train"
            for kind in parsed["gguf"].types
            if kind in get_args(ByImportance)
        ]
    if {"evaluation", "dataset"} <= parsed.keys() and parsed["evaluation"].prompts > parsed["dataset"].total_samples:
        faults.append(
            f"evaluation.prompts: {parsed['evaluation'].prompts}: dataset.total_samples gives "
            f"{parsed['dataset'].total_samples} at most"
        )
    if {"evaluation", "modelfile"} <= parsed.keys():
        score, context = parsed["evaluation"].score, parsed["modelfile"].num_ctx
        if score and score.tokens >= context:
            faults.append(
                f"evaluation.score.tokens: answers of that length fill the context of {context:,} tokens "
                f"({score.tokens:,})\n"
                "  hint: lower it, or raise modelfile.num_ctx"
            )
    if {"modelfile", "dataset"} <= parsed.keys() and parsed["dataset"].clean.unicode == "NFKC":
        system = parsed["modelfile"].system
        if (trained := unicodedata.normalize("NFKC", system)) != system:
            faults.append(
                "modelfile.system: holds forms that dataset.clean.unicode (NFKC) replaces in what is trained: "
                f"write {trained[:80]!r}"
            )
    if {"modelfile", "max_seq_length"} <= parsed.keys() and parsed["modelfile"].num_ctx < parsed["max_seq_length"]:
        faults.append(
            f"modelfile.num_ctx: {parsed['modelfile'].num_ctx}: less than max_seq_length ({parsed['max_seq_length']}): "
            "Ollama would cut conversations that the model was trained on"
        )
    return faults
