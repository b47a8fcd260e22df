"""Two interrupts in quick succession, at any moment of a run: the process ends, by itself and at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import anyio
import pytest

from runware_flow.emulator import run_in_thread
from runware_flow.emulator.commands import environment
from runware_flow.interrupts import Interrupts

PROGRAM = """
from runware_flow import Flow
from runware_flow.tasks import ImageInference

def art(prompt):
    return ImageInference(model="runware:400@1", positive_prompt=prompt, width=512, height=512)

flow = Flow("posters", concurrency=4, journal="run.sqlite", on_error="continue")
flow.map([f"a red kite {number}" for number in range(20)], art)
if __name__ == "__main__":
    import sys
    flow.run(backend=sys.argv[1])
"""


@pytest.fixture(scope="module")
def emulator():
    with run_in_thread(latency=1.0) as running:
        yield running


@pytest.mark.exhaustive
@pytest.mark.parametrize("way", ["command", "script"])
@pytest.mark.parametrize("moment", [0.0, 0.02, 0.3])
def test_two_interrupts_within_50_ms_end_the_process(tmp_path, emulator, backend, way, moment):
    (tmp_path / "posters.py").write_text(PROGRAM)
    command = ["-m", "runware_flow", "run", "posters.py", "--backend", backend] if way == "command" else None
    process = subprocess.Popen(
        [sys.executable, *(command or ["posters.py", backend])],
        cwd=tmp_path,
        env={**os.environ, **environment(emulator)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while not (tmp_path / "run.sqlite-lock").exists() and process.poll() is None:
        time.sleep(0.002)
    time.sleep(moment)
    process.send_signal(signal.SIGINT)
    time.sleep(0.03)
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode in (130, -signal.SIGINT, 1), err
    assert process.returncode != 1 or b"KeyboardInterrupt" in err


def test_interrupts_are_calls_on_the_event_loop_and_nothing_is_raised(backend):
    async def main():
        told = anyio.Event()
        with interrupts.on_press(told.set):
            signal.raise_signal(signal.SIGINT)
            with anyio.fail_after(10):
                await told.wait()
        signal.raise_signal(signal.SIGINT)  # after the block it is counted
        assert interrupts.presses == 2

    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        anyio.run(main, backend=backend)
    assert signal.getsignal(signal.SIGINT) is before


def test_interrupt_that_came_before_the_event_loop_is_passed_to_it(backend):
    async def main():
        told = anyio.Event()
        with interrupts.on_press(told.set), anyio.move_on_after(10):
            await told.wait()
        return told.is_set()

    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        assert anyio.run(main, backend=backend)


def test_impatient_interrupt_is_raised_at_once():
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # of one hand
        interrupts._last -= 5.0
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_handlers_of_the_program_and_other_threads_are_left_alone():
    mine = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        with Interrupts() as interrupts:
            assert not interrupts.is_taken
    finally:
        signal.signal(signal.SIGINT, mine)
    found = []

    def elsewhere():
        with Interrupts() as interrupts:
            found.append(interrupts.is_taken)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [False]
