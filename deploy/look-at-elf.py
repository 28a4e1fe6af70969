#!/usr/bin/env python3
"""look-at-elf.py FILE MACHINE: whether it is a static program for that machine, whether or not this one could run it."""

import struct
import sys

MACHINES = {"x86_64": 62, "aarch64": 183}
EXECUTABLE, POSITION_INDEPENDENT = 2, 3
LOADED, DYNAMIC, INTERPRETER = 1, 2, 3
NEEDED = 1

file, machine = sys.argv[1:]
elf = open(file, "rb").read()
assert elf[:6] == b"\x7fELF\x02\x01", f"{file} is no 64-bit little-endian ELF"
kind, found = struct.unpack_from("<HH", elf, 16)
assert kind in (EXECUTABLE, POSITION_INDEPENDENT), f"{file} is no program"
assert found == MACHINES[machine], f"{file} is for machine {found}, not {machine}"
(headers,) = struct.unpack_from("<Q", elf, 32)
size, count = struct.unpack_from("<HH", elf, 54)
for at in range(headers, headers + size * count, size):
    (segment,) = struct.unpack_from("<I", elf, at)
    offset, _, _, length = struct.unpack_from("<QQQQ", elf, at + 8)
    # What a tool has cut off too much of would only crash.
    assert segment != LOADED or offset + length <= len(elf), f"{file} ends before its last segment does"
    assert segment != INTERPRETER, f"{file} needs a dynamic linker"
    if segment == DYNAMIC:
        tags = [struct.unpack_from("<q", elf, offset + step)[0] for step in range(0, length, 16)]
        assert NEEDED not in tags, f"{file} needs shared libraries"
print(f"{file}: a static program for {machine}, {len(elf) // 1024 // 1024} MiB")
