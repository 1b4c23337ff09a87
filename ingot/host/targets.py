"""How far a run is meant to go: what DVC was asked for, of which it tells its stages nothing."""

from __future__ import annotations

import os
from pathlib import Path

STAGES = ["raw", "base", "dataset", "adapter", "merged", "f16", "imatrix", "gguf", "modelfile", "evaluation", "card"]


def reach(stage: str) -> str:
    """The last stage, in pipeline order, that this run of `stage` leads to: itself, where nobody can tell."""
    command = _dvc_above() if "DVC_STAGE" in os.environ else None
    return furthest(command, stage) if command else stage


def furthest(command: list[str], stage: str) -> str:
    """The last stage that `dvc COMMAND`, which runs `stage`, leads to. What is no plain list of stages counts as all."""
    from dvc.cli import DvcParserError, parse_args  # DVC's own: it tells options and their values from targets

    try:
        asked = vars(parse_args(command))
    except DvcParserError:  # another DVC than ours, which has run it nevertheless
        return stage
    if "targets" not in asked:  # a worker of DVC's queue
        return stage
    wider = any(asked.get(option) for option in ("downstream", "pipeline", "all_pipelines", "recursive", "glob"))
    names = [target.removeprefix("dvc.yaml:").split("@")[0] for target in asked["targets"]]
    if wider or not names or not set(names) <= set(STAGES):
        return STAGES[-1]
    return max(names, key=STAGES.index)


def _dvc_above() -> list[str] | None:
    """The arguments of the DVC that runs this process, by way of its shell; None where it is not to be seen."""
    number = os.getppid()
    while number > 1:
        try:
            words = Path(f"/proc/{number}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
            # Behind the name in brackets, which may hold anything: state, parent.
            parent = int(Path(f"/proc/{number}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        except OSError:  # no /proc, or one that hides other processes
            return None
        for place, word in enumerate(words):  # dvc …, python dvc …, python -m dvc …
            if os.path.basename(word) == "dvc":
                return words[place + 1 :]
        number = parent
    return None
