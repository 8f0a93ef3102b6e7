#!/usr/bin/env python3
"""Time per window of `sotto eval --modes exact` against transformers + PyTorch, in fp32.

Both read the same windows of the same text with the same model on the same number of threads, in
turns. A time is one forward pass of one window with the output head; loading is left out. Prints
the median of each and their ratio (sotto / transformers: below 1, sotto is faster), and the
perplexity of every window by both.

Needs torch, transformers, gguf and accelerate (transformers reads GGUF through these).
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def cpu_name():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def run_sotto(options, ids_file, windows):
    command = [options.sotto, "eval", "--model", options.model, "--tokens", ids_file,
               "--context", str(options.context), "--windows", str(windows), "--modes", "exact",
               "--threads", str(options.threads), "--json"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr)
    (result,) = json.loads(done.stdout)["results"]
    return result["window_seconds"], result["window_perplexity"]


def run_transformers(torch, model, windows):
    seconds, perplexity = [], []
    for window in windows:
        ids = torch.tensor([window])
        with torch.inference_mode():
            start = time.perf_counter()
            logits = model(ids, use_cache=False).logits[0]
            seconds.append(time.perf_counter() - start)
            loss = torch.nn.functional.cross_entropy(logits[:-1].double(), ids[0, 1:])
        perplexity.append(math.exp(loss))
    return seconds, perplexity


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sotto", default="build/release/bin/sotto", help="the program")
    parser.add_argument("--model", required=True, help="a .gguf file")
    parser.add_argument("--text", required=True)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3, help="how often each reads all windows")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    import torch
    import transformers

    torch.set_num_threads(options.threads)
    model_path = Path(options.model)
    where = {"pretrained_model_name_or_path": str(model_path.parent), "gguf_file": model_path.name}
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        **where, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    ids = tokenizer(Path(options.text).read_text(), add_special_tokens=False)["input_ids"]
    count = min(options.windows, len(ids) // options.context)
    if count == 0:
        sys.exit(f"{options.text}: {len(ids)} tokens, less than a window of {options.context}")
    windows = [ids[i * options.context : (i + 1) * options.context] for i in range(count)]

    sotto_seconds, transformers_seconds = [], []
    with tempfile.TemporaryDirectory() as folder:
        ids_file = os.path.join(folder, "ids.txt")
        Path(ids_file).write_text(" ".join(str(i) for window in windows for i in window))
        run_transformers(torch, model, windows[:1])  # warm-up; sotto starts anew in every round
        for _ in range(options.rounds):
            seconds, sotto_perplexity = run_sotto(options, ids_file, count)
            sotto_seconds += seconds
            seconds, transformers_perplexity = run_transformers(torch, model, windows)
            transformers_seconds += seconds

    ours, theirs = statistics.median(sotto_seconds), statistics.median(transformers_seconds)
    result = {
        "machine": {"cpu": cpu_name(), "threads": options.threads, "system": platform.platform(),
                    "torch": torch.__version__, "transformers": transformers.__version__,
                    "sotto": subprocess.check_output([options.sotto, "--version"], text=True).split()[1]},
        "model": model_path.name,
        "context": options.context,
        "windows": count,
        "rounds": options.rounds,
        "sotto": {"seconds_per_window": ours, "window_perplexity": sotto_perplexity},
        "transformers": {"seconds_per_window": theirs, "window_perplexity": transformers_perplexity},
        "ratio": ours / theirs,
    }  # fmt: skip
    if options.json:
        print(json.dumps(result, indent=2))
        return
    machine = result["machine"]
    print(f"{machine['cpu']}, {machine['threads']} threads, {machine['system']}")
    print(f"{result['model']}, {count} windows of {options.context}, {options.rounds} rounds\n")
    versions = {"sotto": machine["sotto"], "transformers": machine["transformers"] + " + torch " + machine["torch"]}
    for name, version in versions.items():
        perplexity = " ".join(f"{value:.4f}" for value in result[name]["window_perplexity"])
        print(f"{name:13} {result[name]['seconds_per_window']:7.3f} s/window   perplexity {perplexity}   ({version})")
    print(f"ratio         {result['ratio']:7.3f}")


if __name__ == "__main__":
    main()
