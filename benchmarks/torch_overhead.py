#!/usr/bin/env python3
"""What a call of the PyTorch package costs beside the work: sotto.sdpa and torch's own
scaled_dot_product_attention on one token, in turns, and the import beyond torch's.

    pip install . && python3 benchmarks/torch_overhead.py

Times are of the calling thread; on a GPU the queue has room for a round's launches.
"""

import statistics
import subprocess
import sys
import time

import torch
from torch.nn.functional import scaled_dot_product_attention

import sotto

CALLS, ROUNDS = 200, 31


def microseconds(call):
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    spent = time.perf_counter() - start
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # a full queue would make the next round wait
    return spent / CALLS * 1e6


@torch.inference_mode()
def measure(device):
    q = torch.randn(1, 1, 1, 64, device=device, dtype=torch.bfloat16)
    calls = {
        "sotto.sdpa": lambda: sotto.sdpa(q, q, q),
        "torch": lambda: scaled_dot_product_attention(q, q, q),
    }
    rounds = {name: [] for name in calls}
    for call in calls.values():
        microseconds(call)  # plans, and what else is made at first
    for _ in range(ROUNDS):
        for name, call in calls.items():
            rounds[name].append(microseconds(call))
    ours, torchs = (statistics.median(times) for times in rounds.values())
    print(f"{device}: sotto.sdpa {ours:.1f} us, torch {torchs:.1f} us, difference {ours - torchs:.1f} us")


def measure_import():
    code = (
        "import time, torch; start = time.perf_counter(); import sotto; "
        "print(time.perf_counter() - start)"
    )
    command = [sys.executable, "-c", code]
    times = [float(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(5)]
    print(f"import sotto beyond torch: {statistics.median(times) * 1e3:.0f} ms")


if __name__ == "__main__":
    torch.set_num_threads(1)  # waking others is not what a call costs
    measure("cpu")
    if torch.cuda.is_available():
        measure("cuda")
    measure_import()
