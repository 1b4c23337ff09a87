"""modelfile: how Ollama serves the model: template, system prompt, parameters and every stop.

Reads   params `modelfile`, `gguf`, `name`, `template`; build/gguf
Writes  build/modelfile/Modelfile
"""

from pathlib import Path

from ingot.artifact import output_folder, write_text
from ingot.inside import chat, ggufcheck, modelfile, progress
from ingot.inside.progress import StageError
from ingot.params.core import Name, Template, load
from ingot.params.gguf import Gguf
from ingot.params.modelfile import Modelfile

GGUF, OUT = Path("build/gguf"), Path("build/modelfile")


def main() -> None:
    params, name, template = load("modelfile", Modelfile), load("name", Name), load("template", Template)
    served = GGUF / f"{name}-{load('gguf', Gguf).types[0]}.gguf"
    with progress.stage("modelfile", f"describe how to serve {served.name}") as made, output_folder(OUT) as out:
        if not served.is_file():
            raise StageError(f"{served}: not there; run `dvc repro gguf`")
        check_end(served, template)
        text = modelfile.dump(
            modelfile.Modelfile(
                model=f"../gguf/{served.name}",
                template=chat.go_template(template),
                system=params.system,
                parameters={
                    "temperature": params.temperature,
                    "num_predict": params.num_predict,
                    "num_ctx": params.num_ctx,
                },
                stops=chat.STOPS[template],
            )
        )
        write_text(out / "Modelfile", text)
        made += [progress.quantity(len(chat.STOPS[template]), "stops"), progress.quantity(len(text), "characters")]


def check_end(served: Path, template: str) -> None:
    """The file's own end token must be the one that was trained, or answers would not end."""
    reader = ggufcheck.open_file(served)
    end = ggufcheck.field(reader, "tokenizer.ggml.tokens", ggufcheck.field(reader, "tokenizer.ggml.eos_token_id"))
    if end != chat.END_OF_TURN[template]:
        progress.console.print(
            f"  the file's end token is {end}; answers end with {chat.END_OF_TURN[template]}, which is a stop"
        )


if __name__ == "__main__":
    progress.start(main)
