"""tiktoken gives the ids of the base's own tokenizer, or is not asked."""

from __future__ import annotations

import json
import random
import unicodedata
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from ingot.chat import encoding
from ingot.chat import tokenizer as without_transformers
from ingot.chat.tokens import BYTE, COMPOSES, FEW, Encoder, Tiktoken, same
from tests import families

LETTERS = "가나다라주가지수채권 \n\t  aбвгé🙂 12345.,!?'s 're中文字\u00a0\u3000-–—x각"
SPACES = ["", " ", "  ", "\n", "\n ", " \n\n", "\t"]
DECOMPOSED = "cafe\u0301 e\u0301"


def conversations(count: int) -> list[list[encoding.Message]]:
    draw = random.Random(1)

    def text() -> str:
        return draw.choice(SPACES) + "".join(draw.choices(LETTERS, k=draw.randint(1, 60))) + "x" + draw.choice(SPACES)

    turns = [encoding.Message(role=role, content="") for role in ("user", "assistant", "user", "assistant")]
    return [[turn | {"content": text()} for turn in turns] for _ in range(count)]


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("qwen2", "chatml"),
        ("llama3", "llama3"),
        ("phi4", "phi4"),
        ("r1_qwen", "deepseek-r1"),
        ("r1_llama", "deepseek-r1"),
    ],
)
def test_the_same_ids_and_places(name, template, tmp_path):
    families.TOKENIZERS[name](tmp_path)
    tokenizer = encoding.load_tokenizer(tmp_path)
    texts, spans = encoding._places(
        tokenizer, conversations(400), encoding.jinja(template), encoding.END_OF_TURN[template]
    )
    fast, backend = Tiktoken.of(tokenizer.backend_tokenizer), tokenizer.backend_tokenizer
    assert all(map(same, fast.encode(texts, spans), Encoder(backend)(texts, spans)))
    composed, decomposed = fast.encode(["é", DECOMPOSED], [[], []])
    assert composed and (decomposed is None) == (name == "qwen2"), "it has to be composed first"


def test_many_texts_are_encoded_by_tiktoken_and_those_that_change_first_are_not(qwen):
    encoder = Encoder(encoding.load_tokenizer(qwen).backend_tokenizer)
    texts = ["Bonds.", DECOMPOSED, "금리"] * (FEW // 3 + 1)
    spans = [[(0, 3), (3, len(text))] for text in texts]
    slow = encoder(texts, spans)
    assert encoder.fast
    assert all(map(same, encoder(texts, spans), slow))


def test_a_vocabulary_that_is_no_byte_level_bpe_is_left_alone(tmp_path):
    families.TOKENIZERS["llama2"](tmp_path)
    assert Tiktoken.of(encoding.load_tokenizer(tmp_path).backend_tokenizer) is None


def made(*merges: tuple[str, str], **added) -> Tokenizer:
    """A tokenizer of bytes and what `merges` make of them, with one control token."""
    words = [*BYTE, *("".join(merge) for merge in merges)]
    tokenizer = Tokenizer(models.BPE({word: token for token, word in enumerate(words)}, list(merges)))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(families.SINGLE_DIGITS), "isolated"),
            pre_tokenizers.ByteLevel(False, use_regex=False),
        ]
    )
    tokenizer.add_special_tokens([AddedToken("<|end|>", normalized=False, special=True, **added)])
    return tokenizer


def test_rules_that_tiktoken_does_not_know_are_left_to_the_base():
    sound = made(("a", "b"), ("ab", "c"))
    [(ids, spans)] = Tiktoken.of(sound).encode(["abcab<|end|>"], [[(0, 5)]])
    assert (ids.tolist(), spans) == ([257, 256, 258], [(0, 2)])
    assert Tiktoken.of(made(("a", "b"), ("ab", "c"), lstrip=True)) is None, (
        "a control token that takes the space before it"
    )
    sound.add_special_tokens([AddedToken("<|end|>s", normalized=False, special=True)])
    assert Tiktoken.of(sound) is None, "control tokens of which one begins another"
    two = made(("a", "b"), ("c", "d"))
    two.model = models.BPE(two.get_vocab(), [("c", "d"), ("a", "b")])
    assert Tiktoken.of(two) is None, "merges in another order than their words"
    two.pre_tokenizer = pre_tokenizers.ByteLevel(False)
    assert Tiktoken.of(two) is None


def test_a_vocabulary_that_tiktoken_reads_otherwise_is_found_out_by_its_texts():
    """`abc` is made of `a` and `bc` only, and `ab` comes first: the base never gives it, tiktoken always does."""
    backend = made(("a", "b"), ("b", "c"), ("a", "bc"))
    assert backend.encode("abc").ids == [256, BYTE["c"] - 33]
    assert Tiktoken.of(backend).encode(["abc"], [[]])[0][0].tolist() == [258]
    encoder = Encoder(backend)
    texts, spans = ["a", "abc"] * FEW, [[]] * 2 * FEW
    before = encoder(texts, spans)
    assert encoder.fast is None and all(map(same, encoder(texts, spans), before))


def test_what_is_not_looked_at_for_composing_is_never_changed_by_it():
    """By this Python's Unicode: what is left out never decomposes, moves, or composes with an earlier letter."""
    plain = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000 and not COMPOSES.search(chr(code))]
    assert all(unicodedata.is_normalized("NFC", letter) and not unicodedata.combining(letter) for letter in plain)
    second = {
        chr(int(parts[1], 16))
        for code in range(0x110000)
        if len(parts := unicodedata.decomposition(chr(code)).split()) == 2 and "<" not in parts[0]
    }
    assert second and not second & {*plain}
    assert not {chr(code) for code in range(0x1100, 0x1200)} & {*plain}, "Hangul's own letters"


# --- without transformers


def alike(folder: Path) -> bool:
    """Whether the folder's tokenizer is read without transformers. If so, it must be what transformers makes of it."""
    own, known = without_transformers.read(folder), encoding.load_tokenizer(folder)
    if own is None:
        return False
    assert json.loads(own.backend_tokenizer.to_str()) == json.loads(known.backend_tokenizer.to_str())
    assert own.special_tokens_map == known.special_tokens_map and own.bos_token == known.bos_token
    assert encoding.special_ids(own) == encoding.special_ids(known)
    assert own.backend_tokenizer.encode_special_tokens == known.backend_tokenizer.encode_special_tokens
    return True


@pytest.mark.parametrize("name", families.TOKENIZERS)
def test_a_familys_tokenizer_is_read_as_transformers_reads_it(name, tmp_path):
    families.TOKENIZERS[name](tmp_path)
    assert alike(tmp_path)
    encoding.load_tokenizer(tmp_path).save_pretrained(tmp_path / "saved")  # as transformers 5 writes it
    assert alike(tmp_path / "saved")


@pytest.mark.parametrize("change", [
    {"extra_special_tokens": ["<new>"]},
    {"additional_special_tokens": ["the"]},
    {"extra_special_tokens": {"image_token": "<|im_end|>"}},
    {"image_token": "<|im_end|>"},
    {"pad_token": "<pad>"},
    {"eos_token": "Bond"},
    {"added_tokens_decoder": {"5": {"content": "<five>", "special": True}}},
    {"split_special_tokens": True},
    {"fast_tokenizer_files": ["tokenizer.4.0.0.json"]},
    {"backend": "sentencepiece"},
])  # fmt: skip
def test_what_only_transformers_does_is_left_to_it(change, qwen, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((qwen / "tokenizer.json").read_bytes())
    config = json.loads((qwen / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert without_transformers.read(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | change))
    assert without_transformers.read(tmp_path) is None


@pytest.mark.parametrize("name", ["added_tokens.json", "special_tokens_map.json"])
def test_files_of_older_transformers_are_left_to_it(name, qwen, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((qwen / "tokenizer.json").read_bytes())
    (tmp_path / name).write_text("{}")
    assert without_transformers.read(tmp_path) is None


@pytest.mark.parametrize("key", ["truncation", "padding"])
def test_a_tokenizer_that_cuts_or_fills_is_left_to_transformers(key, qwen, tmp_path):
    backend = Tokenizer.from_file(str(qwen / "tokenizer.json"))
    backend.enable_truncation(9) if key == "truncation" else backend.enable_padding()
    backend.save(str(tmp_path / "tokenizer.json"))
    assert without_transformers.read(tmp_path) is None
