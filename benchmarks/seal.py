"""What the seal costs: one short stage, on this host and sealed in turn.

Run from the repository's root, after `make image`.
"""

import os
import statistics
import subprocess
import sys
import time

ROUNDS = 7
seconds: dict[str, list[float]] = {"host": [], "sealed": []}
for _ in range(ROUNDS):
    for runtime, taken in seconds.items():
        began = time.monotonic()
        command = [sys.executable, "-m", "ingot", "run", "raw"]
        subprocess.run(command, check=True, env=os.environ | {"INGOT_RUNTIME": runtime}, stdout=subprocess.DEVNULL)
        taken.append(time.monotonic() - began)
host, sealed = (statistics.median(taken) for taken in seconds.values())
print(f"host {host:.2f} s, sealed {sealed:.2f} s, {sealed - host:+.2f} s a stage (medians of {ROUNDS})")
