#!/usr/bin/env python3
"""Sotto's attention on a GPU beside its peers: times, ratios, and the figures they are held to.

    cmake --preset cuda && cmake --build --preset cuda
    python3 benchmarks/gpu_attention.py --out figures

Everything runs in one process, on the same tensors (N(0,1) in bf16) and stream. Each row of the
table (gpu_attention_rows.py) takes its contenders in turns, in another order each round; a turn is
one CUDA graph of as many launches as everybody has, between two events. A chip at its power limit
is slower after more work: that is why launches are equal, and why ratios are taken within a round.
Figures are medians over the rounds. Rows "launched" go without a graph: launching counts there.

Attention's TFLOP/s are 2 (dim_qk + dim_v) for each query, head and key that the mask shows. Every
attention is checked against fp32 for some of its queries (SQNR).

Needs torch. Peers that are not there (nvidia-cudnn-frontend, torchao, flash_attn_interface) are
left out and say so; matplotlib draws the plots.
"""

import argparse
import dataclasses
import json
import random
import re
import statistics
import sys
import time
from pathlib import Path

import torch

import gpu_attention_report as report
from gpu_attention_data import Data
from gpu_attention_peers import PEERS
from gpu_attention_rows import all_rows
from gpu_attention_sotto import OURS, Contender, Library

LIBRARY = Path(__file__).parent.parent / "build/cuda/lib/sotto_gpu_attention.so"
FLOPS_PER_TURN = 52e12  # about 40 ms at the FP8 roof
MOST_LAUNCHES = 24
SECONDS_PER_ROW = 12  # no further round begins later


class Turn:
    """Some launches of one contender, as a graph or one by one."""

    def __init__(self, calls, launches, graph):
        self.calls, self.launches = calls, launches
        for call in calls:  # compile, choose kernels, and make what libraries make at first
            call()
            call()
        torch.cuda.synchronize()
        self.run = self.launch
        if graph:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.launch()
            self.run = self.graph.replay
        self.run()
        if hasattr(calls[0], "poison"):  # ours: every launch must do its work, not only the first
            calls[0].poison()
            self.run()
        torch.cuda.synchronize()

    def launch(self):
        for i in range(self.launches):
            self.calls[i % len(self.calls)]()

    def ms(self):
        """Milliseconds per launch, now."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        self.run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / self.launches


def make_calls(library, name, data):
    if name in OURS:
        return [Contender(library, OURS[name], one) for one in data]
    return [PEERS[name](one) for one in data]


def reason(error):
    """In one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def measure(row, library, rounds):
    """The row's result, as gpu_attention_report describes it."""
    data = [Data(row.shape, seed) for seed in range(row.sets)]
    launches = row.launches or int(max(2, min(MOST_LAUNCHES, FLOPS_PER_TURN // row.shape.flops)))
    entries, turns = {}, {}
    for name in row.contenders:
        try:
            calls = make_calls(library, name, data)
            turn = Turn(calls, launches, row.launch == "graph")
            out = calls[0].out
            entries[name] = {"flops": calls[0].flops, "sqnr": None if out is None else data[0].sqnr(out)}
            turns[name] = turn
        except Exception as error:  # noqa: BLE001: what one cannot, the others can
            torch.cuda.synchronize()
            entries[name] = {"failed": reason(error)}
    times = {name: [] for name in turns}
    begin = time.monotonic()
    for i in range(rounds):
        if i > 2 and time.monotonic() - begin > SECONDS_PER_ROW:
            break
        for name in random.Random(i).sample(list(turns), len(turns)):
            times[name].append(turns[name].ms())
    for name, values in times.items():
        entry = entries[name]
        ms = statistics.median(values)
        tflops = entry["flops"] / ms / 1e9 or None
        entry |= {"ms": ms, "spread": report.spread(values), "tflops": tflops, "rounds": values}
    return {
        "name": row.name,
        "shape": dataclasses.asdict(row.shape),
        "launch": row.launch,
        "launches": launches,
        "rounds": max(map(len, times.values()), default=0),
        "contenders": entries,
        "figures": [report.evaluate(figure, entries) for figure in row.figures],
    }


def describe_machine():
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "sms": properties.multi_processor_count,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", default=str(LIBRARY))
    parser.add_argument("--rows", metavar="REGEX", default="", help="only rows whose name has a match (see --list)")
    parser.add_argument("--list", action="store_true", help="name the rows and end")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="three rounds, no length above 32k")
    parser.add_argument("--out", metavar="FOLDER", type=Path,
                        help="write results.json, table.md, layer.png and speedup.png there")  # fmt: skip
    options = parser.parse_args()
    rows = [row for row in all_rows() if re.search(options.rows, row.name)]
    if options.quick:
        options.rounds = 3
        rows = [row for row in rows if row.shape.len_q <= 32 * 1024]
    if options.list:
        print("\n".join(row.name for row in rows))
        return
    if not rows:
        sys.exit(f"--rows {options.rows}: no row has a match (see --list)")
    if not torch.cuda.is_available():
        sys.exit("no CUDA device")
    library = Library(options.library)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)

    machine = describe_machine()
    print(", ".join(f"{key} {value}" for key, value in machine.items()), flush=True)
    results = []
    for row in rows:
        try:
            results.append(measure(row, library, options.rounds))
        except torch.OutOfMemoryError as error:
            print(f"\n{row.name}: {reason(error)}", flush=True)
            continue
        finally:
            torch.cuda.empty_cache()
        print("\n" + report.text(results[-1]), flush=True)
        if options.out:  # after every row: nothing is lost if a later one ends the run
            content = json.dumps({"machine": machine, "results": results}, indent=1)
            (options.out / "results.json").write_text(content + "\n")
            (options.out / "table.md").write_text(report.markdown(machine, results))
    print("\n" + report.summary(results))
    if options.out and not report.plots(options.out, machine, results):
        print("no plots: they need two rows 'sdpa' with figures")


if __name__ == "__main__":
    main()
