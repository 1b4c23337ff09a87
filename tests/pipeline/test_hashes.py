"""Equal hashes: the demo, rebuilt in another place and environment, leaves dvc.lock and the reports as committed."""

from __future__ import annotations

import json
import os
import re

import pytest

from ingot.exact.files import sha256
from ingot.params.core import read
from tests.conftest import NOBODY, Clone, read_jsonl

pytestmark = pytest.mark.proof

ELSEWHERE = {
    "PYTHONHASHSEED": "4321",
    "TZ": "Asia/Seoul",
    "LANG": "ko_KR.UTF-8",
    "LC_ALL": "C",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


def test_the_demo_in_another_place_by_another_user(elsewhere):
    elsewhere.mkdir()
    work = Clone(elsewhere)
    committed = work.tracked()
    command = ["sh", "-c", 'umask 077 && exec "$@"', "sh"]
    other = os.getuid() == 0
    if other:
        command = [*work.given_to_nobody(), *command]
    result = work.sh(*command, "dvc", "repro", HOME=str(elsewhere), **ELSEWHERE)
    assert result.stdout.count("Running stage ") == 11
    moved = [path for path, hashed in committed.items() if sha256(work.folder / path) != hashed]
    assert not moved, result.stdout[-3000:]
    answers = json.loads((work.folder / "reports/evaluation.json").read_text())["answers"]
    assert answers["word_for_word"] >= 20 and answers["ended"] == 1.0
    asked = re.search(r'make chat ASK="(.*?)"', (work.folder / "README.md").read_text())[1]
    system = read(work.folder / "params.yaml")["modelfile"]["system"]
    learnt = [row["messages"] for row in read_jsonl(work.folder / "build/dataset/train.jsonl")]
    assert [system, asked] in [[turn["content"] for turn in turns[:2]] for turns in learnt], (
        "README asks what was learnt"
    )
    if other:
        owners = {path.stat().st_uid for path in (work.folder / "build").rglob("*")}
        assert owners == {NOBODY}, "what is made belongs to who made it"
