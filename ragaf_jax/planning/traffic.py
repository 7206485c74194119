"""Memory traffic of a compiled program, from XLA's text of it."""

import re
from collections import defaultdict
from typing import NamedTuple

from ragaf_jax.planning.hlo import (
    Instruction,
    Program,
    array_bytes,
    called,
    executions,
    memory_bytes,
)

# Instructions that move no bytes.
_FREE = {
    *("parameter", "tuple", "get-tuple-element", "bitcast", "constant", "after-all"),
    *("while", "call", "conditional", "partition-id", "replica-id", "opt-barrier"),
}
_SLICES = ("dynamic-slice", "slice", "gather")  # these read only what they return


class Traffic(NamedTuple):
    """Reads and writes in a device's memory.

    Attributes:
      moved_bytes: operands and results; only the slices of arrays that are sliced or updated. On a
        TPU whole tiles, without arrays on the chip.
      instructions: their number in the text, loops counted once.
    """

    moved_bytes: int
    instructions: int


def traffic(program: Program) -> Traffic:
    """The traffic of a program; values inside fusions stay in registers and move no bytes."""
    moved = count = 0
    for name, times, fused in executions(program):
        if fused:
            continue
        lines = program.computations.get(name, [])
        kinds = {line.name: line.kind for line in lines}
        for line in lines:
            if line.opcode not in _FREE:
                moved += times * _moved(program, line, kinds)
                count += 1
    return Traffic(moved, count)


def _moved(program: Program, line: Instruction, kinds: dict[str, str]) -> int:
    """Bytes that one instruction reads and writes."""
    operands = [memory_bytes(kinds.get(name, "")) for name in line.operands]
    result = memory_bytes(line.kind)
    if line.opcode == "slice-start":  # its tuple: the operands, the slice, a counter
        whole = sum(array_bytes(kinds.get(name, "")) for name in line.operands)
        return array_bytes(line.kind) - whole if any(operands) else 0
    if line.opcode.endswith("-start"):  # the -done writes its result
        return 0 if line.opcode == "async-start" else sum(operands)
    if line.opcode.endswith(("-done", "-update")):
        return 0 if line.opcode.startswith("async") else result
    if line.opcode in _SLICES:
        return 2 * result
    if line.opcode == "dynamic-update-slice":
        return 2 * operands[1]
    if line.opcode == "custom-call":
        if '"AllocateBuffer"' in line.attributes or '"ConcatBitcast"' in line.attributes:
            return 0
        # Results of bytes are a workspace.
        result = memory_bytes(re.sub(r"\b[su]8\[[\d,]*\]", "", line.kind))
        # A Pallas kernel may read a block several times, and states its total.
        stated = re.search(r'"bytes_accessed":"(\d+)"', line.attributes)
        if stated and any(operands):
            return max(int(stated[1]), sum(operands) + result)
    if line.opcode == "fusion":
        read, result = _fusion(program, called(line)["calls"][0])
        operands = [min(read.get(i, size), size) for i, size in enumerate(operands)]
    return sum(operands) + result


def _fusion(program: Program, name: str) -> tuple[dict[int, int], int]:
    """(bytes that a fusion reads of each parameter, bytes that it writes).

    Parameters that are only sliced count by their slices; those only updated change in place.
    """
    inside = program.computations.get(name, [])
    lines = {line.name: line for line in inside}
    users: dict[str, list[tuple[Instruction, int]]] = defaultdict(list)
    for line in inside:
        for i, operand in enumerate(line.operands):
            users[operand].append((line, i))

    def read(line: Instruction) -> int:
        size, total = memory_bytes(line.kind), 0
        for user, i in users[line.name]:
            if user.opcode == "bitcast":
                total += read(user)
            elif user.opcode in _SLICES and i == 0:
                total += memory_bytes(user.kind)
            elif user.opcode == "fusion":
                total += _fusion(program, called(user)["calls"][0])[0].get(i, size)
            elif not (user.opcode == "dynamic-update-slice" and i == 0):
                return size
        return min(total, size)

    def written(line: Instruction) -> int:
        if line.opcode == "tuple":
            return sum(written(lines[operand]) for operand in line.operands)
        if line.opcode == "bitcast":
            return written(lines[line.operands[0]])
        if line.opcode == "dynamic-update-slice":
            return memory_bytes(lines[line.operands[1]].kind)
        if line.opcode == "fusion":
            return _fusion(program, called(line)["calls"][0])[1]
        return memory_bytes(line.kind)

    reads = {int(x.operands[0]): read(x) for x in inside if x.opcode == "parameter"}
    return reads, sum(written(line) for line in inside if line.root)
