"""How long a user waits before anything happens: ``import abbe`` and ``abbe --help``, as whole processes.

    python benchmarks/startup.py

Starting Python itself is the first row. Fails if a command imports one of the heavy libraries.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

from tables import machine, print_table

COMMANDS = {
    "python, nothing else": "pass",
    "import abbe": "import abbe",
    "abbe --help": "import sys; sys.argv = ['abbe', '--help']; from abbe.cli.main import main; main()",
}
HEAVY = ("torch", "numpy", "pandas", "scipy", "skimage", "matplotlib", "lightning")
"""Libraries of which each costs a tenth of a second or more."""


def run(code: str) -> tuple[float, float]:
    """Time a whole process: seconds on the clock, and of the processor."""
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    clock, after = time.perf_counter() - start, os.times()
    return clock, after.children_user + after.children_system - before.children_user - before.children_system


def heavy_imports(code: str) -> list[str]:
    """List the heavy libraries that a command imports, from the interpreter's own record."""
    command = [sys.executable, "-X", "importtime", "-c", code]
    record = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    imported = {line.rsplit("|", 1)[-1].strip() for line in record.splitlines()}
    return [name for name in HEAVY if name in imported]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10)
    repeats = parser.parse_args().repeats
    rows, failed = [], False
    for name, code in COMMANDS.items():
        run(code)  # fills the file cache
        clock, processor = zip(*(run(code) for _ in range(repeats)))
        heavy = heavy_imports(code)
        failed |= bool(heavy)
        numbers = (statistics.median(clock), min(clock), max(clock), statistics.median(processor))
        rows.append(
            [name, *(f"{value:.3f}" for value in numbers), "yes" if "torch" in heavy else "no", ", ".join(heavy)]
        )
    print(machine())
    header = ["command", "median s", "min s", "max s", "processor s", "imports torch", "heavy imports"]
    print_table(f"Start-up, {repeats} processes each", header, rows)
    sys.exit(failed)


if __name__ == "__main__":
    main()
