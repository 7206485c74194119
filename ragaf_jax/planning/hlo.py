"""Parses XLA's text of a compiled program: collectives and attention kernels.

The text is `jax.stages.Compiled.as_text()`: computations of instructions, one per line. Loops count
once per iteration if the text states their number, else once.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_HEADER = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")
_NAME = re.compile(r"\s+(ROOT )?%?([\w.-]+) = ")
_OPCODE = re.compile(r" ([\w-]+)\(")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
# A TPU's layout: the axes, fastest first, and the tile to whose multiples arrays are padded.
_TILED = re.compile(r"([\d,]*):T\(([\d,]+)\)")
_CALLED = re.compile(r"(body|condition|calls|to_apply|\w+_computations?)=\{?((?:%[\w.-]+(?:, )?)+)")


class Instruction(NamedTuple):
    """One line: `name = kind opcode(operands), attributes`; operands by name."""

    name: str
    kind: str
    opcode: str
    operands: list[str]
    attributes: str
    root: bool


class Program(NamedTuple):
    """Computations by name, and the name of the entry."""

    computations: dict[str, list[Instruction]]
    entry: str


class Collective(NamedTuple):
    """The collective operations of one kind on one device.

    Attributes:
      times: number of executions.
      moved_bytes: of the whole arrays that are gathered, summed or passed on.
    """

    times: int
    moved_bytes: int


def parse(text: str) -> Program:
    """The computations of a program's text."""
    computations: dict[str, list[Instruction]] = {}
    entry, lines = "", None
    for line in text.splitlines():
        if line.startswith("}"):
            lines = None
        elif lines is None and (header := _HEADER.match(line)):
            lines = computations[header[2]] = []
            entry = header[2] if header[1] else entry
        elif lines is not None and (instruction := _instruction(line)):
            lines.append(instruction)
    return Program(computations, entry)


def _instruction(line: str) -> Instruction | None:
    name = _NAME.match(line)
    if name is None:
        return None
    start = name.end()
    end = _closing(line, start) + 1 if line[start] == "(" else line.find(" ", start)
    opcode = _OPCODE.match(line, end)
    if opcode is None:
        return None
    close = _closing(line, opcode.end() - 1)
    operands = re.findall(r"%([\w.-]+)", line[opcode.end() : close])
    if opcode[1] in ("constant", "parameter"):  # their value, or number
        operands = [line[opcode.end() : close]]
    return Instruction(
        name[2], line[start:end], opcode[1], operands, line[close + 1 :], bool(name[1])
    )


def _closing(line: str, start: int) -> int:
    """The position of the bracket that closes the one at `start`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(line, start):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    return len(line)


def array_bytes(kind: str) -> int:
    """Bytes of the arrays in a type, such as `(f32[2,3]{1,0}, pred[])`."""
    return sum(
        _bytes(dtype, [int(n) for n in shape.split(",") if n])
        for dtype, shape, _ in _ARRAY.findall(kind)
    )


def memory_bytes(kind: str) -> int:
    """Bytes of the arrays in a type in the device's memory.

    On a TPU arrays have whole tiles, and those on the chip (memory space 1) do not count.
    """
    total = 0
    for dtype, shape, layout in _ARRAY.findall(kind):
        sizes, tiled = [int(n) for n in shape.split(",") if n], _TILED.match(layout)
        if tiled and "S(1)" in layout:
            continue
        if tiled:
            axes, tile = ([int(n) for n in part.split(",") if n] for part in tiled.groups())
            for axis, side in zip(axes, reversed(tile), strict=False):
                sizes[axis] += -sizes[axis] % side
        total += _bytes(dtype, sizes)
    return total


def _bytes(dtype: str, shape: list[int]) -> int:
    bits = 8 if dtype == "pred" else int(re.sub(r"\D+(\d+).*", r"\1", dtype))
    return -(-math.prod(shape) * bits // 8)


def called(instruction: Instruction) -> dict[str, list[str]]:
    """The computations that an instruction names, by attribute."""
    return {
        name: re.findall(r"%([\w.-]+)", value)
        for name, value in _CALLED.findall(instruction.attributes)
    }


def trip_count(program: Program, loop: Instruction) -> int:
    """Iterations of a `while`: stated by XLA, else the bound in its condition, else 1."""
    if stated := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(stated[1])
    (condition,) = called(loop)["condition"]
    lines = program.computations.get(condition, [])
    constants = [x.operands[0] for x in lines if x.opcode == "constant" and x.kind[:3] == "s32"]
    below = any("direction=LT" in x.attributes for x in lines)
    return int(constants[0]) if below and len(constants) == 1 and constants[0].isdigit() else 1


def executions(program: Program) -> Iterator[tuple[str, int, bool]]:
    """(computation, number of executions, whether it is inside a fusion), the entry first."""
    waiting = [(program.entry, 1, False)]
    while waiting:
        name, times, fused = waiting.pop()
        yield name, times, fused
        for instruction in program.computations.get(name, []):
            inside = called(instruction)
            if instruction.opcode == "while":
                times_ = times * trip_count(program, instruction)
                waiting += [(body, times_, fused) for body in inside["body"]]
            elif instruction.opcode == "fusion":
                waiting += [(body, times, True) for body in inside["calls"]]
            elif instruction.opcode in ("call", "conditional", "async-start"):
                waiting += [(x, times, fused) for names in inside.values() for x in names]


def collectives(program: Program) -> dict[str, Collective]:
    """The collective operations that one device runs, by kind."""
    found: dict[str, Collective] = {}
    seen: set[str] = set()  # a TPU may split one over several fusions with the same channel
    for name, times, fused in executions(program):
        lines = program.computations.get(name, [])
        kinds = {line.name: line.kind for line in lines}
        for line in lines:
            kind = line.opcode.removesuffix("-start")
            if kind not in COLLECTIVES:
                continue
            channel = re.search(r"channel_id=\d+", line.attributes)
            if fused and channel:
                if f"{kind} {channel[0]}" in seen:
                    continue
                seen.add(f"{kind} {channel[0]}")
            if name.startswith("all-reduce-scatter"):  # a TPU's fusion of sum and slice
                kind = "reduce-scatter"
            read = sum(array_bytes(kinds.get(operand, "")) for operand in line.operands)
            written = array_bytes(line.kind)
            if line.opcode.endswith("-start") and line.kind.startswith("("):
                written -= read  # its tuple starts with the operands
            before = found.get(kind, Collective(0, 0))
            found[kind] = Collective(
                before.times + times, before.moved_bytes + times * max(read, written)
            )
    return found


def attention_kernels(program: Program) -> dict[str, int]:
    """Calls of cuDNN's and Pallas' attention kernels by name."""
    found: Counter[str] = Counter()
    for name, times, _ in executions(program):
        for line in program.computations.get(name, []):
            if line.opcode == "custom-call" and (kernel := _kernel(line.attributes)):
                found[kernel] += times
    return dict(found)


def _kernel(attributes: str) -> str | None:
    target = re.search(r'custom_call_target="([^"]+)"', attributes)
    if target and target[1].startswith("__cudnn$fmha"):
        return "cuDNN backward" if target[1].endswith("Backward") else "cuDNN"
    if scope := re.search(r'op_name="[^"]*?([^/"]+)/pallas_call"', attributes):
        name = re.sub(r"^jit\((.*)\)$", r"\1", scope[1])
        return f"Pallas {name.partition('_block')[0]}"
    return None
