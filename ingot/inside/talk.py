"""`make chat`: talk to the built file, with the Modelfile's own system prompt, parameters and stops."""

from __future__ import annotations

import sys
from pathlib import Path

from ingot.inside import llamacpp, modelfile
from ingot.inside.progress import StageError

MODELFILE = Path("build/modelfile/Modelfile")


def main(question: str | None) -> None:
    """Answer one question, or every line of the standard input until it ends or says /bye."""
    if not MODELFILE.is_file():
        raise StageError(f"{MODELFILE}: not built yet: run `make repro`")
    served = modelfile.load(MODELFILE.read_text(encoding="utf-8"))
    device = "cuda" if llamacpp.has_gpu() else "cpu"
    model = llamacpp.open_model(MODELFILE.parent / served.model, int(served.parameters["num_ctx"]), device)
    messages = [{"role": "system", "content": served.system}]
    if question is not None:
        reply(model, served, [*messages, {"role": "user", "content": question}])
        return
    prompt = ">>> " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt).strip()
        except EOFError:
            return
        if line == "/bye":
            return
        if line:
            messages.append({"role": "user", "content": line})
            messages.append({"role": "assistant", "content": reply(model, served, messages)})


def reply(model, served: modelfile.Modelfile, messages: list[dict[str, str]]) -> str:
    """Print the answer as it comes; return it."""
    stream = model.create_chat_completion(
        messages=messages,
        stream=True,
        temperature=served.parameters["temperature"],
        max_tokens=int(served.parameters["num_predict"]),
        stop=served.stops,
    )
    words = []
    for piece in stream:
        words.append(piece["choices"][0]["delta"].get("content") or "")
        print(words[-1], end="", flush=True)
    print()
    return "".join(words)


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else None)
    except StageError as error:
        sys.exit(f"chat: {error}")
    except ValueError as error:  # llama-cpp-python's word for a conversation that outgrew num_ctx
        sys.exit(f"chat: {error}; raise modelfile.num_ctx in params.yaml, or begin anew")
    except KeyboardInterrupt:
        print()
