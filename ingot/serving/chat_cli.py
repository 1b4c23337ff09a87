"""`make chat`: talk to the built file, with the Modelfile's own system prompt, parameters and stops."""

from __future__ import annotations

import codecs
import itertools
import os
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingot.console.messages import command, plain
from ingot.console.progress import StageError, bytes_
from ingot.llama import llamacpp
from ingot.serving import modelfile
from ingot.serving.modelfile import Modelfile

MODELFILE = Path("build/modelfile/Modelfile")
# The Modelfile's parameters as llama-cpp-python calls them. What a Modelfile does not say is the library's own default.
SAMPLING = {"temperature": "temp"} | {name: name for name in ("top_k", "top_p", "min_p", "typical_p")}
SAMPLING |= {name: name for name in ("repeat_penalty", "presence_penalty", "frequency_penalty")}
FOLLOWED = (*SAMPLING, "seed", "num_predict", "num_ctx")
HELP = "/bye ends, /clear forgets what was said"

Messages = list[dict[str, str]]


class TooLong(Exception):
    """The conversation leaves no room for an answer within num_ctx."""


@dataclass
class Talker:
    """A loaded model, `render` its own template, `ends` the tokens that end an answer."""

    model: Any
    served: Modelfile
    render: Callable[..., Any]
    ends: Collection[int]

    def reply(self, messages: Messages) -> str:
        """Print the answer as it comes; return it, or as much as there was when Ctrl-C stopped it. Raises TooLong."""
        prompt = self.model.tokenize(self.render(messages=messages).prompt.encode(), add_bos=False, special=True)
        context = int(self.served.parameters["num_ctx"])
        limit = int(self.served.parameters.get("num_predict", -1))  # -1, -2: as much as there is room for
        room = context - len(prompt)
        if room < 1:
            raise TooLong(f"{len(prompt)} tokens leave no room for an answer within num_ctx ({context})")
        options = {SAMPLING[key]: value for key, value in self.served.parameters.items() if key in SAMPLING}
        tokens = itertools.islice(self.model.generate(prompt, **options), min(room, limit) if limit > 0 else room)
        said = ""
        try:
            for piece in self._pieces(tokens):
                print(plain(piece) if sys.stdout.isatty() else piece, end="", flush=True)
                said += piece
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
        print()
        return said

    def _pieces(self, tokens):
        """The answer in parts, up to its end token or a stop; control tokens are text here, as they are to Ollama."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        kept = ""  # what may be the beginning of a stop
        for token in tokens:
            if token in self.ends:
                break
            kept += decoder.decode(self.model.detokenize([token], special=True))
            if found := [at for stop in self.served.stops if (at := kept.find(stop)) >= 0]:
                yield kept[: min(found)]
                return
            sure = next(
                at for at in range(len(kept) + 1) if any(s.startswith(kept[at:]) for s in self.served.stops or [""])
            )
            yield kept[:sure]
            kept = kept[sure:]
        else:
            say("(cut off: num_predict is reached, or num_ctx is full)")
        yield kept + decoder.decode(b"", final=True)


def main(question: str | None) -> None:
    """Answer one question, or every line of the standard input until it ends or says /bye."""
    served, file = modelfile.read(MODELFILE)
    if unknown := [name for name in served.parameters if name not in FOLLOWED]:
        say(f"not known to llama-cpp-python, so only Ollama will follow it: PARAMETER {', '.join(unknown)}")
    context = served.parameters.get("num_ctx")
    if context is None:
        raise StageError(f"{MODELFILE}: no PARAMETER num_ctx: Ollama would choose one by the card's memory; write it")
    model = llamacpp.open_model(file, int(context), "cuda" if llamacpp.has_gpu() else "cpu")
    if "seed" in served.parameters:
        model.set_seed(int(served.parameters["seed"]))
    talker = Talker(model, served, llamacpp.chat_template(model, file), llamacpp.end_tokens(model))
    began = [{"role": "system", "content": served.system}] * bool(served.system) + served.messages
    if question is not None:
        try:
            talker.reply([*began, {"role": "user", "content": question}])
        except TooLong as error:
            raise StageError(f"{error}; raise modelfile.num_ctx in params.yaml, or ask less") from None
        return
    typed = sys.stdin.isatty()
    if typed:
        say(f"{file.name}, {bytes_(file.stat().st_size)}, {context} tokens of context; {HELP}")
    converse(talker, began, ">>> " if typed else "")


def converse(talker: Talker, began: Messages, prompt: str) -> None:
    """Answer line by line. Ctrl-C stops an answer, or the conversation where none is being given; Ctrl-D ends it."""
    messages = list(began)
    while True:
        try:
            line = input(prompt).strip()
        except EOFError:
            return
        if line == "/bye":
            return
        if line == "/clear":
            messages = list(began)
        elif line in ("/?", "/help"):
            say(HELP)
        elif line:
            try:
                asked = [*messages, {"role": "user", "content": line}]
                messages = [*asked, {"role": "assistant", "content": talker.reply(asked)}]
            except TooLong as error:
                if not prompt:  # nobody is there to choose
                    raise StageError(f"{error}; raise modelfile.num_ctx in params.yaml, or ask less") from None
                say(f"{error}; the question is taken back: ask less, or /clear")


def say(note: str) -> None:
    """What is not the model's own word goes to stderr, so that answers can be piped on."""
    print(note, file=sys.stderr)


if __name__ == "__main__":
    for stream in (sys.stdin, sys.stdout, sys.stderr):  # whatever the locale says
        stream.reconfigure(encoding="utf-8")
    try:
        with command("chat"):
            main(os.fsencode(sys.argv[1]).decode("utf-8") if len(sys.argv) > 1 else None)
    except UnicodeDecodeError as error:
        sys.exit(f"chat: the question is no UTF-8: {error}")
    except KeyboardInterrupt:
        print()
