"""The programs of a build end with the process that makes it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from blocks.process import Process, alive, identify

MAKER = """
import sys, threading
from pathlib import Path
from tasks.build.base import Bench
from tasks.build.programs import run_program
folder = Path(sys.argv[1])
bench = Bench(folder, folder, folder, print)
said = threading.Event()
run = lambda: run_program(["sh", "-c", "echo $$; exec sleep 300"], bench, step="s", env={}, each_line=lambda line: (print(line, flush=True), said.set()))
threading.Thread(target=run, daemon=True).start()
said.wait(20)
sys.stdin.readline()
"""  # noqa: E501


def test_a_program_does_not_outlive_a_process_that_ends_in_the_middle_of_a_build(tmp_path: Path) -> None:
    maker = subprocess.Popen(
        [sys.executable, "-c", MAKER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert maker.stdout
    program: Process | None = identify(int(maker.stdout.readline()))
    assert program
    maker.communicate("\n", timeout=20)
    until = time.monotonic() + 5
    while alive(program):
        assert time.monotonic() < until
        time.sleep(0.02)
