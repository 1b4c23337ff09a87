"""gguf: quantise to one type; dvc.yaml has this stage once for each of gguf.types, so that adding one makes that one.

Reads   the type (dvc.yaml gives it), params `name`; build/f16, build/imatrix
Writes  build/gguf/NAME-TYPE.gguf
"""

import sys
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ingot.console import progress
from ingot.console.progress import StageError
from ingot.exact.files import output_file
from ingot.llama import gguf_check, llamacpp
from ingot.llama.params import Quant
from ingot.params.core import Name, load

F16, IMATRIX, OUT = Path("build/f16"), Path("build/imatrix"), Path("build/gguf")


def main() -> None:
    kind, name = asked(sys.argv[1:]), load("name", Name)
    with (
        progress.stage("gguf", f"quantise to {kind}") as made,
        output_file(OUT / f"{name}-{kind}.gguf") as out,
    ):
        llamacpp.check()
        sources = sorted(F16.glob("*.gguf"))
        if len(sources) != 1:
            raise StageError(f"{F16} must hold one GGUF, not {len(sources)}: run `dvc repro f16`")
        matrix = IMATRIX / "imatrix.gguf"
        try:
            llamacpp.quantize(sources[0], out, kind, matrix if matrix.is_file() else None)
        except StageError as error:
            if kind == "F16" and "found inf value" in str(error):
                raise StageError(
                    "gguf.types: F16: a value does not fit f16, so the 16-bit file is bf16: take BF16"
                ) from None
            raise
        if fallbacks := gguf_check.fallbacks(out, kind):
            progress.console.print(
                f"  {fallbacks} tensors are kept in another type than {kind}: their rows do not fit its blocks"
            )
        made += [progress.bytes_(out.stat().st_size), progress.quantity(fallbacks, "tensors in another type")]
        if matrix.is_file():
            made.append("by the importance matrix")


def asked(words: list[str]) -> str:
    try:
        [kind] = words
        return TypeAdapter(Quant).validate_python(kind)
    except (ValueError, ValidationError):
        raise StageError(f"python -m stages.gguf TYPE, not {' '.join(words) or 'nothing'}: one of gguf.types") from None


if __name__ == "__main__":
    progress.start(main)
