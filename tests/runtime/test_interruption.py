"""SIGTERM becomes a flag, for one process and for several at once."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from ports import reserve_port

from ragaf_jax.runtime.interruption import Interruption

ROOT = Path(__file__).parents[2]


@pytest.fixture
def start():
    """Starts scripts, of which none outlives the test."""
    processes = []

    def begin(script: str, *args: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), *args],
            cwd=ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.wait()


def until_ready(process: subprocess.Popen) -> None:
    assert "ready\n" in iter(process.stdout.readline, ""), process.stderr.read()


def finish(process: subprocess.Popen) -> str:
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return output


@pytest.fixture
def heard():
    """What a handler that was there before received."""
    numbers = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGTERM, previous)


def test_the_flag_is_set_and_the_handler_put_back(heard):
    with Interruption() as interruption:
        assert not interruption.requested(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.requested(2)
        assert interruption.requested(3)
    assert heard == []
    os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [signal.SIGTERM]


def test_the_handler_is_put_back_after_an_error(heard):
    with pytest.raises(ZeroDivisionError), Interruption():
        raise ZeroDivisionError
    os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [signal.SIGTERM]


def test_ctrl_c_stays_as_it_is():
    # What a shell starts in the background is without this handler.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), Interruption():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_changes_no_handler(heard):
    requested = []

    def run():
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGTERM)
            requested.append(interruption.requested(1))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert requested == [False]
    assert heard == [signal.SIGTERM]


def test_a_loop_ends_itself_and_its_workers_still_can_be_ended(start):
    process = start("""
        import multiprocessing, os, signal, time
        from ragaf_jax.runtime.interruption import Interruption
        with Interruption() as interruption:
            worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
            worker.start()
            print("ready", flush=True)
            step = 1
            while not interruption.requested(step):
                time.sleep(0.01)
                step += 1
            worker.terminate()
            worker.join(20)
            print("worker", worker.exitcode)
        print("saved", signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
    """)
    until_ready(process)
    process.terminate()
    assert finish(process) == f"worker {-signal.SIGTERM}\nsaved True\n"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no cores can be chosen here")
def test_a_worker_is_ended_before_it_has_begun(start):
    """On one core the parent goes on first; what came before it ran, Python forgets in a child."""
    process = start("""
        import multiprocessing, os, time
        from ragaf_jax.runtime.interruption import Interruption
        os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
        fork = multiprocessing.get_context("fork")
        ends = set()
        with Interruption() as interruption:
            for _ in range(20):
                worker = fork.Process(target=time.sleep, args=(60,), daemon=True)
                worker.start()
                worker.terminate()
                worker.join(5)
                ends.add(worker.exitcode)
            print(ends, interruption.requested(1))
        [worker.kill() for worker in multiprocessing.active_children()]
    """)
    assert finish(process) == f"{{{-signal.SIGTERM}}} False\n"


def test_processes_stop_after_the_same_step(start):
    """Only one is told; both must save together, or the other waits for it forever."""
    address = f"localhost:{reserve_port()}"
    script = """
        import sys, time, jax
        from jax.experimental import multihost_utils
        from ragaf_jax.runtime.interruption import Interruption
        jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
        with Interruption() as interruption:
            for step in range(1, 3000):
                multihost_utils.sync_global_devices(str(step))
                if step == 3:
                    print("ready", flush=True)
                time.sleep(0.01)
                if interruption.requested(step):
                    break
        print(step)
    """
    processes = [start(script, address, str(rank)) for rank in range(2)]
    for process in processes:
        until_ready(process)
    processes[1].terminate()
    steps = [int(finish(process)) for process in processes]
    assert steps[0] == steps[1] < 2999
