"""Is this base model one that the whole pipeline can carry? Asked before anything is trained on it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ingot.chat import encoding, parity
from ingot.console.bounds import Broken, read_json
from ingot.console.progress import StageError, foreign
from ingot.exact.files import is_pointer, write_json
from ingot.llama import llamacpp
from ingot.model import tokenizer_files, weights

# What goes through every stage in tests/test_families.py, by the architecture in config.json.
ARCHITECTURES = {
    "Qwen2ForCausalLM": "Qwen2, Qwen2.5, DeepSeek-R1-Distill-Qwen",
    "Qwen3ForCausalLM": "Qwen3",
    "LlamaForCausalLM": "Llama 2, Llama 3.x, CodeLlama, DeepSeek-R1-Distill-Llama",
    "MistralForCausalLM": "Mistral 7B, Nemo, Small without eyes",
    "Gemma2ForCausalLM": "Gemma 2",
    "Gemma3ForCausalLM": "Gemma 3 without eyes (270M, 1B)",
    "Phi3ForCausalLM": "Phi-4 14B",
}
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
SENSES = ("vision_config", "audio_config")
INDEX = "model.safetensors.index.json"
# What old versions of transformers saved beside the weights, and each model computes for itself.
BUFFERS = ("rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached", "attn.bias", "attn.masked_bias")
# llama.cpp attends by a window in these; in the others it sees everything, whatever config.json says.
WINDOWED = ("Gemma2ForCausalLM", "Gemma3ForCausalLM")


# What a folder is that is no base, by a file in it, and what to do.
OTHERS = {
    "adapter_config.json": (
        "is an adapter (LoRA or another of PEFT's), which is nothing without its base",
        "merge it (PeftModel.merge_and_unload, then save_pretrained of model and tokenizer) and name that folder, or name its base",
    ),
    "trainer_state.json": (
        "is a checkpoint of a Trainer without a model's weights in safetensors",
        "save the model (trainer.save_model) with its tokenizer, and name that folder",
    ),
    "model_index.json": ("is a diffusion pipeline, no language model", "take a language model"),
    "sentence_bert_config.json": ("is a model of sentence embeddings: it cannot answer", "take a language model"),
}
# What is read of these files, here or by transformers, and of which types it is.
TYPES: dict[str, dict[str, tuple[type, ...]]] = {
    "tokenizer.json": {"model": (dict,), "added_tokens": (list,)},
    "tokenizer_config.json": {
        "model_max_length": (int, float), "added_tokens_decoder": (dict,), "bos_token": (str, dict), "eos_token": (str, dict),
        "pad_token": (str, dict), "unk_token": (str, dict), "tokenizer_class": (str,), "chat_template": (str, list),
    },
    "generation_config.json": {"eos_token_id": (int, list), "temperature": (int, float), "max_length": (int,)},
}  # fmt: skip
RIGHT = {int: "a number", float: "a fraction", str: "a text", dict: "a section", list: "a list"}
UNFINISHED = (".incomplete", ".part", ".crdownload", ".aria2", ".download")
LARGEST = 2**40  # of the numbers in a config.json
LAYERS = 2000


def check_kind(names: Iterable[str], what: str) -> None:
    """Raise StageError where a folder or repository, by its files, is something else than a base: by what it is."""
    names = set(names)
    whole = [name for name in names if "/" not in name and name.endswith(".safetensors")]
    if any(name.startswith("model") for name in whole) and "adapter_config.json" not in names:
        return
    checkpoints = sorted({name.split("/")[0] for name in names if re.match(r"checkpoint-\d+(/|$)", name)}, key=_number)
    for name, (kind, hint) in OTHERS.items():
        if name in names:
            raise StageError(f"{what}: it {kind}\nhint: {hint}")
    if checkpoints:
        raise StageError(
            f"{what}: it is the folder of a training run; its models lie in {', '.join(checkpoints[-3:])}\n"
            f"hint: name one of them, as {what}/{checkpoints[-1]}, or what trainer.save_model wrote"
        )
    if inner := sorted(name.rsplit("/", 1)[0] for name in names if name.endswith("/config.json")):
        raise StageError(f"{what}: it holds a model in {inner[-1]}\nhint: name that folder: {what}/{inner[-1]}")
    if inner := sorted(name for name in names if name.endswith("/adapter_config.json")):
        raise StageError(
            f"{what}: {inner[0]}: it {OTHERS['adapter_config.json'][0]}\nhint: {OTHERS['adapter_config.json'][1]}"
        )
    if found := sorted(name for name in names if name.endswith(UNFINISHED)):
        raise StageError(
            f"{what}: {found[0]}: is a download that did not end\nhint: download the repository again, to its end"
        )
    if found := sorted(name for name in names if re.match(r"consolidated.*\.(pth|safetensors)$", name)):
        raise StageError(
            f"{what}: {found[0]}: is in the form that the model's makers use themselves, not transformers'\n"
            "hint: take the repository with model.safetensors, which for Llama 2 ends in -hf"
        )
    for suffix, kind in (
        (".gguf", "GGUF"),
        (".onnx", "ONNX"),
        (".npz", "MLX"),
        (".h5", "TensorFlow"),
        (".msgpack", "Flax"),
    ):
        if found := sorted(name for name in names if name.endswith(suffix)):
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise StageError(
                f"{what}: its weights are {kind} files ({found[0]}{more}), which training cannot start from\n"
                "hint: take the 16-bit safetensors repository that they were made from"
            )


def _number(name: str) -> int:
    return int(re.search(r"\d+", name)[0])


def check_files(folder: Path) -> None:
    """Raise StageError where something else has been saved in a file's place: Git LFS's pointer, a hub's web page."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in (".safetensors", ".json"):
            with path.open("rb") as file:
                if file.read(200).lstrip().lower().startswith((b"<!doctype", b"<html")):
                    raise StageError(
                        f"{path}: is a web page, not the file itself\nhint: download it again, as with `hf download`"
                    )
    if found := sorted(path.name for path in folder.iterdir() if path.is_file() and is_pointer(path)):
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise StageError(
            f"{folder}: {found[0]}{more}: is a pointer of Git LFS, not the file itself\n"
            "hint: run `git lfs install` and `git lfs pull` in the repository that it comes from"
        )


def check_config(folder: Path) -> dict:
    """config.json, when what is read of it is of the right types and sizes. Raises StageError that names the key."""
    config, path = _json(folder / "config.json"), folder / "config.json"

    def wrong(key: str, value: Any, right: str) -> StageError:
        shown = repr(value)
        return StageError(f"{path}: {key}: {shown[:80]}: must be {right}\nhint: fetch the base again")

    names = config.get("architectures", [])
    if not (names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names))):
        raise wrong("architectures", names, "a list of names")
    for key, kind, right in (
        ("quantization_config", dict, "a section"),
        ("model_type", str, "a name"),
        ("vocab_size", int, "a number"),
        ("sliding_window", int, "a number"),
        ("max_position_embeddings", int, "a number"),
        ("tie_word_embeddings", bool, "true or false"),
    ):
        if config.get(key) is not None and type(config[key]) is not kind:
            raise wrong(key, config[key], right)
    for key, value in config.items():
        if key.startswith(("num_", "hidden_", "intermediate_")) and key.endswith(("_layers", "_size", "_heads")):
            most = LAYERS if key.endswith("_layers") else 2**24
            if value is not None and not (type(value) is int and 0 <= value <= most):
                raise wrong(key, value, f"a number from 0 to {most:,}")
        if isinstance(value, int | float) and not abs(value) <= LARGEST:
            raise wrong(key, value, f"a number up to {LARGEST:,}")
    return config


def tidy(folder: Path) -> list[str]:
    """Leave out what transformers would not read and later stages would trip over. Returns a line for each such thing.

    A stale index beside a whole file (its shards are not there), and buffers that are no weights.
    """
    check_files(folder)
    done, index = [], folder / INDEX
    listed = _listed(folder)
    if (folder / "model.safetensors").is_file() and listed and not any((folder / name).is_file() for name in listed):
        index.unlink()
        done.append(
            f"left out {INDEX}: it lists {len(listed)} files that are not there, and model.safetensors is whole"
        )
    for path, names in _names(folder).items():
        if buffers := {name for name in names if name.endswith(BUFFERS)}:
            weights.leave_out(path, buffers)
            done.append(f"left out {len(buffers)} tensors of {path.name} that are no weights, such as {min(buffers)}")
            if listed and index.is_file():
                content = _json(index)
                content["weight_map"] = {key: to for key, to in content["weight_map"].items() if key not in buffers}
                write_json(index, content)
    return done


def _listed(folder: Path) -> set[str]:
    """The files that the index names; none where there is no index."""
    index = folder / INDEX
    found = _json(index).get("weight_map", {}) if index.is_file() else {}
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise StageError(f"{index}: its weight_map is no list of files\nhint: fetch the base again")
    return set(found.values())


def _names(folder: Path) -> dict[Path, list[str]]:
    """The tensors of each safetensors file."""
    return {path: list(found) for path, found in _headers(folder).items()}


def check(folder: Path, template: str, length: int) -> int:
    """Raise StageError, naming what is missing, unless the folder is a complete base that every stage can carry.

    `length`: the longest conversation, in tokens. Returns the number of parameters in its safetensors files.
    """
    with foreign(f"{folder}: cannot be read as a base", "fetch it again, or take another"):
        config = check_config(folder)
        check_architecture(folder, config)
        check_window(folder, length)
        _check_files(folder)
        for name, kinds in TYPES.items():
            content = _json(folder / name) if (folder / name).is_file() else {}
            for key, kind in kinds.items():
                if (value := content.get(key)) is not None and type(value) not in kind:
                    right = " or ".join(RIGHT[one] for one in kind)
                    raise StageError(
                        f"{folder / name}: {key}: {value!r:.80}: must be {right}\nhint: fetch the base again"
                    )
        tokenizer = encoding.load_tokenizer(folder)
        encoding.check_template(tokenizer, template)
        tensors = _tensors(folder)
        _check_rows(folder, config, tensors, len(tokenizer))
        _check_tensors(folder, tensors)
        _check_converted(folder, template)
        return weights.parameters(folder)


def untrained_end(folder: Path, template: str) -> str | None:
    """A warning where the base never learnt to end a turn, as one that was never tuned to chat has not."""
    end = encoding.END_OF_TURN[template]
    tokens = {one["content"]: one["id"] for one in _json(folder / "tokenizer.json").get("added_tokens", [])}
    if end not in tokens or not (why := weights.untrained(folder, tokens[end])):
        return None
    return (
        f"the base was never trained on {end}, which ends an answer in template {template}: {why}\n"
        "  hint: it takes some hundred updates until answers end; or take the instruct model of this base, or a template "
        "whose end token it knows"
    )


def check_architecture(folder: Path, config: dict) -> None:
    """Raise StageError, with the reason, unless the architecture is one that is carried."""
    name = (config.get("architectures") or ["none"])[0]
    section = config.get("quantization_config")
    method = (section or {}).get("quant_method") or ("by a method without a name" if section is not None else None)
    if not method and (key := next((key for key in ("quantization", "compression_config") if key in config), None)):
        method = "MLX" if key == "quantization" else key
    if method:
        why = f"its weights are quantised ({str(method)[:40]}); take the 16-bit repository that they were made from"
    elif name in ARCHITECTURES:
        return
    elif any(config.get(key) for key in EXPERTS):
        why = (
            "it is a mixture of experts: transformers keeps a layer's experts stacked in one tensor, no linear layers that "
            "an adapter could target or a merge fold back"
        )
    elif any(key in config for key in SENSES) or name.endswith("ForConditionalGeneration"):
        why = (
            "it sees or hears: only its text part would be converted, under tensor names that the adapter does not have"
        )
    elif not name.endswith("ForCausalLM"):
        why = "it is no causal language model: it cannot answer"
    else:
        why = "nothing proves that it comes through training, merge and conversion unchanged"
    raise StageError(
        f"{folder}: the architecture {name} is not carried: {why}. Those that are: "
        + "; ".join(f"{known} ({families})" for known, families in ARCHITECTURES.items())
    )


def window(folder: Path) -> int | None:
    """How many tokens back the model sees in training but not in llama.cpp; None where both see the same."""
    config = load_config(folder)
    return None if config.architectures[0] in WINDOWED else getattr(config, "sliding_window", None)


def load_config(folder: Path):
    """config.json as transformers reads it; never by code of the folder's own."""
    from transformers import AutoConfig

    with foreign(f"{folder}/config.json: transformers cannot read it", "fetch the base again, or take another"):
        return AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)


def check_window(folder: Path, length: int) -> None:
    """Raise StageError where training would see less of a conversation than llama.cpp does."""
    if (seen := window(folder)) and seen < length:
        raise StageError(
            f"{folder}: sliding_window is {seen}, shorter than max_seq_length ({length}), and llama.cpp ignores it\n"
            f"hint: set max_seq_length to {seen} or less"
        )


def _check_files(folder: Path) -> None:
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise StageError(
            f"{folder}: no model*.safetensors; pickled weights (.bin, .pt) are not read, for they can run code"
        )
    index = folder / INDEX
    if len(weights) > 1 or index.is_file():
        listed = _listed(folder)
        present = {path.name for path in weights}
        if missing := sorted(listed - present):
            raise StageError(
                f"{folder}: {index.name} lists {', '.join(missing)}, which is not there: fetch the base again"
            )
        if extra := sorted(present - listed):
            raise StageError(
                f"{folder}: {', '.join(extra)} is in no {index.name}; the converter would merge it in: remove it"
            )
    if not (folder / "tokenizer.json").is_file():
        beside = " beside tokenizer.model" if (folder / "tokenizer.model").is_file() else ""
        raise StageError(
            f"{folder}: no tokenizer.json{beside}, and all stages read that one\nhint: {encoding.MAKES_ONE}"
        )
    if not (folder / "tokenizer_config.json").is_file():
        raise StageError(
            f"{folder}: no tokenizer_config.json: without it the converter writes no chat template and no BOS; take the "
            "file from the model's own repository"
        )


def _tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Each tensor's type, as safetensors calls it, and shape."""
    found = {}
    for path, some in _headers(folder).items():
        if twice := found.keys() & some.keys():
            raise StageError(
                f"{path}: {min(twice)} is in another file, too\nhint: remove the file that is not the model's"
            )
        found |= some
    return found


def _headers(folder: Path) -> dict[Path, dict[str, tuple[str, tuple[int, ...]]]]:
    """The same of each file."""
    from safetensors import SafetensorError, safe_open

    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(str(path), framework="numpy") as file:
                parts = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
                found[path] = {key: (part.get_dtype(), tuple(part.get_shape())) for key, part in parts.items()}
        except SafetensorError as error:
            raise StageError(f"{path}: damaged or cut off ({error}): fetch the base again") from None
    return found


def _check_rows(folder: Path, config: dict, tensors: dict, tokens: int) -> None:
    """Tokens, config.json and the embedding itself must agree: what lies beyond would be read out of bounds."""
    vocabulary = config.get("vocab_size")
    rows = next((shape[0] for name, (_, shape) in tensors.items() if name.endswith("embed_tokens.weight")), None)
    if rows != vocabulary or vocabulary is None:
        raise StageError(
            f"{folder}: config.json says vocab_size {vocabulary}, but the embedding has {rows} rows: the files are not of "
            "one model; fetch the base again"
        )
    if tokens > vocabulary:
        raise StageError(
            f"{folder}: the tokenizer has {tokens} tokens but the embedding only {vocabulary} rows: "
            "tokens beyond them would be read out of bounds"
        )


def _check_tensors(folder: Path, tensors: dict) -> None:
    """Every weight that the architecture has must be there, of its shape, 16 or 32 bits wide, and finite: transformers
    would draw missing ones at random, and say so among its notes alone.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config, hint = load_config(folder), "fetch the base again, or take another"
    with foreign(f"{folder}/config.json: no model can be made by it", hint), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    if packed := [name for name in tensors if name.endswith((".qweight", ".qzeros"))]:
        raise StageError(
            f"{folder}: {min(packed)}: its weights are quantised (by GPTQ or AWQ)\n"
            "hint: take the 16-bit repository that they were made from"
        )
    if strange := sorted(tensors.keys() - model.state_dict().keys()):
        raise StageError(
            f"{folder}: {strange[0]} is no tensor of {type(model).__name__} ({len(strange)} such): a merge would keep it, "
            "and no GGUF can hold it\nhint: take the 16-bit weights of the plain language model"
        )
    if "lm_head.weight" in tensors and getattr(model.config, "tie_word_embeddings", False) and not _tied(folder):
        raise StageError(
            f"{folder}: lm_head.weight is not the embedding, but config.json ties them: transformers would train with one, "
            "llama.cpp serve with the other\nhint: set tie_word_embeddings to false, or take the original files"
        )
    for name, weight in model.named_parameters():  # of tied ones the first alone
        if name not in tensors:
            raise StageError(f"{folder}: {name} is missing, which config.json asks for: fetch the base again")
        dtype, shape = tensors[name]
        if shape != tuple(weight.shape):
            raise StageError(
                f"{folder}: {name} is {list(shape)}, by config.json it is {list(weight.shape)}: the files are not of one "
                "model; fetch the base again"
            )
        if dtype not in ("BF16", "F16", "F32"):
            raise StageError(f"{folder}: {name} is {dtype}; take a base in 16 or 32 bits")
    if name := weights.not_finite(folder):
        raise StageError(f"{folder}: {name} holds NaN or infinity: the base is damaged; fetch it again")


def _tied(folder: Path) -> bool:
    """Whether the output's matrix, which has a copy of its own, is the embedding."""
    import torch

    pair = [
        tensor for name, tensor in weights.tensors_of(folder) if name in ("lm_head.weight", "model.embed_tokens.weight")
    ]
    return len(pair) == 2 and torch.equal(*pair)


def _check_converted(folder: Path, template: str) -> None:
    """Let the real converter read config and vocabulary, then the real engines render by them, before any training."""
    with tempfile.TemporaryDirectory() as scratch:
        model, vocabulary = Path(scratch) / "model", Path(scratch) / "vocabulary.gguf"
        model.mkdir()
        tokenizer_files.files(folder, encoding.jinja(template), model)
        (model / INDEX).unlink(missing_ok=True)  # the converter would open the shards that it lists
        try:
            llamacpp.convert(model, vocabulary, "vocabulary", "f16", vocabulary_only=True)
        except StageError as error:
            said = str(error)
            known = "pre-tokenizer was not recognized" not in said and "get_vocab_base_pre" not in said
            reason = "cannot read its vocabulary" if known else "does not know its pre-tokenizer"
            raise StageError(
                f"{folder}: this base cannot become a GGUF: llama.cpp's converter {reason}{_saved_anew(folder)}. Choose "
                f"another base. The converter said:\n{said}"
            ) from None
        try:
            parity.check(
                model, encoding.jinja(template), vocabulary, encoding.go_template(template), "Answer briefly.", template
            )
        except StageError as error:
            raise StageError(
                f"{folder}: its tokenizer, as it was trained with, and the one that its GGUF would carry do not agree"
                f"{_saved_anew(folder)}. Choose another base, or template.\n{error}"
            ) from None


def _saved_anew(folder: Path) -> str:
    if _json(folder / "tokenizer_config.json").get("tokenizer_class") != "TokenizersBackend":
        return ""
    return " (transformers 5 has saved its tokenizer anew, without what the converter reads: take the original's files)"


def _json(path: Path) -> dict:
    if not path.is_file():
        raise StageError(f"{path}: missing; the folder is no complete model repository")
    try:
        return read_json(path, "fetch the base again")
    except Broken as error:
        raise StageError(str(error)) from None
