"""A process of a Pool: reads batches from its standard input, and writes the answers. It ends with its input."""

from __future__ import annotations

import os
import signal
import sys

from ._runners import Lost, receive, send
from ._work import words_of


def main() -> None:
    """Works until the input ends."""
    # Control-C is for the parent, which ends the input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    # What prints is no answer.
    os.dup2(2, 1)
    send(answers, "ready")
    while True:
        try:
            work, batch = receive(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = work(batch)
        except Exception as error:
            answer = Lost(f"{type(error).__name__}: {words_of(error)}", 0, True)
        send(answers, answer)


if __name__ == "__main__":
    main()
