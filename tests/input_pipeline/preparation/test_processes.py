import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from input_pipeline.preparation.processes import mapping
from ragaf_jax.errors import UserError


def square(x):
    return x * x


def process_id(x):
    return os.getpid()


def failing(x):
    if x == 3:
        raise UserError("three is no good")
    return x


def dying(x):
    os._exit(9)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_tasks(workers):
    with mapping(workers) as over:
        assert list(over(square, range(50))) == [x * x for x in range(50)]
        assert list(over(square, [])) == []
        with pytest.raises(UserError, match="three is no good"):
            list(over(failing, range(9)))


def test_one_worker_is_this_process_and_more_are_others():
    with mapping(1) as over:
        assert set(over(process_id, range(8))) == {os.getpid()}
    with mapping(2) as over:
        assert os.getpid() not in set(over(process_id, range(40)))


def test_tasks_are_taken_as_they_are_needed():
    """The number of pending results, and so the memory, is bounded for any number of tasks."""
    taken = []

    def tasks():
        for x in itertools.count():
            taken.append(x)
            yield x

    with mapping(2) as over:
        results = over(square, tasks())
        assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
        assert len(taken) <= 60


def test_a_process_that_is_killed_ends_in_a_sentence():
    with mapping(2) as over, pytest.raises(UserError, match=r"killed, .*fewer --workers"):
        list(over(dying, range(4)))


_KILLED = """
import os, sys, time
from input_pipeline.preparation.processes import mapping
if __name__ == "__mp_main__":
    print("a worker imports the command, which may import JAX", flush=True)
if __name__ == "__main__":
    with mapping(2) as over:
        results = over(time.sleep, [0, 0, 0, 0, 0, 0, 0, 0])
        next(results)
        print("at work", flush=True)
        time.sleep(60)
"""


def test_processes_end_with_a_main_process_that_is_killed(tmp_path):
    (tmp_path / "run.py").write_text(_KILLED)
    main = subprocess.Popen(
        [sys.executable, tmp_path / "run.py"],
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert main.stdout.readline() == "at work\n"
    main.kill()
    # Whoever is left holds the pipe open.
    main.communicate(timeout=30)
