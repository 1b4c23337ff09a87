"""modelfile: how Ollama serves the model, and the proof that every server renders what was trained on.

Reads   params `modelfile`, `gguf`, `name`, `template`; the served file of build/gguf, build/base (tokenizer, config),
        build/dataset/chat_template.jinja (the template that was trained on)
Writes  build/modelfile/Modelfile: template, system prompt, parameters and every stop;
        build/modelfile/parity.json: conversations as text and token ids, on which all servers agree
"""

from pathlib import Path

from ingot.chat import encoding, parity, render
from ingot.console import progress
from ingot.console.progress import StageError
from ingot.exact.files import output_folder, write_json, write_text
from ingot.llama import llamacpp
from ingot.llama.params import Gguf
from ingot.model import base_check
from ingot.params.core import Name, Template, load
from ingot.serving import modelfile
from ingot.serving.params import Modelfile

BASE, DATASET, GGUF, OUT = Path("build/base"), Path("build/dataset"), Path("build/gguf"), Path("build/modelfile")


def main() -> None:
    params, name, template = load("modelfile", Modelfile), load("name", Name), load("template", Template)
    served = GGUF / f"{name}-{load('gguf', Gguf).types[0]}.gguf"
    with progress.stage("modelfile", f"describe how to serve {served.name}") as made, output_folder(OUT) as out:
        llamacpp.check()
        base_check.check_context(BASE, params.num_ctx)
        if not served.is_file():
            raise StageError(f"{served}: not there; run `dvc repro gguf`")
        text = modelfile.dump(
            modelfile.Modelfile(
                model=f"../gguf/{served.name}",
                template=encoding.go_template(template),
                system=params.system,
                parameters={
                    "temperature": params.temperature,
                    "repeat_penalty": params.repeat_penalty,
                    "num_predict": params.num_predict,
                    "num_ctx": params.num_ctx,
                },
                stops=encoding.STOPS[template],
            )
        )
        written = modelfile.load(text)
        check_end(served, encoding.END_OF_TURN[template], written.stops)
        source = (DATASET / "chat_template.jinja").read_text(encoding="utf-8")
        proven = parity.check(BASE, source, served, written.template, written.system, template)
        write_text(out / "Modelfile", text)
        write_json(out / "parity.json", proven)
        made += [
            progress.quantity(len(written.stops), "stops"),
            progress.quantity(
                len(proven["conversations"]),
                "conversations rendered alike by Transformers, llama.cpp and Ollama's engine",
            ),
        ]


def check_end(served: Path, end: str, stops: list[str]) -> None:
    """Raise StageError unless answers end at the token that was trained, by the file itself and by the Modelfile."""
    if end not in stops:
        raise StageError(
            f"the Modelfile has no stop {end}, with which every answer was trained to end: answers would go on"
        )
    if not render.ends(served, end):
        raise StageError(
            f"{served.name}: {end}, with which every answer was trained to end, is no end token of the file's "
            "vocabulary (EOS, EOT): llama.cpp would answer on; choose a base whose vocabulary has it as a control token"
        )


if __name__ == "__main__":
    progress.start(main)
