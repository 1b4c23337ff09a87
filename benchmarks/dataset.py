"""The dataset stage on the mix of recipes/qwen2.5-7b-kospi.yaml, drawn from real sentences. From the repository's root:

    python benchmarks/dataset.py --work FOLDER                          # 200,000 rows
    python benchmarks/dataset.py --work FOLDER --rows 50000 200000 1000000 --plot curve.svg

Each row is put together from sentences of data/samples, and of the file that `--real` names (JSON objects with
`instruction` and `output`), with other numbers, so that few rows are alike; every set has a tenth more rows than its
share, and some of them are copies, near copies and faulty. `--work` names a folder on a disk; what was drawn for a
number of rows is kept there. Needs build/base, whose tokenizer is the real Qwen2's. Memory is told twice: all that was
resident, which counts pages of files that the kernel can take back, and the part that it cannot.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from ingot.planning import recipe  # noqa: E402

RECIPE = YAML(typ="safe").load(recipe.expanded(ROOT / "recipes/qwen2.5-7b-kospi.yaml"))
SPARE = 1.1  # raw rows for each that is asked for
# Sentences in a question and in an answer, at most; rows of the real sets differ in length about like this.
LENGTHS = {
    "finance_instruct": (3, 9), "sujet_finance": (7, 3), "krx_won": (3, 12), "trading_signals": (2, 4),
    "fingpt_sentiment": (2, 1)
}  # fmt: skip


def sentences(real: list[Path]) -> dict[str, list[str]]:
    """Real sentences, English and Korean."""
    texts = [json.dumps(row, ensure_ascii=False) for row in _rows(ROOT / "data/samples/krx_won.jsonl")]
    korean = [text for row in texts for text in json.loads(row).values()]
    english = [
        text
        for path in [*real, ROOT / "data/samples/finance_instruct.jsonl", ROOT / "data/samples/fingpt_sentiment.jsonl"]
        for row in _rows(path)
        for text in row.values()
    ]
    split = re.compile(r"(?<=[.?!])\s+|\n")
    return {
        "en": sorted({part for text in english for part in split.split(text) if len(part) > 8}),
        "ko": sorted({part for text in korean for part in split.split(text) if len(part) > 4}),
    }


def _rows(path: Path) -> list[dict[str, str]]:
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]


def draw(folder: Path, total: int, real: list[Path]) -> None:
    """Raw files of the five layouts, in three formats."""
    pool, chance = sentences(real), random.Random(total)
    for name, part in RECIPE["dataset"]["mix"].items():
        said = pool["ko" if name == "krx_won" else "en"]
        columns, lengths = part["columns"], LENGTHS[name]
        user = [columns["user"]] if isinstance(columns["user"], str) else columns["user"]
        names = [*([columns["system"]] if "system" in columns else []), *user, columns["assistant"]]

        def text(most: int, said=said) -> str:
            some = " ".join(chance.choice(said) for _ in range(chance.randint(1, most)))
            return re.sub(r"\d+", lambda _: str(chance.randint(2, 99999)), some)

        (folder / "build/raw" / name).mkdir(parents=True)
        is_csv, row = name == "trading_signals", {}
        path = folder / "build/raw" / name / ("rows.csv" if is_csv else "rows.jsonl")
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, names)
            if is_csv:
                table.writeheader()
            for number in range(int(total * part["share"] * SPARE)):
                if number % 50 or not row:  # every fiftieth row is like the one before it
                    row = {column: text(lengths[column == columns["assistant"]]) for column in names}
                    if "system" in columns:
                        row[columns["system"]] = "You are a finance expert." if number % 3 else ""
                elif number % 100:
                    row = row | {user[0]: row[user[0]] + "!"}
                if number % 1000 == 7:
                    row = row | {columns["assistant"]: chance.choice(["", "I see.<|im_end|>", "Itâ€™s ruined"])}
                table.writerow(row) if is_csv else file.write(json.dumps(row, ensure_ascii=False) + "\n")
    sources = {name: {"path": f"data/{name}"} for name in RECIPE["dataset"]["mix"]}
    changed = RECIPE | {"raw": {"datasets": sources}}
    changed["dataset"] = RECIPE["dataset"] | {"total_samples": total}
    (folder / "params.yaml").write_text(json.dumps(changed, ensure_ascii=False), encoding="utf-8")
    (folder / "build/base").symlink_to(ROOT / "build/base")


def measure(folder: Path) -> dict[str, float]:
    """Run the stage as `dvc repro` would; its seconds and its peaks of memory in MB."""
    began, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    before = used.ru_utime + used.ru_stime
    with (folder / "log").open("w") as log:
        stage = subprocess.Popen(
            [sys.executable, "-m", "stages.dataset"], cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        resident = own = 0
        while stage.poll() is None:
            try:
                status = Path(f"/proc/{stage.pid}/status").read_text()
            except OSError:
                break
            if found := re.search(r"VmHWM:\s+(\d+)", status):
                resident = max(resident, int(found[1]))
                own = max(own, int(re.search(r"RssAnon:\s+(\d+)", status)[1]))
            time.sleep(0.05)
    if stage.wait():
        sys.exit(f"the stage failed; its last words:\n{(folder / 'log').read_text()[-2000:]}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = used.ru_utime + used.ru_stime - before
    return {"seconds": time.monotonic() - began, "cpu": processor, "resident": resident / 1000, "own": own / 1000}


def plot(path: Path, figures: list[tuple[int, dict[str, float]]]) -> None:
    """Time and memory over rows, as an SVG: polylines need no library. What grows in proportion is a straight line."""
    wide, high, most = 550, 340, max(rows for rows, _ in figures)
    tops = {
        "s": max(max(found["seconds"], found["cpu"]) for _, found in figures),
        "MB": max(f["own"] for _, f in figures),
    }
    lines = [f'<path stroke="#999" d="M20 {high + 40}h{wide}"/><text x="20" y="{high + 75}">rows of the mix</text>']
    for what, unit, name, colour, down in (
        ("seconds", "s", "elapsed", "#1f77b4", 4), ("cpu", "s", "processor", "#2ca02c", 20),
        ("own", "MB", "own memory", "#d62728", -12)
    ):  # fmt: skip
        points = [(20 + rows / most * wide, 40 + high * (1 - found[what] / tops[unit])) for rows, found in figures]
        line = " ".join(f"{x:.0f},{y:.0f}" for x, y in points)
        lines.append(f'<polyline fill="none" stroke="{colour}" points="{line}"/>')
        lines += [f'<circle cx="{x:.0f}" cy="{y:.0f}" r="3" fill="{colour}"/>' for x, y in points]
        x, y = points[-1]
        said = f"{name} {figures[-1][1][what]:,.0f} {unit}"
        lines.append(f'<text x="{x + 8:.0f}" y="{y + down:.0f}" fill="{colour}">{said}</text>')
    for rows, _ in figures:
        if rows >= most / 10:  # the names of fewer would lie upon each other
            x = 20 + rows / most * wide
            lines.append(f'<text x="{x:.0f}" y="{high + 57}" text-anchor="middle">{rows:,}</text>')
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 425" font-family="sans-serif" font-size="12">'
    path.write_text(f'{head}<rect width="760" height="425" fill="#fff"/>{"".join(lines)}</svg>\n')


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--work", type=Path, required=True)
    options.add_argument("--rows", type=int, nargs="+", default=[200_000])
    options.add_argument("--real", type=Path, nargs="*", default=[])
    options.add_argument("--plot", type=Path)
    given = options.parse_args()
    figures = []
    print(
        f"{'rows':>10} {'MB of text':>11} {'tokens':>12} {'dropped':>8} {'seconds':>8} {'cpu s':>7} "
        f"{'rows/s':>8} {'resident':>9} {'own':>8}"
    )
    for total in given.rows:
        folder = given.work / str(total)
        if not (folder / "params.yaml").is_file():
            draw(folder, total, given.real)
        found = measure(folder)
        figures.append((total, found))
        made = json.loads((folder / "reports/dataset.json").read_text())
        size = sum(path.stat().st_size for path in (folder / "build/raw").rglob("rows.*")) / 1e6
        print(
            f"{total:10,} {size:11,.0f} {made['train_tokens']:12,} {made['dropped']:8,} {found['seconds']:8.1f} "
            f"{found['cpu']:7.1f} {total / found['seconds']:8,.0f} {found['resident']:6,.0f} MB "
            f"{found['own']:5,.0f} MB", flush=True
        )  # fmt: skip
    if given.plot:
        plot(given.plot, figures)


if __name__ == "__main__":
    main()
