"""The fidelity ledger on real, small files: arithmetic, what each kind of broken step looks like, how answers end."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy
import pytest
import torch
from gguf import GGUFReader

from ingot.chat import encoding
from ingot.console.progress import StageError
from ingot.llama import llamacpp
from ingot.model import fold
from ingot.model.merge import merge
from ingot.model.weights import assembled
from ingot.params.core import read
from ingot.proof import answers, ledger, measure, score
from ingot.proof.ledger import Boundary, Gap
from ingot.proof.params import Evaluation, Limits, Score
from ingot.serving import modelfile
from ingot.serving.modelfile import Modelfile
from stages import evaluation as stage
from tests.conftest import MICRO, ROOT, edited, tokenise, write_jsonl

CONVERSATIONS = [
    [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    for question, answer in [
        ("What is a bond?", "A loan that you can sell."),
        ("채권이란 무엇인가요?", "사고팔 수 있는 대출입니다."),
    ]
]
STRICT = Limits(merged_kl=0.01, f16_kl=0.001, quantised_kl=0.2, same_top=0.9, ended=1.0)
TARGETS = read(ROOT / "params.yaml")["adapter"]["target_modules"]
NEWLINE = 13  # the byte, in the words of `base`
SERVED = Modelfile("model.gguf", "", "", {"num_ctx": 128, "num_predict": 8}, encoding.STOPS["chatml"])


@pytest.fixture(scope="module")
def rows(tokenizer) -> list[encoding.Encoded]:
    end = encoding.END_OF_TURN["chatml"]
    return [encoding.encode(tokenizer, messages, encoding.jinja("chatml"), end) for messages in CONVERSATIONS]


@pytest.fixture(scope="module")
def half(base, tmp_path_factory) -> Path:
    """The base as a 16-bit GGUF."""
    out = tmp_path_factory.mktemp("gguf") / "demo-F16.gguf"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        llamacpp.convert(base, out, "demo", "f16")
    return out


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory) -> Path:
    """A LoRA adapter that changes what the base says."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules=TARGETS, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    out = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(out)
    (out / "chat_template.jinja").write_text("trained on this")
    return out


def say(model: Path, rows: list[encoding.Encoded], adapter: Path | None = None):
    return partial(measure.by_transformers, model, rows, "cpu", "said", adapter)


def say_gguf(file: Path, rows: list[encoding.Encoded]):
    return partial(measure.by_llama, file, rows, "cpu", "said")


def take(rows: list[encoding.Encoded], scratch: Path, **said) -> dict[str, ledger.Step]:
    """The ledger of base, adapter, merged and files, as many as are given, by name."""
    chain, before = [], None
    for name, each in said.items():
        limit = {"merged": "merged_kl", "16-bit": "f16_kl"}.get(name)
        limit = limit or ("quantised_kl" if before == "16-bit" else None)
        chain.append(Boundary(name, before, 1000, each, limit))
        before = name if before != "16-bit" else before
    steps = ledger.take(chain, rows, scratch)
    assert not list((scratch / "logits").iterdir()), "no logits are left"
    return {step.boundary.name: step for step in steps}


@pytest.fixture(scope="module")
def damaged(half) -> Callable[..., Path]:
    """Copies the 16-bit file with some tensors changed: by name, with __ for dots, a function of what they were."""
    places = {tensor.name: (tensor.data_offset, tensor.data) for tensor in GGUFReader(half).tensors}

    def make(out: Path, **changes) -> Path:
        shutil.copyfile(half, out)
        for name, change in changes.items():
            offset, data = places[name.replace("__", ".")]
            placed = numpy.memmap(out, data.dtype, "r+", offset, data.shape)
            placed[:] = change(data.copy())
            placed.flush()
        return out

    return make


def test_the_divergence_is_the_sum_over_all_words():
    draw = numpy.random.default_rng(0)
    for size, scale, noise in [(10, 1, 1), (151_936, 8, 0.1), (1000, 300, 30), (1000, 1, 1e-6)]:
        p = draw.normal(scale=scale, size=size).astype(numpy.float32)
        q = (p + draw.normal(scale=noise, size=size)).astype(numpy.float32)
        logp, logq = (torch.log_softmax(torch.tensor(each).double(), 0) for each in (p, q))
        expected = math.fsum((logp.exp() * (logp - logq)).tolist())
        p, q = p.astype(numpy.float64), q.astype(numpy.float64)
        assert ledger.divergence(p, q, ledger.normaliser(q)) == pytest.approx(expected, rel=1e-7, abs=1e-12)
        assert ledger.divergence(p, p + 7, ledger.normaliser(p + 7)) == pytest.approx(0, abs=1e-12)


def test_the_tail_is_the_999th_of_a_thousand_and_the_greatest_of_few():
    assert Gap([0.001 * number for number in range(1, 1001)], 900).figures() == {
        "kl": 0.5005, "kl_999": 0.999, "same_top": 0.9
    }  # fmt: skip
    assert Gap([0.0, 3.0, 0.0], 1).figures() == {"kl": 1.0, "kl_999": 3.0, "same_top": 0.3333}


def test_a_merge_is_near_the_adapter_and_one_without_effect_is_seen(base, adapter, rows, tmp_path):
    (tmp_path / "weights").mkdir()
    merge(base, fold.read(adapter, "cpu"), tmp_path / "weights", through_nf4=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "BASE", base)
        merged = assembled(tmp_path / "merged", stage.BASE, tmp_path / "weights")
    before = {"base": say(base, rows), "adapter": say(base, rows, adapter)}
    good = take(rows, tmp_path, **before, merged=say(merged, rows))
    assert good["merged"].figures()["kl"] < 0.001 and not ledger.breaches(list(good.values()), STRICT)
    (tmp_path / "again").mkdir()
    bad = take(rows, tmp_path / "again", **before, merged=say(base, rows))
    learnt, lost = bad["adapter"].figures()["learnt"]["kl"], bad["merged"].figures()["kl"]
    assert learnt > 0.1 and lost > 0.1 and bad["merged"].figures()["loss"] == bad["base"].figures()["loss"]
    assert ledger.breaches(list(bad.values()), STRICT)[0] == (
        f"merged: KL divergence to adapter is {lost}, above evaluation.limits.merged_kl (0.01): "
        f"{ledger.ADVICE['merged_kl']}"
    )


@pytest.mark.proof
def test_files_are_compared_with_the_16_bit_one_and_the_worst_is_named(base, half, rows, tmp_path, in_repo):
    files = {kind: tmp_path / f"{kind}.gguf" for kind in ("Q8_0", "Q2_K")}
    for kind, file in files.items():
        llamacpp.quantize(half, file, kind, None)
    said = {name: say(base, rows) for name in ("base", "adapter", "merged")}
    said |= {name: say_gguf(file, rows) for name, file in {"16-bit": half, **files}.items()}
    found = take(rows, tmp_path, **said)
    kl = {name: found[name].figures()["kl"] for name in ("merged", "16-bit", "Q8_0", "Q2_K")}
    assert kl["merged"] == 0 and kl["16-bit"] < 1e-4 < kl["Q8_0"] < 0.1 < kl["Q2_K"]
    assert found["Q2_K"].figures()["kl_to_adapter"] == pytest.approx(kl["Q2_K"], abs=0.01)
    steps = list(found.values())
    assert ledger.loses_most(steps, "Q2_K") == "Q2_K" and ledger.loses_most(steps, "Q8_0") == "Q8_0"
    kinds, [first, *_] = {line.split(":")[0] for line in ledger.breaches(steps, STRICT)}, ledger.breaches(steps, STRICT)
    assert (
        kinds == {"Q2_K"}
        and f"KL divergence to 16-bit is {kl['Q2_K']}, above evaluation.limits.quantised_kl (0.2)" in first
    )
    assert [line.split()[0] for line in ledger.table(steps).splitlines()] == ["step", *found]
    header, *lines = (line.split("\t") for line in ledger.tsv(steps).splitlines())
    assert [line[0] for line in lines] == list(found) and {len(line) for line in lines} == {len(header)}
    assert lines[-1][header.index("kl")] == str(kl["Q2_K"]) and lines[0][header.index("kl")] == ""


def test_of_many_tokens_some_are_compared_and_all_count_for_the_loss(base, rows, tmp_path, monkeypatch):
    said = {name: say(base, rows) for name in ("base", "adapter")}
    (tmp_path / "all").mkdir()
    every = take(rows, tmp_path / "all", **said)["adapter"]
    monkeypatch.setattr(ledger, "COMPARED", 5)
    some = take(rows, tmp_path, **said)["adapter"]
    assert every.compared == every.tokens == some.tokens == sum(len(measure.places(row)) for row in rows) > 10
    assert 3 <= some.compared <= 5 and some.figures()["loss"] == every.figures()["loss"]
    assert some.figures()["learnt"]["kl"] == 0, "the same places of both"


def test_too_little_disk_is_said_before_it_is_full(base, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(StageError, match=r"the ledger lays \d+\.\d MB of logits down(.|\n)*1.0 kB are free"):
        take(rows, tmp_path, base=say(base, rows), adapter=say(base, rows))


def test_another_vocabulary_is_refused(base, rows, tmp_path):
    def fewer():
        for logits, seconds in say(base, rows)():
            yield logits[:, :-1], seconds

    with pytest.raises(StageError, match="adapter has 2579 words, the step before it 2580"):
        take(rows, tmp_path, base=say(base, rows), adapter=fewer)


def test_a_nan_in_a_file_is_caught_where_it_shows(damaged, rows, tmp_path, in_repo):
    def once(data):
        data[3, 5] = numpy.nan
        return data

    broken = damaged(tmp_path / "broken.gguf", blk__0__ffn_up__weight=once)
    with pytest.raises(
        StageError, match=r"16-bit: what it says before token \d+ of held-out row 0 holds NaN(.|\n)*What is a bond"
    ):
        take(rows, tmp_path, **{"16-bit": say_gguf(broken, rows)})


def test_another_tokenizer_is_caught(half, rows, tmp_path, in_repo):
    words, word = half.read_bytes(), "▁is".encode()
    whole = len(word).to_bytes(8, "little") + word
    assert words.count(whole) == 1
    (tmp_path / "other.gguf").write_bytes(words.replace(whole, whole[:-1] + b"~"))
    with pytest.raises(StageError, match=r"other.gguf tokenises other than the base does(.|\n)*What is a bond"):
        take(rows, tmp_path, **{"16-bit": say_gguf(tmp_path / "other.gguf", rows)})


def test_the_number_of_threads_changes_no_bit(half, rows, tmp_path, in_repo, monkeypatch):
    file, opened = tmp_path / "q4.gguf", llamacpp.open_model
    llamacpp.quantize(half, file, "Q4_K_M", None)

    def logits(threads: int) -> list[bytes]:
        def limited(*given, **named):
            model = opened(*given, **named)
            llama_cpp.llama_set_n_threads(model.ctx, threads, threads)
            return model

        monkeypatch.setattr(llamacpp, "open_model", limited)
        return [said.tobytes() for said, _ in measure.evaluated(file, rows, "cpu")]

    llama_cpp = llamacpp.library()
    assert logits(1) == logits(2) == logits(3)


def ask(file: Path, rows: list[encoding.Encoded], served: Modelfile = SERVED) -> list[answers.Answer]:
    return answers.ask(file, served, CONVERSATIONS, rows, "cpu")


def always(token: int, damaged: Callable[..., Path], out: Path) -> Path:
    """A file made to say nothing but `token` after an opened turn: its layer passes on the last token, a newline."""

    def like_a_newline(words):
        words[token] = 10 * words[NEWLINE]
        return words

    zero = dict.fromkeys(["blk__0__attn_output__weight", "blk__0__ffn_down__weight"], numpy.zeros_like)
    return damaged(out, token_embd__weight=like_a_newline, **zero)


def test_what_ends_an_answer_is_told_apart(damaged, rows, tokenizer, tmp_path, in_repo):
    end, start, word = (tokenizer.convert_tokens_to_ids(text) for text in ("<|im_end|>", "<|im_start|>", "▁the"))
    for token, ended, given in [
        (end, answers.END_TOKEN, ""),
        (start, answers.STOP, ""),
        (word, answers.RAN_ON, " the" * 8),
    ]:
        found = ask(always(token, damaged, tmp_path / f"{ended}.gguf"), rows)
        assert [(answer.ended, answer.given) for answer in found] == [(ended, given)] * 2
        figures = answers.figures(found)
        assert figures["ended"] == (ended != answers.RAN_ON) and figures[ended] == figures["asked"] == 2
    assert [answer.question for answer in found] == [messages[0]["content"] for messages in CONVERSATIONS]


def test_an_end_that_was_not_trained_breaches_the_limit(half, rows, in_repo):
    params = Evaluation(device="cpu", rows=2, prompts=0, word_for_word=0, merge_bases=False, score=None, limits=STRICT)
    found = ask(half, rows)
    [said] = answers.breaches([], found, params)
    assert {answer.ended for answer in found} == {answers.RAN_ON}, "a random model does not end"
    assert said.startswith(
        "0.0% of the answers to 2 held-out prompts end by themselves, less than evaluation.limits.ended"
    )
    assert "What is a bond?" in said and "train longer (adapter.epochs)" in said
    assert not list(answers.breaches([], [replace(answer, ended=answers.END_TOKEN) for answer in found], params))


def test_answers_that_are_not_the_trained_ones_are_shown(rows):
    params = Evaluation(device="cpu", rows=2, prompts=2, word_for_word=2, merge_bases=False, score=None, limits=STRICT)
    right = answers.Answer("What is a bond?", "A loan.", " A loan.", answers.END_TOKEN)
    cut = replace(right, ended=answers.RAN_ON)
    [said] = answers.breaches([right, cut], [right], params)
    assert said.startswith("1 of 2 training prompts are answered word for word; evaluation.word_for_word asks for 2")


def test_a_missing_stop_is_refused(half, rows, in_repo):
    with pytest.raises(StageError, match=r"trained to end with '<\|im_end\|>', which is none of the Modelfile's stops"):
        ask(half, rows, replace(SERVED, stops=["<|im_start|>"]))


def test_an_end_that_llama_cpp_does_not_end_at_is_refused(half, rows, in_repo):
    cut = [replace(row, trained=[*row.trained[:-2], False, False]) for row in rows]
    assert not any(row.trained[-2] for row in cut) and any(row.trained[-3] for row in cut)
    with pytest.raises(StageError, match=r"trained to end with '.+', but llama.cpp ends them at (.|\n)*<\|im_end\|>"):
        ask(half, cut)


def test_a_prompt_that_fills_the_context_is_refused(half, rows, in_repo):
    with pytest.raises(StageError, match=r"modelfile.num_ctx: 8: a prompt of \d+ tokens leaves no room"):
        ask(half, rows, replace(SERVED, parameters={"num_ctx": 8, "num_predict": 8}))


NUMBERS = Score(match="number", pattern=None, prompts=2, tokens=8, least=None)


@pytest.mark.parametrize(
    ("given", "expected", "right"),
    [
        ("He has 3 + 4 = 7 apples.\n#### 7", "#### 7", True),
        ("So she pays $1,234.50.", "1234.5", True),
        ("It costs 3.0", "3", True),
        ("남은 돈은 ₩12,000원입니다.", "#### 12,000", True),
        ("The change is -5 degrees.", "#### -5", True),
        ("It is \u22125.", "-5", True),
        ("He owes -$5", "-5", True),
        ("48-24", "24", True),
        ("48 - 24", "24", True),
        ("$20-$15", "15", True),
        ("(3)-4", "4", True),
        (".5 of it", "0.5", True),
        ("1, 2, 3", "3", True),
        ("in 2024, 12", "12", True),
        ("It is 8", "#### 7", False),
        ("5", "-5", False),
        ("I do not know.", "7", False),
        ("", "7", False),
        ("12,000", "12", False),
    ],
)
def test_the_last_number_of_an_answer_is_compared(given, expected, right):
    answer = answers.Answer("?", expected, given, answers.RAN_ON)
    assert score.Scored(NUMBERS, [], [answer], 0).right(answer) == right


def test_an_answer_is_compared_whole_or_by_a_pattern():
    exact = NUMBERS.model_copy(update={"match": "exact"})
    assert score.key(exact, " bull \n") == score.key(exact, "bull") != score.key(exact, "Bull")
    pattern = NUMBERS.model_copy(update={"match": "regex", "pattern": r"signal: (\w+)"})
    assert score.key(pattern, "signal: buy, no: signal: sell!") == "sell" and score.key(pattern, "buy") is None


def test_rows_without_a_checkable_answer_are_passed_over_and_counted():
    def rows(*expected):
        return [
            {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}]}
            for text in expected
        ]

    chosen, passed = score.checkable(NUMBERS, rows("none", "1", "none", "2", "3", "none"))
    assert [messages[-1]["content"] for messages in chosen] == ["1", "2"] and passed == 2
    with pytest.raises(
        StageError, match=r"match: no held-out answer has anything to compare \(number, 1 rows\)\nhint: "
    ):
        score.checkable(NUMBERS, rows("none"))


def test_many_answers_at_once_are_those_of_one_at_a_time(damaged, half, rows, tokenizer, tmp_path, in_repo):
    end, start, word = (tokenizer.convert_tokens_to_ids(text) for text in ("<|im_end|>", "<|im_start|>", "▁the"))
    files = [always(token, damaged, tmp_path / f"{token}.gguf") for token in (end, start, word)]
    for file in [*files, half]:
        many = [[{"role": "user", "content": f"What is {n}?" * (1 + n % 3)}, CONVERSATIONS[0][1]] for n in range(20)]
        assert score.ask(file, SERVED, many, rows, 8, "cpu") == answers.ask(file, SERVED, many, rows, "cpu")
    assert {len(answer.given) for answer in score.ask(files[2], SERVED, CONVERSATIONS, rows, 3, "cpu")} == {12}


def test_a_score_below_its_least_is_shown_with_an_example():
    limited = NUMBERS.model_copy(update={"least": 0.75})
    right, wrong = (
        answers.Answer("1 + 1?", "2", "It is 2.", "end_token"),
        answers.Answer("2 + 1?", "3", "4", "end_token"),
    )
    scored = score.Scored(limited, [wrong, wrong], [right, wrong], 0)
    [said] = score.breaches(scored)
    where, hint, *_ = said.split("\n")
    assert where == (
        "evaluation.score.least: too few of 2 questions are answered right (50.0%, at least 75.0% wanted; base 0.0%)"
    )
    assert hint.startswith("hint: train longer") and "  asked     2 + 1?\n  expected  3\n  given     4" in said
    assert not list(score.breaches(replace(scored, final=[right, right])))
    assert score.report(scored)["score"]["base"] == 0 and score.report(None) == {}


@pytest.fixture
def build(base, adapter, tmp_path, monkeypatch):
    """The stage's folder, with the params of a method."""
    (tmp_path / "build").mkdir()
    (tmp_path / "build/base").symlink_to(base)
    (tmp_path / "scratch").mkdir()
    monkeypatch.chdir(tmp_path)

    def make(method: str, trained: Path) -> Path:
        (tmp_path / "build/adapter").unlink(missing_ok=True)
        (tmp_path / "build/adapter").symlink_to(trained)
        changes = {"adapter.method": method, "evaluation.merge_bases": False, "evaluation.limits": STRICT.model_dump()}
        edited(ROOT / "params.yaml", tmp_path / "params.yaml", MICRO | changes)
        return tmp_path / "scratch"

    return make


@pytest.mark.proof
def test_the_adapter_is_measured_on_the_base_that_it_was_trained_on(build, adapter, rows):
    """For qlora the 4-bit one: the merge through NF4 is the nearer, which is what merge_bases shows."""
    scratch = build("qlora", adapter)
    by_transformers = partial(measure.by_transformers, rows=rows, device="cpu")
    said = {"base": say(stage.BASE, rows), "adapter": stage.trained(by_transformers, "cpu", scratch)}
    said |= {"nf4": partial(stage.merged_into, "nf4", by_transformers, "cpu", scratch)}
    found = take(rows, scratch, **said)
    shutil.rmtree(scratch)
    scratch.mkdir()
    said["original"] = partial(stage.merged_into, "original", by_transformers, "cpu", scratch)
    other = take(rows, scratch, **{name: said[name] for name in ("base", "adapter", "original")})
    assert 0 < found["nf4"].figures()["kl"] < 0.1 * other["original"].figures()["kl"]
    build("lora", adapter)
    (scratch / "lora").mkdir()
    lora = take(rows, scratch / "lora", base=said["base"], adapter=stage.trained(by_transformers, "cpu", scratch))
    assert lora["adapter"].figures()["loss"] != other["adapter"].figures()["loss"], "16-bit"


def test_of_full_training_the_trained_weights_are_measured(build, base, rows, tmp_path):
    from safetensors.torch import load_file, save_file

    weights = load_file(base / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"] *= 3
    (tmp_path / "full").mkdir()
    save_file(weights, tmp_path / "full/model.safetensors", metadata={"format": "pt"})
    scratch = build("full", tmp_path / "full")
    trained = stage.trained(partial(measure.by_transformers, rows=rows, device="cpu"), "cpu", scratch)
    assert take(rows, scratch, base=say(base, rows), adapter=trained)["adapter"].figures()["learnt"]["kl"] > 0.001


@pytest.mark.proof
def test_the_stage_shows_the_ledger_before_it_fails_by_the_limits(build, base, adapter, half, tmp_path, capsys):
    """Of a build whose merge had no effect and whose file never ends."""
    build("lora", adapter)
    scoring = {"evaluation.score": {"match": "exact", "pattern": None, "prompts": 2, "tokens": 8, "least": 0.5}}
    edited(tmp_path / "params.yaml", tmp_path / "params.yaml", scoring)
    folder = tmp_path / "build"
    for name in ("image.lock", "llama.cpp", ".cache"):
        (tmp_path / name).symlink_to(ROOT / name)
    (folder / "merged").symlink_to(base)
    for name in ("dataset", "f16", "gguf", "modelfile"):
        (folder / name).mkdir()
    (folder / "f16/micro-F16.gguf").symlink_to(half)
    llamacpp.quantize(half, folder / "gguf/micro-Q4_K_M.gguf", "Q4_K_M", None)
    for split in ("train", "eval"):
        write_jsonl(folder / f"dataset/{split}.jsonl", [{"messages": messages} for messages in CONVERSATIONS])
    (folder / "dataset/chat_template.jinja").write_text(encoding.jinja("chatml"))
    tokenise(folder / "dataset", base)
    served = replace(
        SERVED, model="../gguf/micro-Q4_K_M.gguf", template=encoding.go_template("chatml"), system="Answer."
    )
    (folder / "modelfile/Modelfile").write_text(modelfile.dump(served))
    with pytest.raises(
        StageError,
        match=(
            r"^merged: KL divergence to adapter is (.|\n)*0.0% of the answers to 2 held-out(.|\n)*"
            r"score.least: too few of 2"
        ),
    ):
        stage.main()
    shown = capsys.readouterr().out
    assert "KL to before" in shown and "learnt" in shown, "DVC removes the report of a stage that fails"
    report = json.loads((tmp_path / "reports/evaluation.json").read_text())
    assert list(report["held_out"]) == sorted(["base", "adapter", "merged", "16-bit", "Q4_K_M"])
    assert report["loses_most"] == "merged" and report["stops"]["ran_on"] == 2
    asked = json.loads((folder / "evaluation/answers.json").read_text())
    assert sorted(path.name for path in (folder / "evaluation").iterdir()) == ["answers.json", "score.json"]
    scored = json.loads((folder / "evaluation/score.json").read_text())
    assert len(asked) == 4 and len(scored) == 2
    # Of the same weights, quantised alike: the base's file says what the final one says.
    assert all(row["base"] == row["final"] and not row["final"]["right"] for row in scored)
    figures = {
        "match": "exact",
        "asked": 2,
        "unchecked": 0,
        "base": 0.0,
        "final": 0.0,
        "ended": {"base": 0.0, "final": 0.0},
    }
    assert report["score"] == figures
