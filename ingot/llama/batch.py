"""Many prompts answered at once by llama.cpp, greedily: one pass through the weights gives the next token of each.

llama.cpp computes several rows by other kernels than one, so answers differ from those of `answers.ask`, which asks one
at a time. Of Gemma 3 270M on a CPU, logits differ by 0.004 on average in F16 and by 0.16 in Q4_K_M, and 9 of 16 answers
of 64 tokens part somewhere. What the other rows hold changes no bit. The same prompts in the same order give the same
answers again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy

from ingot.console.progress import StageError

AT_ONCE = 16  # answers; their keys and values take memory for as many tokens


@dataclass
class Answering:
    """An answer as far as it is written."""

    number: int  # of the prompt
    place: int  # of the next token in its sequence
    room: int  # tokens that it may still have
    token: int = -1  # written last
    text: bytes = b""


def replies(
    loaded, asked: Sequence[tuple[list[int], int]], stops: Sequence[str], ends: set[int]
) -> Iterator[tuple[int, str, str | None]]:
    """Of each prompt (ids, and the most tokens of its answer) its number, its answer, and what ended it, as they end.

    That is a token of `ends` (None), the stop itself, or "" where the answer was cut off.
    """
    import llama_cpp

    longest = max(len(ids) for ids, _ in asked)
    sequences = min(AT_ONCE, len(asked))
    settings = type(loaded.context_params).from_buffer_copy(loaded.context_params)
    settings.n_ctx = sequences * max(len(ids) + room for ids, room in asked)
    settings.n_batch = settings.n_ubatch = max(longest, sequences)
    settings.n_seq_max = sequences
    context = llama_cpp.llama_init_from_model(loaded.model, settings)
    if not context:
        raise StageError(
            f"evaluation.score: no memory for {sequences} answers at once ({settings.n_ctx:,} tokens)\n"
            "hint: lower evaluation.score.tokens"
        )
    batch = llama_cpp.llama_batch_init(settings.n_batch, 0, 1)
    memory, words = llama_cpp.llama_get_memory(context), loaded.n_vocab()

    def decode(entries: list[tuple[int, int, int, bool]]) -> None:
        """Each a token, its place, its sequence, and whether the one after it is wanted."""
        batch.n_tokens = len(entries)
        for row, (token, place, sequence, wanted) in enumerate(entries):
            batch.token[row], batch.pos[row], batch.logits[row] = token, place, wanted
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, sequence
        if status := llama_cpp.llama_decode(context, batch):
            raise StageError(
                f"evaluation.score: llama.cpp could not go on with {len(entries)} tokens (status {status})\n"
                "hint: lower evaluation.score.tokens; on a GPU, look whether another program takes its memory"
            )

    def likeliest(row: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(context, row)
        return int(numpy.ctypeslib.as_array(logits, shape=(words,)).argmax())

    def over(answer: Answering) -> tuple[str, str | None] | None:
        """The text and what ended it, once it has ended; adds the last token to the text."""
        if answer.token in ends:
            return answer.text.decode("utf-8", "replace"), None
        answer.text += loaded.detokenize([answer.token], special=True)
        answer.room -= 1
        if found := [(at, stop) for stop in stops if (at := answer.text.find(stop.encode())) >= 0]:
            at, stop = min(found)
            return answer.text[:at].decode("utf-8", "replace"), stop
        return None if answer.room else (answer.text.decode("utf-8", "replace"), "")

    waiting, live = iter(enumerate(asked)), dict.fromkeys(range(sequences))
    try:
        while True:
            for sequence in live:
                while live[sequence] is None and (following := next(waiting, None)):
                    number, (ids, room) = following
                    llama_cpp.llama_memory_seq_rm(memory, sequence, -1, -1)
                    decode([(token, place, sequence, place == len(ids) - 1) for place, token in enumerate(ids)])
                    answer = Answering(number, len(ids), room, likeliest(-1))
                    if ended := over(answer):
                        yield number, *ended
                    else:
                        live[sequence] = answer
            going = [(sequence, answer) for sequence, answer in live.items() if answer]
            if not going:
                return
            decode([(answer.token, answer.place, sequence, True) for sequence, answer in going])
            for row, (sequence, answer) in enumerate(going):
                answer.token, answer.place = likeliest(row), answer.place + 1
                if ended := over(answer):
                    live[sequence] = None
                    yield answer.number, *ended
    finally:
        llama_cpp.llama_batch_free(batch)
        llama_cpp.llama_free(context)
