#!/usr/bin/env -S python3 -IS
# Plays virsh: sends a command to the QMP socket beside it, and prints the answer. The file `deed` has the number of a call, a
# deed and words: in that call and all later ones it does the deed in the place of an answer. Must never know what a test is about.
# Modules that are part of the interpreter: hundreds of these are started.
import _socket
import posix
import sys
import time

folder = sys.argv[0].rpartition("/")[0]


def at(name):
    return folder + "/" + name


def say(text):
    sys.stdout.buffer.write(text)
    sys.stdout.buffer.flush()


def answer():
    """What libvirt answers where all is well."""
    verb = sys.argv[4]
    if verb == "domblklist":
        return b" vda   /mock/d0.qcow2\n vdb   /mock/d1.qcow2\n hdc   -\n\n"
    if verb == "checkpoint-list":
        return b""
    monitor = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    monitor.connect(at("qmp"))

    def line():
        said = b""
        while not said.endswith(b"\n"):
            said += monitor.recv(65536)
        return said

    line()
    for command in (b'{"execute": "qmp_capabilities"}', sys.argv[6].encode()):
        monitor.sendall(command + b"\n")
        said = line()
    return said


assert sys.argv[1:3] == ["-q", "-c"] and sys.argv[5] == "web", sys.argv
with open(at("calls"), "a+") as calls:
    calls.seek(0)
    before = len(calls.readlines())
    calls.write("\t".join(sys.argv[4:]) + "\n")
with open(at("deed")) as deed:
    number, kind, words = deed.read().split("\t", 2)
if before < int(number):
    say(answer())
    sys.exit(0)
if kind == "say":
    say(words.encode())
elif kind == "raw":
    say(b'{"return": "\xff\xfe"}')
elif kind == "half":
    whole = answer()
    say(whole[: len(whole) // 2])
elif kind == "fail":
    sys.stderr.write(words)
    sys.exit(1)
elif kind == "fail-late":
    answer()
    sys.stderr.write(words)
    sys.exit(1)
elif kind == "die":
    posix.kill(posix.getpid(), 9)
elif kind == "endless":
    while True:
        say(b"{" * 65536)
elif kind == "noise":
    # More than a pipe holds, beside an answer that is right.
    sys.stderr.write("debug\n" * 50000)
    say(answer())
elif kind == "hang":
    time.sleep(600)
elif kind == "hang-late":
    answer()
    time.sleep(600)
elif kind == "daemon":
    # It leaves a process that keeps its outputs open.
    whole = answer()
    if posix.fork() == 0:
        time.sleep(3)
        posix._exit(0)
    say(whole)
    posix._exit(0)
