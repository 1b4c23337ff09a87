"""The files of a base's folder: which there must be, which are left out, what the headers of weights say."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ingot.console.bounds import Broken, read_json
from ingot.console.progress import StageError
from ingot.exact.files import is_pointer, write_json
from ingot.model import weights

INDEX = "model.safetensors.index.json"
# What old versions of transformers saved beside the weights, and each model computes for itself.
BUFFERS = ("rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached", "attn.bias", "attn.masked_bias")

# What a folder is that is no base, by a file in it, and what to do.
OTHERS = {
    "adapter_config.json": (
        "is an adapter (LoRA or another of PEFT's), which is nothing without its base",
        (
            "merge it (PeftModel.merge_and_unload, then save_pretrained of model and tokenizer) and name that folder, "
            "or name its base"
        ),
    ),
    "trainer_state.json": (
        "is a checkpoint of a Trainer without a model's weights in safetensors",
        "save the model (trainer.save_model) with its tokenizer, and name that folder",
    ),
    "model_index.json": ("is a diffusion pipeline, no language model", "take a language model"),
    "sentence_bert_config.json": ("is a model of sentence embeddings: it cannot answer", "take a language model"),
}
UNFINISHED = (".incomplete", ".part", ".crdownload", ".aria2", ".download")


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


def tidy(folder: Path) -> list[str]:
    """Leave out what transformers would not read and later stages would trip over. Returns a line for each such thing.

    A stale index beside a whole file (its shards are not there), and buffers that are no weights.
    """
    check_files(folder)
    done, index = [], folder / INDEX
    listed = in_index(folder)
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
                content = json_of(index)
                content["weight_map"] = {key: to for key, to in content["weight_map"].items() if key not in buffers}
                write_json(index, content)
    return done


def in_index(folder: Path) -> set[str]:
    """The files that the index names; none where there is no index."""
    index = folder / INDEX
    found = json_of(index).get("weight_map", {}) if index.is_file() else {}
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise StageError(f"{index}: its weight_map is no list of files\nhint: fetch the base again")
    return set(found.values())


def _names(folder: Path) -> dict[Path, list[str]]:
    """The tensors of each safetensors file."""
    return {path: list(found) for path, found in headers(folder).items()}


def headers(folder: Path) -> dict[Path, dict[str, tuple[str, tuple[int, ...]]]]:
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


def json_of(path: Path) -> dict:
    if not path.is_file():
        raise StageError(f"{path}: missing; the folder is no complete model repository")
    try:
        return read_json(path, "fetch the base again")
    except Broken as error:
        raise StageError(str(error)) from None
