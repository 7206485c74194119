"""What is read from compiled programs, in texts cut down from those of an H200 and a TPU v5e."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from ragaf_jax.planning.hlo import (
    Collective,
    array_bytes,
    attention_kernels,
    collectives,
    executions,
    memory_bytes,
    parse,
)
from ragaf_jax.planning.traffic import traffic

GPU = (Path(__file__).parent / "gpu.hlo").read_text()
TPU = (Path(__file__).parent / "tpu.hlo").read_text()


def test_bytes_of_types():
    assert array_bytes("bf16[2,3]{1,0:T(8,128)(2,1)S(1)}") == 12
    assert array_bytes("(f32[], pred[7]{0}, /*index=2*/u8[0]{0}, s4[3]{0}, token[])") == 4 + 7 + 2
    assert array_bytes("f8e4m3fn[10]{0}") == 10


def test_a_tpus_memory_holds_whole_tiles_and_nothing_that_is_on_the_chip():
    assert memory_bytes("bf16[4,9,40]{2,1,0:T(8,128)(2,1)}") == 2 * 4 * 16 * 128
    assert memory_bytes("f32[40,3,9]{0,2,1:T(8,128)}") == 4 * 128 * 3 * 16
    assert memory_bytes("f32[300]{0:T(256)}") == 4 * 512
    assert memory_bytes("(bf16[4,9]{1,0:T(8,128)(2,1)S(1)}, f32[2]{0})") == 8


WHOLE, CHIP = "f32[8,128]{1,0:T(8,128)}", "f32[8,128]{1,0:T(8,128)S(1)}"


@pytest.mark.parametrize(
    ("line", "moved"),
    [
        # Of the operand, on its way to the chip, the slice alone.
        (f"(({WHOLE}), f32[1,128]{{1,0:T(8,128)S(1)}}, s32[]) slice-start(%x)", 512 + 4),
        (f"(({CHIP}), f32[1,128]{{1,0:T(8,128)}}, s32[]) slice-start(%on_chip)", 0),
        (f'{CHIP} custom-call(%x, %x), custom_call_target="ConcatBitcast"', 0),
        (f'{CHIP} custom-call(%x), backend_config={{"bytes_accessed":"9000"}}', 9000),
        (f'{CHIP} custom-call(%on_chip), backend_config={{"bytes_accessed":"9000"}}', 0),
    ],
)
def test_what_is_on_the_chip_moves_nothing(line, moved):
    program = parse(
        "ENTRY %main (x: f32[8,128]) -> f32[8,128] {\n"
        f"  %x = {WHOLE} parameter(0)\n"
        f"  %on_chip = {CHIP} parameter(1)\n"
        f"  ROOT %y = {line}\n}}\n"
    )
    assert traffic(program).moved_bytes == moved


def test_a_loop_moves_what_each_round_reads_and_writes():
    program = parse(GPU)
    runs = {name: times for name, times, _ in executions(program)}
    assert runs["main"] == 1 and runs["body"] == 5
    # Arrays have 800 bytes, the stack 4,000. A round reads a row of the stack and the number of
    # the round, and writes the row; then it writes the row into the stack, in place.
    each = (800 + 4 + 800) + (800 + 4 + 800)
    attention = (3 * 800 + 800) + (2 * 800 + 800)
    product = 800 + 800 + 800  # not its room to work in
    summed = 800 + 800
    gathered = 2 * 100 + 100 + 800  # with the slice that is gathered
    found = traffic(program)
    assert found.moved_bytes == 5 * each + attention + product + summed + gathered
    assert found.instructions == 2 + 2 + 1 + 2 + 3


def test_collectives_of_a_gpu_have_the_bytes_of_whole_arrays():
    assert collectives(parse(GPU)) == {
        "all-gather": Collective(1, 800),
        "all-reduce": Collective(1, 800),
    }


def test_collectives_of_a_tpu_are_counted_once_in_each_round_of_a_loop():
    whole = 2 * 128 * 128
    assert collectives(parse(TPU)) == {
        "all-gather": Collective(7, 7 * whole),
        "reduce-scatter": Collective(7, 7 * whole),
    }


def test_attention_kernels_are_named():
    assert attention_kernels(parse(GPU)) == {"cuDNN": 1, "cuDNN backward": 1}
    assert attention_kernels(parse(TPU)) == {
        "Pallas flash_attention": 1,
        "Pallas flash_mha_bwd_dq": 1,
    }


def test_a_program_of_this_machine_is_read():
    def repeated(x, w):
        return jax.lax.scan(lambda y, _: (jnp.tanh(y @ w), None), x, None, 6)[0]

    x, w = jnp.ones((4, 8)), jnp.ones((8, 8))
    program = parse(jax.jit(repeated).lower(x, w).compile().as_text())
    assert {times for _, times, _ in executions(program)} == {1, 6}
    # Each round's product alone moves this much.
    assert traffic(program).moved_bytes > 6 * 4 * (4 * 8 + 8 * 8 + 4 * 8)
    assert collectives(program) == {} and attention_kernels(program) == {}
