"""tiktoken gives the ids of the base's own tokenizer, or is not asked."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from ingot.chat import encoding
from ingot.chat.tokens import BYTE, FEW, Encoder, Tiktoken
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
    fast = Tiktoken.of(tokenizer.backend_tokenizer)
    assert [fast.encode(*each) for each in zip(texts, spans, strict=True)] == Encoder(tokenizer)(texts, spans)
    assert (fast.encode(DECOMPOSED, []) is None) == (name == "qwen2"), "it has to be composed first"


def test_many_texts_are_encoded_by_tiktoken_and_those_that_change_first_are_not(base):
    tokenizer = encoding.load_tokenizer(base)
    encoder = Encoder(tokenizer)
    texts = ["Bonds.", DECOMPOSED, "금리"] * (FEW // 3 + 1)
    spans = [[(0, 3), (3, len(text))] for text in texts]
    slow = encoder(texts, spans)
    assert encoder.fast
    assert encoder(texts, spans) == slow


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
    assert Tiktoken.of(sound).encode("abcab<|end|>", [(0, 5)]) == ([257, 256, 258], [(0, 2)])
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
    assert Tiktoken.of(backend).encode("abc", [])[0] == [258]
    encoder = Encoder(SimpleNamespace(backend_tokenizer=backend))
    texts, spans = ["a", "abc"] * FEW, [[]] * 2 * FEW
    before = encoder(texts, spans)
    assert encoder.fast is None and encoder(texts, spans) == before
