"""Conversations as the model sees them: the template, its tokens, and which of them are trained."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ingot.chat import tokenizer as without_transformers
from ingot.chat.forms import Form, form_of
from ingot.chat.tokens import Encoder, Span
from ingot.console.progress import StageError, foreign

FOLDER = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Template:
    """What a template has beside NAME.jinja (trained on, and in the GGUF) and NAME.gotmpl (Ollama's TEMPLATE)."""

    end: str  # ends an answer; a control token, always
    tokens: tuple[str, ...]  # the other marks that must be single control tokens of the vocabulary
    words: tuple[str, ...]  # marks that are text like any other
    roles: tuple[str, ...]  # those it renders; of a turn, role and text and nothing else
    bos: str | None  # the token that the text begins with: the Jinja writes it, servers add it by the GGUF's word
    families: str


ROLES = ("system", "user", "assistant")
# A system prompt has a turn of its own in chatml, llama3 and phi4, stands first and without a mark in deepseek-r1, and
# before the first question in gemma, mistral and llama2, which have no role for it: Gemma 2's own template refuses one,
# Mistral's moves it on to the last question. Where these are strict the Jinja raises: user and assistant take turns.
TEMPLATES = {
    "chatml": Template("<|im_end|>", ("<|im_start|>",), (), (*ROLES, "tool"), None, "Qwen2, Qwen2.5, Qwen3"),
    "llama3": Template(
        "<|eot_id|>", ("<|start_header_id|>", "<|end_header_id|>"), (), (*ROLES, "tool"), "<|begin_of_text|>",
        "Llama 3.x"
    ),
    # Every turn of Llama 2 began with a BOS of its own; here there is one, at the beginning, as everywhere.
    "llama2": Template(
        "</s>", (), ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"), ROLES, "<s>",
        "Llama 2, CodeLlama, Mistral 7B v0.1 and v0.2"
    ),
    "mistral": Template("</s>", ("[INST]", "[/INST]"), (), ROLES, "<s>", "Mistral 7B v0.3, Nemo and later"),
    "gemma": Template("<end_of_turn>", ("<start_of_turn>",), (), ROLES, "<bos>", "Gemma 2 and 3"),
    "phi4": Template("<|im_end|>", ("<|im_start|>", "<|im_sep|>"), (), ROLES, None, "Phi-4"),
    # Thoughts between <think> and </think> are part of the answer's text, in every turn, where the data has them.
    "deepseek-r1": Template(
        "<｜end▁of▁sentence｜>", ("<｜User｜>", "<｜Assistant｜>"), (), ROLES, "<｜begin▁of▁sentence｜>",
        "DeepSeek-R1 distills"
    ),
}  # fmt: skip
# What ends a turn, what a server must stop at, and which roles are rendered, by template.
END_OF_TURN = {name: template.end for name, template in TEMPLATES.items()}
STOPS = {name: [*template.tokens, *template.words, template.end] for name, template in TEMPLATES.items()}
CARRIED = {name: template.roles for name, template in TEMPLATES.items()}

MAKES_ONE = (
    "take it from the model's own repository, or make one: "
    "AutoTokenizer.from_pretrained(folder).save_pretrained(folder) (of transformers, with sentencepiece)"
)
BATCH = 1000  # conversations that are rendered and tokenised at once: a call of either costs more than a conversation
FORMS = 1000  # sequences of roles whose forms are kept
Message = dict[str, str]  # {"role": one of CARRIED, "content": text}


@dataclass(frozen=True)
class Encoded:
    """One conversation: `text`, its token `ids`, and `trained` (bool, same length): True where the loss is taken."""

    text: str
    ids: list[int]
    trained: list[bool]


def jinja(template: str) -> str:
    """The chat template's source, without the file's final newline."""
    return (FOLDER / f"{template}.jinja").read_text(encoding="utf-8").rstrip("\n")


def go_template(template: str) -> str:
    """The same template in Go's text/template, as Ollama's Modelfile takes it; its final newline is part of it."""
    return (FOLDER / f"{template}.gotmpl").read_text(encoding="utf-8")


def load_tokenizer(folder: Path):
    """transformers' fast tokenizer of a model folder, as its tokenizer.json says; never fetches, never runs its code.

    Not by the class that the folder names: transformers 5 builds some of those anew from the vocabulary alone, and then
    DeepSeek-R1-Distill-Llama, Llama 2 and Mistral give other tokens than their own tokenizer.json.
    """
    from transformers import PreTrainedTokenizerFast

    with _readable(folder):
        return PreTrainedTokenizerFast.from_pretrained(
            str(folder), fix_mistral_regex=False, local_files_only=True, trust_remote_code=False
        )


def quick_tokenizer(folder: Path):
    """The same for who only renders and encodes: without transformers, where the folder's files are plain."""
    with _readable(folder):
        found = without_transformers.read(folder)
    return found or load_tokenizer(folder)


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Make a StageError of whatever its tokenizer's files do to the libraries that read them."""
    if not (folder / "tokenizer.json").is_file():
        raise StageError(f"{folder}: no tokenizer.json\nhint: {MAKES_ONE}")
    with foreign(f"{folder}: its tokenizer files cannot be read", "fetch them again, from the model's own repository"):
        yield


def special_tokens(tokenizer) -> list[str]:
    """Every text that the tokenizer turns into one control token."""
    return sorted(added.content for added in _added(tokenizer).values() if _control(added))


def special_ids(tokenizer) -> set[int]:
    """The ids of those tokens."""
    return {token for token, added in _added(tokenizer).items() if _control(added)}


def _added(tokenizer):
    """Its added tokens by their ids."""
    return tokenizer.backend_tokenizer.get_added_tokens_decoder()


def _control(added) -> bool:
    """As llama.cpp's converter decides: DeepSeek's own files do not call <｜User｜> special."""
    return added.special or bool(re.fullmatch(r"<\|.*\|>|<｜.*｜>", added.content))


def markers(tokenizer, template: str) -> list[str]:
    """Every text that no turn may hold, or it would forge another: control tokens, and the template's marks."""
    return sorted({*special_tokens(tokenizer), *STOPS[template]})


def check_template(tokenizer, template: str) -> None:
    """Raise StageError unless the template's marks are single control tokens of the vocabulary, its BOS the base's."""
    fitting = [name for name in TEMPLATES if not _lacking(tokenizer, name) and _begins(tokenizer, name)]
    fit = f"its tokens fit template: {' or '.join(fitting)}" if fitting else "no template here fits its tokens"
    families = TEMPLATES[template].families
    if missing := _lacking(tokenizer, template):
        raise StageError(
            f"the base's tokenizer has no control token {' or '.join(missing)}, which the {template} template is made "
            f"of (it is that of {families}); {fit}; else choose another base"
        )
    if not _begins(tokenizer, template):
        raise StageError(
            f"the {template} template (of {families}) begins with {TEMPLATES[template].bos}, but the base's BOS is "
            f"{tokenizer.bos_token}; {fit}; else choose another base"
        )


def _lacking(tokenizer, template: str) -> list[str]:
    special = special_tokens(tokenizer)
    return [mark for mark in (*TEMPLATES[template].tokens, TEMPLATES[template].end) if mark not in special]


def _begins(tokenizer, template: str) -> bool:
    return TEMPLATES[template].bos in (None, tokenizer.bos_token)


def render(tokenizer, messages: Sequence[Message], source: str, ask: bool = False) -> str:
    """The conversation as text by the template `source`; `ask` opens the assistant's turn."""
    return _render(tokenizer, [list(messages)], source, ask)[0]


def _render(tokenizer, conversations: list[list[Message]], source: str, ask: bool) -> list[str]:
    if not conversations:
        return []  # transformers looks at the first one
    return tokenizer.apply_chat_template(conversations, chat_template=source, tokenize=False, add_generation_prompt=ask)


def encode_text(tokenizer, text: str):
    """Any text's `ids` and their `offsets` in it."""
    return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)


def encode(tokenizer, messages: Sequence[Message], source: str, end_of_turn: str) -> Encoded:
    """One conversation, as `encode_all` does it."""
    return encode_all(tokenizer, [messages], source, end_of_turn)[0]


def encode_all(tokenizer, conversations: Sequence[Sequence[Message]], source: str, end_of_turn: str) -> list[Encoded]:
    """Tokenise conversations, each once and whole, and mark what is trained: each answer's words and its end token.

    An answer's place is what its turn adds to the text before it, so the template alone decides where it stands.
    Raises StageError where that has no place, and where the end token would not be trained.
    """
    backend = tokenizer.backend_tokenizer
    made, end, encoder = [], backend.token_to_id(end_of_turn), Encoder(backend)
    render_all = Renderer(tokenizer, source, end_of_turn)
    for first in range(0, len(conversations), BATCH):
        texts, spans = render_all(conversations[first : first + BATCH])
        for text, (ids, places) in zip(texts, encoder(texts, spans), strict=True):
            trained = [False] * len(ids)
            for left, right in places:
                if ids[right - 1] != end:
                    raise StageError(
                        f"an answer does not end with {end_of_turn} as one token, so the model would never learn to "
                        "stop: the base's tokenizer does not fit the template"
                    )
                trained[left:right] = [True] * (right - left)
            made.append(Encoded(text, ids.tolist(), trained))
    return made


class Renderer:
    """Renders conversations, and says where the answers stand in them.

    Our own templates' forms do it without Jinja; `_places` does it for every other template, and gives the same.
    """

    def __init__(self, tokenizer, source: str, end_of_turn: str):
        self.tokenizer, self.source, self.end = tokenizer, source, end_of_turn
        self.own = any(source == jinja(template) for template in TEMPLATES)
        self.forms: dict[tuple[str, ...], Form | None] = {}

    def __call__(self, conversations: Sequence[Sequence[Message]]) -> tuple[list[str], list[list[Span]]]:
        """Each conversation's text, and where in it the answers stand with their end tokens."""
        forms = [self._form(messages) for messages in conversations]
        rest = [messages for messages, form in zip(conversations, forms, strict=True) if form is None]
        other = zip(*_places(self.tokenizer, rest, self.source, self.end), strict=True)
        made = [
            next(other) if form is None else form.filled([message["content"] for message in messages])
            for messages, form in zip(conversations, forms, strict=True)
        ]
        return [text for text, _ in made], [spans for _, spans in made]

    def _form(self, messages: Sequence[Message]) -> Form | None:
        """None for a template that is not one of these here, and where the template has no form for such turns."""
        if not self.own:
            return None
        roles = tuple(message["role"] for message in messages)
        if roles not in self.forms:
            if len(self.forms) >= FORMS:
                self.forms.clear()

            def write(some: list[Message], ask: bool) -> str:
                return render(self.tokenizer, some, self.source, ask)

            self.forms[roles] = form_of(write, roles, self.end)
        return self.forms[roles]


def _places(
    tokenizer, conversations: Sequence[Sequence[Message]], source: str, end_of_turn: str
) -> tuple[list[str], list[list[Span]]]:
    """Each conversation's text, and where in it the answers stand with their end tokens."""
    answers = [
        (number, index)
        for number, messages in enumerate(conversations)
        for index, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    # All at once: what transformers does around the template takes far longer than the template.
    texts = _render(tokenizer, [list(messages) for messages in conversations], source, ask=False)
    befores = _render(tokenizer, [list(conversations[n][:i]) for n, i in answers], source, ask=True)
    inner = [(n, i) for n, i in answers if i + 1 < len(conversations[n])]
    uptos = dict(
        zip(
            inner,
            _render(tokenizer, [list(conversations[n][: i + 1]) for n, i in inner], source, ask=False),
            strict=True,
        )
    )
    spans: list[list[Span]] = [[] for _ in texts]
    for (number, index), before in zip(answers, befores, strict=True):
        upto = uptos.get((number, index), texts[number])
        if not (upto.startswith(before) and texts[number].startswith(upto)):
            raise StageError(
                "the chat template rewrites earlier turns, so the answer's place in the text is not defined"
            )
        stop = upto.rindex(end_of_turn, len(before)) + len(end_of_turn)
        spans[number].append((len(before), stop))
    return texts, spans
