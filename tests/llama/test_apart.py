"""llama.cpp's work in a process of its own: what it yields comes here, what fails there is said here."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from pathlib import Path

import pytest

from ingot.console.progress import StageError
from ingot.llama import apart


def squares(most: int):
    for number in range(most):
        yield number, number**2, os.getpid()


def refused(text: str):
    yield 1
    raise StageError(f"{text}\nhint: another")


def killed(by: int):
    yield 1
    os.kill(os.getpid(), by)


def loaded():
    from ingot.llama import llamacpp

    for module in ("answers", "measure", "score"):  # what evaluation runs there
        importlib.import_module(f"ingot.proof.{module}")
    llamacpp.library()
    yield sorted({"torch", "transformers", "llama_cpp"} & sys.modules.keys())


def endless():
    while True:
        yield os.getpid()


def test_everything_comes_in_order_from_another_process():
    found = list(apart.each(squares, 5))
    assert [each[:2] for each in found] == [(0, 0), (1, 1), (2, 4), (3, 9), (4, 16)]
    assert len({process for *_, process in found} - {os.getpid()}) == 1


def test_what_is_raised_there_is_raised_here():
    with pytest.raises(StageError, match=r"^no such file\nhint: another$"):
        list(apart.each(refused, "no such file"))


@pytest.mark.parametrize(
    "by, said", [(signal.SIGSEGV, "signal 11 .SIGSEGV.(.|\n)*device: cpu"), (signal.SIGKILL, "signal 9(.|\n)*memory")]
)
def test_a_death_is_said(by, said):
    with pytest.raises(StageError, match=f"llama.cpp's process ended with {said}"):
        list(apart.each(killed, int(by)))


def test_llama_cpp_is_there_and_pytorch_is_not(in_repo):
    assert list(apart.each(loaded)) == [["llama_cpp"]]


def test_who_stops_listening_ends_it():
    given = apart.each(endless)
    process = next(given)
    given.close()
    assert not Path(f"/proc/{process}").exists()
