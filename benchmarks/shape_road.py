"""A large model's shape, the whole road: random weights in shards, by the recipe for Qwen2.5-7B and `dvc repro`.

    python benchmarks/shape_road.py --shape 3b --work /tmp/road --log road.log

2,000 rows of random words in the recipe's five layouts, on one GPU. It prints the seconds of every stage, and the
sha256 of what was made, which two machines should agree on. Weights and words are noise, so the evaluation's limits are
off.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
import real_model
import shapes

from ingot.exact.files import sha256

RECIPE = real_model.ROOT / "recipes/qwen2.5-7b-kospi.yaml"
KOREAN = [
    "코스피",
    "지수",
    "배당",
    "수익률",
    "외국인",
    "기관",
    "매수",
    "매도",
    "금리",
    "환율",
    "공시",
    "상장",
    "시장",
    "거래",
    "위험",
    "변동성",
    "실적",
    "전망",
]
SETS = {  # file, rows, the columns of question and answer
    "finance_instruct": ("finance_instruct.jsonl", 800, ["system", "user", "assistant"]),
    "sujet_finance": ("sujet_finance.json", 500, ["system_prompt", "user_prompt", "answer"]),
    "krx_won": ("krx_won.jsonl", 400, ["prompt", "original_response"]),
    "trading_signals": ("trading_signals.csv", 200, ["instruction", "input", "output"]),
    "fingpt_sentiment": ("fingpt_sentiment.jsonl", 100, ["instruction", "input", "output"]),
}
ON_CPU = real_model.ON_CPU | {
    "adapter.packing": False, "evaluation.score": None, "dataset.total_samples": 200, "dataset.eval_share": 0.05,
    "merged.device": "cpu", "max_seq_length": 256,
}  # fmt: skip


def draw(folder: Path) -> dict[str, Path]:
    """The five files, always the same."""
    english = shapes.WORDS.read_text().split()
    chance = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, (file, count, columns) in SETS.items():
        words = KOREAN if name == "krx_won" else english

        def said(low: int, high: int, words: list[str] = words) -> str:
            return " ".join(chance.choice(words) for _ in range(chance.randint(low, high)))

        rows = [{each: said(40, 400) if each == columns[-1] else said(5, 40) for each in columns} for _ in range(count)]
        path = files[file] = folder / file
        with path.open("w", encoding="utf-8", newline="") as out:
            if path.suffix == ".csv":
                table = csv.DictWriter(out, columns)
                table.writeheader()
                table.writerows(rows)
            elif path.suffix == ".json":
                json.dump(rows, out, ensure_ascii=False)
            else:
                out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return files


def made(work: Path) -> None:
    """The sha256 of the weights and files of every stage, as far as there are any."""
    build = work / "build"
    for pattern in ("adapter/adapter_model.safetensors", "merged/*.safetensors", "f16/*.gguf", "gguf/*.gguf"):
        for path in sorted(build.glob(pattern)):
            print(sha256(path)[:16], path.stat().st_size, path.relative_to(build))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=shapes.SHAPES, default="3b")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--cpu", action="store_true", help="200 rows, no GPU: whether the road is whole")
    parser.add_argument("--until", choices=real_model.STAGES, default="card", help="the last stage to run")
    arguments = parser.parse_args()
    work, log = arguments.work.resolve(), arguments.log.resolve()
    base = shapes.base(work / "base", arguments.shape)
    changes = {f"raw.datasets.{name}": {"path": f"data/{file}", "license": "MIT"} for name, (file, *_) in SETS.items()}
    changes |= {
        "base": {"source": "local", "path": "models/base", "license": "MIT", "parameters": shapes.parameters(base)},
        "evaluation.limits": real_model.NO_LIMITS, "dataset.total_samples": 2000, "dataset.eval_share": 0.02,
        "adapter.gradient_checkpointing": "off", "adapter.eval_steps": 0, "adapter.logging_steps": 5,
        "evaluation.rows": 16, "evaluation.prompts": 2, "modelfile.num_predict": 64, "modelfile.num_ctx": 2048,
    }  # fmt: skip
    if arguments.cpu:
        changes |= {key: value for key, value in ON_CPU.items() if "score." not in key}
    real_model.workplace(work / "repo", RECIPE, (base, "base"), draw(work / "data"), changes)
    if not arguments.cpu:
        real_model.on_what_there_is(work / "repo", log)
        print(torch.cuda.get_device_name())
    took: dict[str, float] = {}
    try:
        real_model.walk(work / "repo", log, arguments.until, took)
    finally:
        print("seconds: " + ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in took.items()))
        made(work / "repo")


if __name__ == "__main__":
    main()
