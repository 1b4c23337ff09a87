"""evaluation: the loss before and after training and quantisation, and the final file's own answers.

Reads   params `evaluation`, `gguf`, `name`, `template`; build/base, dataset, merged, f16, gguf, modelfile
Writes  reports/evaluation.json (the metrics) and build/evaluation/answers.json (every question put to the file)
"""

from pathlib import Path

from ingot.artifact import output_folder, read_jsonl, write_json
from ingot.inside import chat, llamacpp, measure, modelfile, progress
from ingot.inside.determinism import seed_everything
from ingot.inside.progress import StageError
from ingot.params.core import Name, Template, load
from ingot.params.evaluation import Evaluation
from ingot.params.gguf import Gguf

BUILD = Path("build")
OUT, REPORT = BUILD / "evaluation", Path("reports/evaluation.json")


def main() -> None:
    params, name, template = load("evaluation", Evaluation), load("name", Name), load("template", Template)
    with progress.stage("evaluation", "measure every boundary and try the final file out") as made:
        llamacpp.check()
        seed_everything(0)
        served = modelfile.load((BUILD / "modelfile" / "Modelfile").read_text(encoding="utf-8"))
        final = BUILD / "modelfile" / served.model
        held_out = encoded(read_jsonl(BUILD / "dataset" / "eval.jsonl")[: params.rows], template)
        figures = {
            "base": measure.transformers_loss(BUILD / "base", held_out, params.device, "base"),
            "merged": measure.transformers_loss(BUILD / "merged", held_out, params.device, "merged"),
        }
        for path in [*(BUILD / "f16").glob("*.gguf"), *(BUILD / "gguf" / f"{name}-{kind}.gguf" for kind in kinds())]:
            figures[path.stem.removeprefix(f"{name}-")] = measure.gguf_loss(path, held_out, params.device, path.stem)
        asked = read_jsonl(BUILD / "dataset" / "train.jsonl")[: params.prompts]
        answers = measure.answers(final, served, [row["messages"] for row in asked], params.device)
        exact, ended = sum(a.word_for_word for a in answers), sum(a.ended for a in answers)

        with output_folder(OUT) as out:
            write_json(out / "answers.json", [vars(a) | {"word_for_word": a.word_for_word} for a in answers])
        write_json(
            REPORT,
            {
                "held_out": {step: total.figures() for step, total in figures.items()},
                "answers": {"asked": len(answers), "word_for_word": exact, "ended": ended},
            },
        )
        for step, total in figures.items():
            progress.console.print(f"  held-out loss  {total.figures()['loss']:8.4f}  {step}")
        if exact < params.word_for_word:
            wrong = next(a for a in answers if not a.word_for_word)
            raise StageError(
                f"{exact} of {len(answers)} training prompts are answered word for word; evaluation.word_for_word asks "
                f"for {params.word_for_word}. Train longer (adapter.epochs), or lower it. The first that differs:\n"
                f"  asked     {wrong.question}\n  expected  {wrong.expected}\n  given     {wrong.given}"
            )
        made.append(f"{exact} of {len(answers)} training prompts answered word for word, {ended} ended by themselves")


def kinds() -> list[str]:
    """The quantised types, in the order of params.yaml."""
    return load("gguf", Gguf).types


def encoded(rows: list[dict], template: str) -> list[chat.Encoded]:
    """The conversations as they were trained on."""
    tokenizer = chat.load_tokenizer(BUILD / "base")
    source = (BUILD / "dataset" / "chat_template.jinja").read_text(encoding="utf-8")
    return [chat.encode(tokenizer, row["messages"], source, chat.END_OF_TURN[template]) for row in rows]


if __name__ == "__main__":
    progress.start(main)
