"""Every table of the book, one after the other. `python -m tests.bench [TABLE ...]`: about 40 minutes on 2 quiet cores.

A table that passes its budget or breaks is said at the end, and the others go on. Nothing is written into the tree.
"""

import os
import signal
import subprocess
import sys
import time

# Table -> (arguments, minutes after which it is given up: a third more than it takes, or so).
BOOK: dict[str, tuple[list[str], float]] = {
    "counts": (["10"], 0.7),
    "decode": ([], 0.5),
    "masks": ([], 0.5),
    "readers": ([], 1),
    "windows": (["3"], 1.2),
    "loader": ([], 0.8),
    "data_wait": (["lraspp-mobilenetv3"], 2),
    "crf": (["1024x2048x19", "--repeats", "2"], 3),
    "queries": ([], 2),
    "regions": (["3"], 1.5),
    "scaling": ([], 4.5),
    "extend": (["10000", "100000"], 1.5),
    "nodes": ([], 5),
    "memory": ([], 3),
    "engines": (["--divide", "2", "--engines", "onnxruntime", "openvino"], 3),
    "run": ([], 9),
    "gpu": (["--tiny"], 0.6),
    "faults": ([], 14),
}


def main(names: list[str]) -> int:
    began, minutes, failed = time.monotonic(), {}, []
    for name in names or BOOK:
        arguments, budget = BOOK[name]
        print(f"\n## {name}", flush=True)
        started = time.monotonic()
        # A session of its own, so that what a table started (a store, Ray) can be ended with it.
        table = subprocess.Popen([sys.executable, "-m", f"tests.bench.{name}", *arguments], start_new_session=True)
        try:
            if code := table.wait(60 * budget):
                failed.append(f"{name}: exit code {code}")
        except subprocess.TimeoutExpired:
            failed.append(f"{name}: not done in its {budget:g} minutes")
            os.killpg(table.pid, signal.SIGKILL)
            table.wait()
        minutes[name] = (time.monotonic() - started) / 60
    print(f"\n{(time.monotonic() - began) / 60:.1f} minutes: " + ", ".join(f"{k} {v:.1f}" for k, v in minutes.items()))
    print("\n".join(failed))
    return len(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
