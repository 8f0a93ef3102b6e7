#!/usr/bin/env python3
"""Peak memory of attention over a long sequence: length 131,072, one head, D 128, causal.

For each recipe, `sotto bench` in a process of its own measures by how much one sdpa() raises the
resident memory; what is not inputs, output or the quantised copies must stay within 32 MiB.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

MEBI = 1 << 20
LIMIT = 32 * MEBI


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sotto", default=str(Path(__file__).parent.parent / "build/release/bin/sotto"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--len", type=int, default=131072)
    parser.add_argument("--recipes", default="exact,fp8,fp8-hadamard,int8qk,high")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()

    rows = []
    print(f"length {options.len}, one head, D 128, causal, bf16, {options.threads} threads\n")
    print("| recipe | inputs and output, MiB | quantised copies and workspace, MiB | beyond these, MiB | <= 32 MiB |")
    print("|---|---|---|---|---|")
    for recipe in options.recipes.split(","):
        command = [options.sotto, "bench", "--op", "sdpa", "--recipe", recipe, "--len", str(options.len),
                   "--heads-q", "1", "--dim-qk", "128", "--mask", "causal", "--threads", str(options.threads),
                   "--warmup", "0", "--repeats", "1", "--no-roofs", "--json"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(done.stderr)
        (entry,) = json.loads(done.stdout)["results"]
        extra = entry["extra_bytes"]
        if extra is None:
            sys.exit("this system does not say how much memory was used at most")
        rows.append({"recipe": recipe, "tensor_bytes": entry["bytes"], "workspace_bytes": entry["workspace_bytes"],
                     "extra_bytes": extra, "met": extra <= LIMIT, "seconds": entry["median_seconds"]})  # fmt: skip
        print(f"| `{recipe}` | {entry['bytes'] / MEBI:.0f} | {entry['workspace_bytes'] / MEBI:.1f} | {extra / MEBI:.1f} "
              f"| {'met' if extra <= LIMIT else 'NOT MET'} |", flush=True)  # fmt: skip
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
