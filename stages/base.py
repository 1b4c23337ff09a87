"""base: fetch the model to start from, and make sure that the rest of the pipeline can carry it.

Reads   params `base`, `max_seq_length`, `template`; models/ for a local path, the hub (network) for a repository
Writes  build/base/: config, safetensors and tokenizer files, as a model repository holds them
"""

import shutil
from pathlib import Path

from ingot.console import progress
from ingot.console.progress import StageError
from ingot.exact.files import linked_folder, output_folder, size_of
from ingot.llama import llamacpp
from ingot.model import base_check, base_files, tiny
from ingot.model.params import Base
from ingot.params.core import SequenceLength, Template, load
from ingot.sources import downloads, hub

OUT = Path("build/base")
# No README: the converter would take metadata from its front matter. No pickles, no second copy in another format:
# Mistral's repositories hold one as consolidated.safetensors.
FILES = ["model*.safetensors", "model.safetensors.index.json", "config.json", "generation_config.json"]
FILES += ["tokenizer.json", "tokenizer_config.json", "tokenizer.model*", "special_tokens_map.json", "added_tokens.json"]
FILES += ["vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json"]


def main() -> None:
    params = load("base", Base)
    origin = {"tiny": "draw a tiny Qwen2", "hub": f"fetch {params.repo}", "local": f"copy {params.path}"}[params.source]
    with progress.stage("base", f"{origin}, check that it can be converted") as made, output_folder(OUT) as out:
        llamacpp.check()
        if params.source == "tiny":
            tiny.make(out, params.tiny, llamacpp.SOURCE / "models")
        elif params.source == "hub":
            base_files.check_kind(hub.Snapshot(params.repo, params.revision, "model").files(), params.repo)
            hub.fetch(params.repo, params.revision, "model", out, FILES)
        else:
            copy(Path(params.path), out)
        try:
            for line in base_files.tidy(out):
                progress.console.print(f"  {line}", markup=False)
            length = load("max_seq_length", SequenceLength)
            template = load("template", Template)
            parameters = base_check.check(out, template, length)
            if seen := base_check.window(out):
                progress.console.print(
                    f"  its sliding_window is {seen:,} tokens, which llama.cpp ignores: "
                    "modelfile.num_ctx may not be larger"
                )
            if params.source != "tiny" and (warning := base_check.untrained_end(out, template)):
                progress.console.print(f"  {warning}", markup=False)
        except StageError as error:  # of what the user named, not of a folder that is about to go
            named = {"tiny": "the tiny base", "hub": params.repo, "local": params.path}[params.source]
            raise StageError(str(error).replace(str(out), str(named))) from None
        if abs(parameters / params.parameters - 1) > 0.05:
            raise StageError(
                f"base.parameters: {params.parameters:,}: the base has {parameters:,}; "
                "disk and memory are planned by this number, so correct it"
            )
        made += [progress.quantity(parameters, "parameters"), progress.bytes_(size_of(out))]
    downloads.keep_only("model", [(params.repo, params.revision)] if params.source == "hub" else [])


def copy(source: Path, out: Path) -> None:
    """The files of a local model folder that a base consists of, whatever links lead to them."""
    if link := linked_folder(source):
        raise StageError(f"base.path: {link} is a link to a folder; link the files in it, or copy it")
    if source.is_file():
        raise StageError(f"base.path: {source}: is a file\nhint: name the folder of a 16-bit model's repository")
    if not source.is_dir():
        raise StageError(f"base.path: {source}: no such folder; put the model's repository there")
    inside = [path.relative_to(source).as_posix() for deep in ("*", "*/*", "*/*/*") for path in source.glob(deep)]
    base_files.check_kind(inside, str(source))
    for pattern in FILES:
        for path in sorted(source.glob(pattern)):
            if path.is_file():
                shutil.copyfile(path, out / path.name)


if __name__ == "__main__":
    progress.start(main)
