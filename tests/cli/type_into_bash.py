"""Types keys into a bash on a terminal, and prints what the words of the line became.

Arguments: the file with the completions, then the keys of each line. Every line is run as `show WORDS`.
"""

import os
import pty
import select
import sys
import time


def shell():
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "dumb"
        os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
    return terminal


def read_until(terminal, mark):
    # The deadline is for a shell that hangs, not for a slow one.
    out, deadline = b"", time.monotonic() + 120
    while mark not in out:
        if time.monotonic() > deadline:
            sys.exit(f"no {mark!r} in {out!r}")
        if select.select([terminal], [], [], 1)[0]:
            out += os.read(terminal, 4096)
    return out


completions, *lines = sys.argv[1:]
for keys in lines:
    terminal = shell()
    start = f"source '{completions}'; bind 'set bell-style none'; show() {{ printf 'GOT'; printf '<%s>' \"$@\"; echo END; }}"
    os.write(terminal, f"{start}; echo REA''DY\n".encode())
    read_until(terminal, b"READY")
    # Ctrl-A and Ctrl-E: the line becomes the words of `show`.
    os.write(terminal, keys.encode() + b"\x01show \x05\n")
    out = read_until(terminal, b">END")
    print(out[out.rindex(b"GOT<") + 3 : out.rindex(b"END")].decode())
    os.close(terminal)
