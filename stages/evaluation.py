"""evaluation: what every step from base to file keeps of the model that was trained, and the final file's own answers.

Reads   params `evaluation`, `adapter`, `gguf`, `merged`, `name`; build/base, dataset, adapter, merged, f16,
        imatrix, gguf, modelfile
Writes  reports/evaluation.json (all figures), reports/metrics.json (the few of the served file that DVC compares),
        reports/evaluation/ledger.tsv (the plots), build/evaluation/answers.json (every question put to the file), with
        evaluation.score also score.json
Fails   when a figure is beyond evaluation.limits, word_for_word or score.least, after the figures are shown
"""

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ingot.chat import token_files
from ingot.chat.encoding import Encoded
from ingot.console import progress
from ingot.exact import pins
from ingot.exact.files import output_folder, size_of, write_json, write_text
from ingot.llama import gguf_check, llamacpp
from ingot.llama.params import Gguf
from ingot.model.params import Merged
from ingot.params.core import Name, load
from ingot.proof import answers, ledger, measure, score
from ingot.proof.ledger import Boundary
from ingot.proof.params import Evaluation
from ingot.serving import modelfile
from ingot.training.params import Adapter

BUILD = Path("build")
DATASET = BUILD / "dataset"
BASE, ADAPTER, MERGED, F16 = BUILD / "base", BUILD / "adapter", BUILD / "merged", BUILD / "f16"
IMATRIX = BUILD / "imatrix" / "imatrix.gguf"
OUT, PLOT = BUILD / "evaluation", Path("reports/evaluation/ledger.tsv")
REPORT, METRICS = Path("reports/evaluation.json"), Path("reports/metrics.json")


def main() -> None:
    params, types = load("evaluation", Evaluation), load("gguf", Gguf).types
    with progress.stage("evaluation", "measure every boundary and try the final file out") as made:
        llamacpp.check()
        pins.seed_everything(0)
        source = (DATASET / "chat_template.jinja").read_text(encoding="utf-8")
        trained_on, held_out = [*islice(lines("train"), params.prompts)], [*islice(lines("eval"), params.rows)]
        served, final = modelfile.read(BUILD / "modelfile" / "Modelfile")
        [half] = F16.glob("*.gguf")
        kind = final.stem.removeprefix(f"{load('name', Name)}-")
        with output_folder(OUT) as out:
            with TemporaryDirectory(dir=out) as scratch:  # on the disk of build/: a sealed stage's /tmp is memory
                rows = token_files.first(DATASET / "eval.arrow", params.rows)
                steps = ledger.take(boundaries(params, rows, half, Path(scratch)), rows, Path(scratch))
            progress.console.print(ledger.table(steps), markup=False)
            asked = [row["messages"] for row in [*trained_on, *held_out]]
            given = answers.ask(final, served, asked, rows, params.device)
            write_json(out / "answers.json", [vars(answer) for answer in given])
            base = partial(score.base_file, BASE, source, half, kind, IMATRIX)
            scored = score.take(params, lines("eval"), base, final, served, rows, out)
        known, new = given[: len(trained_on)], given[len(trained_on) :]
        exact, ended = sum(answer.word_for_word for answer in known), answers.figures(new)
        most = ledger.loses_most(steps, kind)
        write_text(PLOT, ledger.tsv(steps))
        report = {
            "held_out": {step.boundary.name: step.figures() for step in steps},
            "tokens": {"measured": steps[0].tokens, "compared": steps[1].compared},
            "loses_most": most,
            "tensors_in_another_type": {each: gguf_check.fallbacks(quantised(each), each) for each in types},
            "answers": answers.figures(known) | {"word_for_word": exact},
            "stops": ended,
        } | score.report(scored)
        write_json(REPORT, report)
        write_json(METRICS, ledger.metrics(report, kind))
        said = [*ledger.breaches(steps, params.limits), *answers.breaches(known, new, params), *score.breaches(scored)]
        if said:
            raise progress.StageError("\n".join(said))
        made += [
            f"{exact} of {len(known)} training prompts answered word for word",
            f"{ended['ended']:.0%} of {len(new)} new ones answered to an end",
            f"{most} loses most",
            *score.summary(scored),
        ]


def boundaries(params: Evaluation, rows: list[Encoded], half: Path, scratch: Path) -> list[Boundary]:
    """Every step in order, and the step that it was made from."""
    say = partial(measure.by_transformers, rows=rows, device=params.device)
    found = [
        Boundary("base", None, weights(BASE), partial(say, BASE, label="base")),
        Boundary("adapter", "base", weights(ADAPTER), trained(say, params.device, scratch)),
        Boundary("merged", "adapter", weights(MERGED), partial(say, MERGED, label="merged"), "merged_kl"),
    ]
    if params.merge_bases:
        other = {"original": "nf4", "nf4": "original"}[load("merged", Merged).base]
        said = partial(merged_into, other, say, params.device, scratch)
        found.append(Boundary(f"merged-{other}", "adapter", weights(MERGED), said))
    say_file = partial(measure.by_llama, rows=rows, device=params.device)
    found.append(Boundary("16-bit", "merged", size_of(half), partial(say_file, half, label=half.stem), "f16_kl"))
    for kind in load("gguf", Gguf).types:
        file = quantised(kind)
        said = partial(say_file, file, label=file.stem)
        found.append(Boundary(kind, "16-bit", size_of(file), said, "quantised_kl"))
    return found


def quantised(kind: str) -> Path:
    return BUILD / "gguf" / f"{load('name', Name)}-{kind}.gguf"


def weights(folder: Path) -> int:
    """Bytes of a model folder's weights."""
    return sum(size_of(path) for path in folder.glob("*.safetensors"))


def trained(say: Callable, device: str, scratch: Path) -> Callable[[], Iterator[measure.Said]]:
    """The trained model: the adapter on the base as it was then, 4-bit for qlora; of `full` its own weights."""
    from ingot.model.weights import assembled
    from ingot.training import methods

    params = load("adapter", Adapter)
    if params.method == "full":
        return partial(say, assembled(scratch / "trained", BASE, ADAPTER), label="trained")
    quantised = methods.quantisation(params, measure.dtype_on(device))
    return partial(say, BASE, label="adapter", adapter=ADAPTER, quantised=quantised)


def merged_into(other: str, say: Callable, device: str, scratch: Path) -> Iterator[measure.Said]:
    """The merge into the base that `merged.base` does not name, made for this."""
    from ingot.model import fold
    from ingot.model.merge import merge
    from ingot.model.weights import assembled

    made = scratch / "weights"
    made.mkdir()
    merge(BASE, fold.read(ADAPTER, device), made, through_nf4=other == "nf4")
    yield from say(assembled(scratch / "merged", BASE, made), label=f"merged into {other}")
    shutil.rmtree(made)


def lines(part: str) -> Iterator[dict[str, Any]]:
    """The rows of a part of the dataset, one after the other: millions of them need no memory."""
    with (DATASET / f"{part}.jsonl").open(encoding="utf-8", newline="\n") as file:
        yield from map(json.loads, file)


if __name__ == "__main__":
    progress.start(main)
