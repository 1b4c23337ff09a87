"""What the dataset stage is held against: the same rows by plain `datasets.map`, rendered and tokenised, no more.

    python benchmarks/dataset_peer.py FOLDER/200000 [--tokens]

Reads what benchmarks/dataset.py has drawn there. It maps columns to messages, renders them with the tokenizer's chat
template and tokenises, a thousand rows a batch, and writes JSON lines with the number of tokens, as the stage does.
With `--tokens` it writes text, ids and labels, too, the stage's three columns; its labels are the ids. It checks
nothing: no duplicates, no forged control tokens, no split by content, no order that a new row leaves alone.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main(folder: Path, tokens: bool) -> None:
    import datasets
    from transformers import PreTrainedTokenizerFast

    from ingot.chat import encoding

    datasets.disable_progress_bars()
    params = json.loads((folder / "params.yaml").read_text())
    tokenizer = PreTrainedTokenizerFast.from_pretrained(ROOT / "build/base")
    tokenizer.chat_template = encoding.jinja(params["template"])

    def several(columns) -> list[str]:
        return columns if isinstance(columns, list) else [columns]

    def prepared(rows: dict[str, list], columns: dict, system: str) -> dict[str, list]:
        conversations = []
        for at in range(len(next(iter(rows.values())))):
            said = {role: "\n\n".join(rows[one][at] for one in several(names) if rows[one][at])
                    for role, names in columns.items()}  # fmt: skip
            said["system"] = said.get("system") or system
            conversations.append([{"role": role, "content": said[role]} for role in ("system", "user", "assistant")])
        texts = tokenizer.apply_chat_template(conversations, tokenize=False)
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
        made = {"messages": conversations, "tokens": [len(some) for some in ids]}
        return made | ({"text": texts, "input_ids": ids, "labels": ids} if tokens else {})

    parts = []
    for name, part in params["dataset"]["mix"].items():
        (file,) = (folder / "build/raw" / name).glob("rows.*")
        kind = "csv" if file.suffix == ".csv" else "json"
        rows = datasets.load_dataset(kind, data_files=str(file), cache_dir=str(folder / "peer"), split="train")
        given = {"columns": part["columns"], "system": part.get("system") or params["dataset"]["system"]}
        wanted = int(params["dataset"]["total_samples"] * part["share"])
        rows = rows.shuffle(seed=params["seed"]).select(range(min(wanted, len(rows))))
        parts.append(
            rows.map(
                prepared, batched=True, fn_kwargs=given, remove_columns=rows.column_names, load_from_cache_file=False
            )
        )
    rows = datasets.concatenate_datasets(parts).shuffle(seed=params["seed"])
    rows.select_columns(["messages", "tokens"]).to_json(str(folder / "peer.jsonl"))
    if tokens:
        rows.select_columns(["text", "input_ids", "labels"]).save_to_disk(str(folder / "peer.tokens"))


if __name__ == "__main__":
    began, before = time.monotonic(), os.times()
    main(Path(sys.argv[1]), "--tokens" in sys.argv)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    processor = sum(one.ru_utime + one.ru_stime for one in used)
    print(f"datasets.map: {time.monotonic() - began:.1f} s, {processor:.1f} CPU s, {used[0].ru_maxrss / 1000:.0f} MB")
