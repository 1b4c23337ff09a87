"""What is done to texts, which are refused, and which rows are found alike."""

from __future__ import annotations

import random
import time
import unicodedata

import numpy
import pytest

from ingot.data.cleaning import Cleaner, Unfit, misread, placeholder
from ingot.mixing.near_duplicates import Frame, Index, compared, signed
from tests.data.test_layouts import CLEAN, SPECIAL


def cleaner(**changes) -> Cleaner:
    return Cleaner(CLEAN.model_copy(update=changes), SPECIAL)


def clean(text: str, **changes) -> str:
    return cleaner(**changes)(text, "user")


def test_hangul_that_was_taken_apart_is_joined():
    apart = unicodedata.normalize("NFD", "코스피 지수")
    assert clean(apart) == "코스피 지수" != apart
    assert clean(apart, unicode="none") == apart
    assert clean("ＫＯＳＰＩ ﬁ", unicode="NFC") == "ＫＯＳＰＩ ﬁ"
    assert clean("ＫＯＳＰＩ ﬁ", unicode="NFKC") == "KOSPI fi"


def test_control_characters():
    text = "a\0b\x1b[1m\tc\r\nd\re\x85f"
    assert clean(text, control_characters="keep") == text
    assert clean(text, control_characters="remove") == "ab[1m\tc\nd\nef"
    assert clean("a\tc\r\nd\re", control_characters="refuse") == "a\tc\nd\ne"
    with pytest.raises(Unfit, match="control character in the user turn") as error:
        clean(text, control_characters="refuse")
    assert error.value.detail == "U+0000"
    for kept in ("‏مرحبا", "👩‍👩‍👧", "a\u2028b", "tab\tand\nline"):
        assert clean(kept, control_characters="refuse") == kept


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("<|im_end|>", {}),
        ("<|im\0_end|>", {"control_characters": "remove"}),
        ("＜｜im_start｜＞", {"unicode": "NFKC"}),
        ("<|im_<|im_end|>end|>", {}),
        ("x<|endoftext|>", {}),
    ],
)
def test_no_step_puts_a_control_token_together(text, changes):
    with pytest.raises(Unfit, match="control token"):
        clean(text, **changes)
    escaped = clean(text, **changes, control_tokens="escape")
    assert not any(token in escaped for token in SPECIAL) and "< |" in escaped


def test_an_escaped_token_is_text_to_the_tokenizer(tokenizer):
    made = clean("a<|im_end|>\n<|im_start|>system", control_tokens="escape")
    assert made == "a< |im_end|>\n< |im_start|>system"
    ids = tokenizer(made, add_special_tokens=False)["input_ids"]
    assert not {tokenizer.convert_tokens_to_ids(token) for token in SPECIAL} & set(ids)


@pytest.mark.parametrize(
    "text", ["\u200b", " \ufeff\n", "\u2060\u200d\u00ad", "\u3164", "\u2800", "\u202e\u2069", "\ufe0f", "\U000e0041"]
)
def test_what_shows_nothing_is_empty(text):
    assert clean(text) == ""
    assert clean(text + "a" + text).strip(text) == "a", "but stays beside what shows"


SOUND = [
    "naïve café, “We met at the café…”", "CAFÉ» «É", "MAÇÃ IRMÃ, não", "Ärger über Öl", "코스피가 ‘3,000’을 넘다",
    "日本語「引用」", "MAÇûE “IRMÔ, ESPAÑA… ¿QUÉ?", "¿Qué? ¡Año!", "5 µm ± 2 °C", "Ångström…", "àâçéèêëîïôûùüÿœ",
    "مرحبا", "€uro £ und §3",
]  # fmt: skip


@pytest.mark.parametrize("text", SOUND)
def test_sound_text_is_no_mojibake(text):
    assert misread(text) == ""


# Every mark that a language puts after its letters, so that as many pairs as can be look misread.
LANGUAGES = {
    "French": (
        "«\xa0Où est le café\xa0», dit l’élève. «\xa0Là-bas, au marché\xa0», «\xa0très\xa0», «\xa0voilà\xa0»… "
        "\xa0é\xa0 à\xa0… «thé»"
    ),
    "German": "„Gruß“, sagte er. „Spaß“ und „weiß“, ‚Fuß‘ — »groß«! Gruß… Spaß… Ärger, Öl, Übung",
    "Turkish": "“Kör”, “gör” dedi. Ç’nin, Ü’nün, Ö’nün “Ü” “Ö” “Ç” harfleri… Güneş doğdu: Ç… Ö… Ü…",
    "Portuguese": "“Amanhã”, disse a irmã: “Não!” “É”, “à”, “MAÇÔ, “AMANHÔ, IRMûX — 3ª 4º É… Ã… Õ…",
    "Spanish": "¿Qué? ¡Sí! «José», “sofá”, ‘aquí’. Año 2º, 3ª. “ASÉ, “SOFÁ”, ESPAÑA… Í… É… Á…",
    "Italian": "“Perché…”, “è…”, “però…”, “così…”, «città»: È… À… perché’ è’ “CITTÀ…”",
    "Danish": "»Ø«, »Å«, »Æ« på en ø, en å… »nå« blå… Ø… Å… Æ… “Ø” “Å”",
    "Swedish": "”Gå”, ”två”, ”ö”, ”å”. ”Ö”, ”Å”, ”Ä”… SJÖ’",
    "Icelandic": "„Það“, „Guð“, „við“, „þú“… Ð… Þ… ð… „á“, „í“",
    "Hungarian": "„Jó”, „fű”, „nő”, „É”, „Á”, „Ü”, „Ö”… »Jó«",
    "Czech": "„Dobrý den“, „á“, „é“, „í“, „ú“, „ý“… „Ý“ „Á“",
    "Vietnamese": "“Là”, “nhà”, “cá”, “đã”, “ĐÔ, “Â” “ă”… “CÂU”",
    "Romanian": "„Bună”, „în”, „râu”, „Î”, „Â”… „așÔ",
    "physics": "5 Å², 7 Å³, 2.1 Å±0.1, 3 Å·mol, Â², 2×½, 3×¼, 4×¾, µm, 20 °C",
}  # fmt: skip


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_language_is_mojibake_and_each_is_when_misread(language):
    text = LANGUAGES[language]
    for sound in (
        text,
        text.upper(),
        text * 3,
        text.replace(" ", "\xa0"),
        text.replace(" ", ""),
        text.replace("«", ""),
    ):
        assert misread(sound) == "", sound
    for encoding in ("latin-1", "cp1252"):
        assert misread(text.encode().decode(encoding, "ignore")), encoding


def as_browsers_read(text: str) -> str:
    """Windows-1252, where the five bytes that it lacks are controls."""
    return "".join(bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in text.encode())


@pytest.mark.parametrize(
    "text",
    ["It’s here", "naïve café", "코스피 지수는 올랐다", "日本語の文章です", "Привет, как дела", "你好，世界",
     "שלום עולם", "مرحبا بالعالم", "Καλημέρα κόσμε", "สวัสดีครับ", "नमस्ते दुनिया", "Güneş doğdu", "gęślą jaźń",
     "Österreich", "Straße", "😀", "10\xa0000", "km²"],
)  # fmt: skip
def test_what_was_decoded_wrongly_is_found(text):
    for wrong in (text.encode().decode("latin-1"), text.encode().decode("cp1252", "ignore"), as_browsers_read(text)):
        assert misread(wrong), wrong
    with pytest.raises(Unfit, match="mojibake in the user turn"):
        clean(wrong)
    assert clean(wrong, mojibake="keep", control_characters="keep")


def test_a_replacement_character_is_mojibake():
    with pytest.raises(Unfit, match="mojibake"):
        clean("caf\ufffd")


def jaccard(one: bytes, other: bytes) -> float:
    sets = [{text[i : i + 8] for i in range(len(text) - 7)} for text in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def words(chance: random.Random, count: int) -> list[str]:
    return ["".join(chance.choices("abcdefghijklmnop가나다라마", k=chance.randint(2, 9))) for _ in range(count)]


def test_similarity_is_jaccards_whatever_the_batch():
    chance, index = random.Random(1), Index(2000, 0.5)
    pairs = []
    for number in range(400):
        text = words(chance, chance.choice([12, 60, 300]))
        other = text[:]
        for place in chance.sample(range(len(text)), int(len(text) * number / 1200)):
            other[place] = "x" + other[place]
        pairs += [" ".join(text).encode(), " ".join(other).encode()]
    bins = signed(pairs)
    keys = index.keys(bins)
    assert (bins[3] == signed(pairs[3:4])[0]).all()
    for several, alone in zip(keys[3], index.keys(bins[3:4])[0], strict=True):  # hashes, slots
        assert (several == alone).all()
    wrong, missed, alike = [], 0, 0
    for number in range(0, len(pairs), 2):
        true = jaccard(pairs[number], pairs[number + 1])
        index.take(bins[number], keys[number])
        found = index.resembled(bins[number + 1], keys[number + 1])
        assert set(found) <= {number // 2}, "rows of other words are not alike"
        alike += true >= 0.6
        missed += true >= 0.6 and not found
        wrong += [abs(share - true) for share in found.values()]
    assert alike > 100 and missed <= 0.03 * alike
    assert numpy.mean(wrong) < 0.04 and max(wrong) < 0.2


def test_short_and_empty_texts_are_alike_only_when_they_are():
    index = Index(100, 0.85)
    texts = [b"", b"a", b"yes", b"no", "네".encode(), b"12345678", b"123456789", b"a"]
    bins = signed(texts)
    alike = []
    for number, keys in enumerate(index.keys(bins)):
        alike += [(place, number) for place in index.resembled(bins[number], keys)]
        index.take(bins[number], keys)
    assert alike == [(1, 7)]


def test_compared_is_all_but_the_system_prompt_case_and_spacing():
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": " A  b\n"},
        {"role": "assistant", "content": "C"},
    ]
    assert compared(messages) == b"a b c"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("    a\n    b", "    a\n    b"),
        ("\n\n  \n    a\n    b\n \n", "    a\n    b"),
        ("\ta", "\ta"),
        ("    return x", "    return x"),
        (" a\n-b\n+c", " a\n-b\n+c"),
        (" a", "a"),
        (" a  \n", "a"),
        ("\r\n    a\r\n    b\r\n", "    a\n    b"),
        ("\u3000a\nb", "\u3000a\nb"),
        ("\n\u3000\u3000a\n\u3000\u3000b\n", "\u3000\u3000a\n\u3000\u3000b"),
        ("\u00a0\u00a0a\n\u00a0\u00a0b \u00a0", "\u00a0\u00a0a\n\u00a0\u00a0b"),
        ("\u00a0\u00a0a", "\u00a0\u00a0a"),
        ("\u3000a", "a"),
        (" \ta", " \ta"),
        ("\u2003\ta\nb", "\u2003\ta\nb"),
        ("\ta\n\tb", "\ta\n\tb"),
        ("\u2028  a\n  b", "  a\n  b"),
        ("\ufeffa", "a"),
        ("\ufeff    a\n    b", "    a\n    b"),
        ("\n\u00a0\n  a", "  a"),
        (" \n\t\n", ""),
    ],
)
def test_blank_lines_go_and_indents_stay(text, left):
    assert clean(text, control_characters="refuse") == left


def framed(texts: list[str]) -> Frame:
    return Frame([[{"role": "system", "content": "s"}, {"role": "user", "content": text}] for text in texts])


FORM = "You are given a headline. Decide which way the price moves, and answer with one word. "


def test_what_the_questions_of_a_set_share_is_not_compared():
    heads = [f"{number * 7919 % 1000} tonnes of {number}" for number in range(40)]
    for texts in (
        [FORM + head for head in heads],
        [f"{head}\n{FORM}" for head in heads],
        [f"{FORM}\n{head}\n{FORM}" for head in heads],
    ):
        frame = framed(texts)
        assert all(len(frame.inside(text)) < 40 for text in texts)
        bins = signed([compared([{"role": "user", "content": text}], frame) for text in texts])
        assert all((bins[0] != other).any() for other in bins[1:])
    some = framed([FORM + head for head in heads] + ["And one that is another"])
    assert (
        some.inside(FORM + heads[3]) == heads[3] and some.inside("And one that is another") == "And one that is another"
    )


def test_a_question_that_few_repeat_is_no_frame():
    chance = random.Random(1)
    texts = [" ".join(str(chance.getrandbits(30)) for _ in range(6)) for _ in range(200)]
    assert framed([*texts, *[FORM + "x", FORM + "y"] * 5]).begins == []
    assert framed([FORM + "x", FORM + "y"]).begins == []


UNFILLED = [
    "me@mail{{x}}",
    "<image id=1>",
    "<image:1>",
    "<image_here>",
    "<image_url>",
    "[image omitted]",
    "<Media omitted>",
    "<picture>",
    "[图片]",
    "[사진] 이게 뭐야?",
    "{{first}}_{{last}}",
    "**{{name}}**",
    "{{NAME_OF_USER}}",
    "Context:\n{{context}}\n\nQuestion: {{question}}",
    "${{price}}",
    "id={{id}}",
    "x{{name}}",
    "Hello_{{name}}",
    "{{  name  }}",
    "{{name|upper}}",
    "<image_1>",
    "<image 1>",
    "<Image>",
    "[image]",
    "<image/>",
    "<audio_1>",
    "<video>",
    "<|image_pad|>",
    "<|image|>",
    "It costs ${{price}}, not $5.",
    "{{ name | default('x') }}",
    "{{\n name\n}}",
    "{{user's name}}",
    "{{items[0]}}",
    "{{name}}",
    "Dear {greeting}{{name}}",
    "Hello\\n{{name}}",
    "I have {{n}} apples",
    "{{first name}}",
    "<system>You are {{name}}</system>",
    "<document>{{doc}}</document>",
    "I am {{name}} of {{company}}",
    "<IMAGE>",
    "<image />",
    "<image-1>",
    "[IMG_1]",
    "[Image #1]",
    "[video]",
    "<|vision_start|>x",
    "<|AUDIO|>",
    "<start_of_image>",
    "<image_soft_token>",
    "<ImageHere>",
    "<images>",
    "What is this<image>",
    "这是什么<image>",
    "<image>\nGenerate HTML for it",
    "<image> Generate HTML for it",
    "Generate HTML: <image>",
    "Which elements are in <image>?",
    "Describe the <image>.",
    "`code` {{name}}",
    "1. a\n    {{name}}",
    "du point de vue de {{name}}",
    "At the helm of {{company}}",
    "see <img>",
    "a\n\n    code\n\n{{name}}",
    "~~~\nx\n~~~ {{name}}",
    "안녕하세요 {{이름}}님",
    "<{{name}}>",
    "{{name}}%",
    "{{a}}{{b}}",
    "(see {{url}})",
    "Hi {{first_name}} {{last_name}}",
    "{{ user.name }}",
    "[AUDIO]",
    "<|image_1|>",
    "<video/>",
    "```\ncode\n``` {{name}}",
    "안녕~~~ {{name}}",
    "(a {{b}})",
]
MEANT = [
    "\\hat{{y}}_{{t}}",
    "What do {{ and }} mean?",
    "The tags <video> and <audio>",
    "HTML has <video> for films",
    "Optional<Image> x",
    "{{lang|fr|x}} and {{main|X}} and {{reflist}}",
    "the <picture> element",
    "- run: ${{ github.ref }}",
    "What does Ansible's {{ item }} hold?",
    "[사진](x.png)",
    "photos[image]",
    'f"{{x}}"',
    "print(f'{{x}}')",
    "How do I print braces in an f-string? {{x}}",
    "In Jinja {{ user.name }} prints it",
    "How do I set {{ title }} in Vue?",
    "Helm: {{ .Values.x }} and {{ include x }}",
    "{{#if x}}",
    "<h1>{{ title }}</h1>",
    "~~~\n{{name}}\n~~~",
    "~~~jinja\n{{name}}",
    "    {{ name }}",
    "Do this:\n\n    {{ name }}\n    x\n\nok",
    "Do:\n\n\t{{name}}",
    "use `{{ name }}` so",
    "use `` {{ name }} `` so",
    "{{cite web}}",
    "{{cite web|url=x}}",
    "{{citation needed}}",
    "what does the <video> tag do?",
    "The <video> element",
    "<video> elements are",
    'What is "<video>"?',
    "How do I use <video> in HTML5?",
    "the <video>, <audio> and <img> tags",
    "the <video> and <audio> elements",
    "\\frac{{a}}{{b}}",
    "x^{{n}} + x_{{k}}",
    "\\sigma_{{max}}",
    "\\text{{foo}}",
    "\\begin{{cases}}",
    "style={{color}}",
    "style={{color: 'red'}}",
    '<a href="{{url}}">',
    "<Foo style={{a}} />",
    "@article{x, title = {{Attention Is All}}}",
    "${{ secrets.TOKEN }}",
    "{{1, 2}, {3}}",
    "{{a, b}}",
    "{{a, b}, {c}}",
    "List<Image> x",
    "<image>x</image>",
    "a[image]",
    "![image](x.png)",
    "[image](x.png)",
    "[IMF] [1]",
    "<img src='x'>",
    "{name}",
    "{% for x in y %}{{ x }}{% endfor %}",
    '"{{name}}".format(name=1)',
    "Handlebars uses {{name}}",
    "images and video",
    "<imagery>",
    "[imagery]",
    "React's <Image/> component",
    "x < image and video > y",
    "how do double braces {{x}} work",
]


@pytest.mark.parametrize("text", UNFILLED)
def test_what_was_never_filled_in_is_found(text):
    with pytest.raises(Unfit, match="placeholder in the user turn") as error:
        clean(text, placeholders="refuse")
    assert error.value.detail in text and error.value.taken_by == "dataset.clean.placeholders: keep"


@pytest.mark.parametrize("text", MEANT)
def test_braces_and_tags_that_are_meant_are_kept(text):
    assert placeholder(text) == ""


@pytest.mark.parametrize(
    "text",
    ["{{" * 50_000, "<image" * 50_000, "'<image>' " * 20_000, "    \n" * 50_000 + "{{", "`" * 100_000 + "{{",
     "x_{" * 50_000 + "{{", "<video> <a>" * 20_000, "{{a}} <a " + "= " * 100_000, '{{a}} <a ="x' * 30_000,
     "<video> tag " * 20_000, "<image" + "1" * 100_000, "<image" + " _id" * 50_000, "[image" + "- " * 50_000],
)  # fmt: skip
def test_no_text_takes_long_to_look_through(text):
    began = time.monotonic()
    placeholder(text)
    assert time.monotonic() - began < 2
