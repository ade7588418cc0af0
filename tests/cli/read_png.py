#!/usr/bin/env python3
"""Reads a PNG of colours by number with nothing but the standard: prints its width, and each row as colours in hexadecimal."""

import struct
import sys
import zlib

data = open(sys.argv[1], "rb").read()
assert data[:8] == b"\x89PNG\r\n\x1a\n"
at, chunks = 8, {}
while at < len(data):
    length, kind = struct.unpack(">I4s", data[at:at + 8])
    body = data[at + 8:at + 8 + length]
    assert struct.unpack(">I", data[at + 8 + length:at + 12 + length])[0] == zlib.crc32(kind + body), kind
    assert kind not in chunks
    chunks[kind] = body
    at += 12 + length
assert list(chunks) == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
width, height, bits, color, packed, filtered, order = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
assert (bits, color, packed, filtered, order) == (8, 3, 0, 0, 0)
rows = zlib.decompress(chunks[b"IDAT"])
assert len(rows) == height * (width + 1)
palette = chunks[b"PLTE"]
for row in range(height):
    line = rows[row * (width + 1):(row + 1) * (width + 1)]
    assert line[0] == 0
    print(" ".join(palette[3 * dot:3 * dot + 3].hex() for dot in line[1:]))
