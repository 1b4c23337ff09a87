"""gguf: quantise, one file for each type asked for.

Reads   params `gguf`, `name`; build/f16
Writes  build/gguf/NAME-TYPE.gguf
"""

from pathlib import Path

from ingot.artifact import output_folder
from ingot.inside import ggufcheck, llamacpp, progress
from ingot.inside.progress import StageError
from ingot.params.core import Name, load
from ingot.params.gguf import Gguf

F16, OUT = Path("build/f16"), Path("build/gguf")


def main() -> None:
    params, name = load("gguf", Gguf), load("name", Name)
    with progress.stage("gguf", f"quantise to {', '.join(params.types)}") as made, output_folder(OUT) as out:
        llamacpp.check()
        sources = sorted(F16.glob("*.gguf"))
        if len(sources) != 1:
            raise StageError(f"{F16} must hold one GGUF, not {len(sources)}: run `dvc repro f16`")
        for kind in params.types:
            path = out / f"{name}-{kind}.gguf"
            said = llamacpp.quantize(sources[0], path, kind)
            if fallbacks := ggufcheck.fallbacks(said):
                progress.console.print(
                    f"  {fallbacks} tensors have rows that are no multiple of 256: {kind} keeps them in another type"
                )
            made.append(f"{path.name} {progress.bytes_(path.stat().st_size)}")


if __name__ == "__main__":
    progress.start(main)
