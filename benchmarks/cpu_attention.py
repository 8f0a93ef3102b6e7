#!/usr/bin/env python3
"""Attention on the CPU: sotto's backend `cpu` against PyTorch's SDPA, in one run.

Every round times each peer on each shape, in turns: PyTorch in this process, sotto by `sotto bench`
(the start of the process and the making of the data do not count) with the same number of threads.
A ratio is PyTorch's time / sotto's in the same round (above 1: sotto is faster); the figures are
medians over the rounds. PyTorch's fp32 stands against `exact` in fp32, its bf16 against `exact`,
`fp8` and `int8qk` on bf16 inputs: attention alone (inputs quantised already) and whole sdpa.
Decode rows (one query over a long cache) are also compared with the read bandwidth of this machine,
measured in the same run.

Where they are installed, oneDNN's and ggml's attention stand beside: ggml through the package
ggml-python, oneDNN 3 (its graph API; full attention) through its own program, --benchdnn PATH.

Needs torch; matplotlib for --plot.
"""

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HEADS = 8
# (name, PyTorch's dtype, options of `sotto bench`, least ratio of all rows, least of the median row)
KINDS = [
    ("fp32", "float32", ["--dtype", "f32", "--op", "attention", "--recipe", "exact"], 1.0, 1.3),
    ("bf16", "bfloat16", ["--dtype", "bf16", "--op", "attention", "--recipe", "exact"], 1.5, 2.5),
    ("fp8", "bfloat16", ["--dtype", "bf16", "--op", "attention", "--recipe", "fp8"], 1.5, 2.5),
    ("int8qk", "bfloat16", ["--dtype", "bf16", "--op", "attention", "--recipe", "int8qk"], 1.5, 2.5),
    ("fp8 sdpa", "bfloat16", ["--dtype", "bf16", "--op", "sdpa", "--recipe", "fp8"], 1.5, 2.5),
    ("int8qk sdpa", "bfloat16", ["--dtype", "bf16", "--op", "sdpa", "--recipe", "int8qk"], 1.5, 2.5),
]
DECODE = {"len_k": 32768, "heads_q": 32, "heads_kv": 8, "dim": 128}


def sotto_bench(options, arguments):
    command = [options.sotto, "bench", "--backend", "cpu", "--threads", str(options.threads), "--json",
               "--repeats", "50", "--max-seconds", str(options.seconds), *arguments]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def timed(call, seconds):
    """Median time of as many calls as fit, one at least, after a first one."""
    call()
    times, begin = [], time.perf_counter()
    while not times or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def torch_sdpa(torch, dtype, length_q, length_k, heads_q, heads_kv, dim, causal):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, heads, length, dim, generator=generator).to(dtype)
               for heads, length in ((heads_q, length_q), (heads_kv, length_k), (heads_kv, length_k)))  # fmt: skip
    sdpa = torch.nn.functional.scaled_dot_product_attention
    return lambda: sdpa(q, k, v, is_causal=causal, enable_gqa=heads_q != heads_kv)


def ggml_attention(options, length_q, length_k, heads_q, heads_kv, dim, causal):
    """fp32 queries over an f16 cache, as llama.cpp has it."""
    import ctypes

    import ggml

    mask_rows = -(-length_q // 64) * 64
    elements = dim * (length_q * heads_q * 2 + length_k * heads_kv * 2)
    size = 4 * elements + 2 * mask_rows * length_k + 8 * mask_rows * options.threads * dim + (64 << 20)
    ctx = ggml.ggml_init(ggml.ggml_init_params(mem_size=size, mem_buffer=None, no_alloc=False))
    q = ggml.ggml_new_tensor_4d(ctx, ggml.GGML_TYPE_F32, dim, length_q, heads_q, 1)
    k, v = (ggml.ggml_new_tensor_4d(ctx, ggml.GGML_TYPE_F16, dim, length_k, heads_kv, 1) for _ in range(2))
    for tensor in (q, k, v):  # 0x1c1c…: a small number in both types
        ctypes.memset(ggml.ggml_get_data(tensor), 0x1C, ggml.ggml_nbytes(tensor))
    mask = None
    if causal:
        import numpy

        mask = ggml.ggml_new_tensor_4d(ctx, ggml.GGML_TYPE_F16, length_k, mask_rows, 1, 1)
        hidden = numpy.triu(numpy.full((mask_rows, length_k), -numpy.inf, numpy.float16), 1)
        ctypes.memmove(ggml.ggml_get_data(mask), hidden.ctypes.data, hidden.nbytes)
    out = ggml.ggml_flash_attn_ext(ctx, q, k, v, mask, dim**-0.5, 0.0, 0.0)
    graph = ggml.ggml_new_graph(ctx)
    ggml.ggml_build_forward_expand(graph, out)

    def call():
        ggml.ggml_graph_compute_with_ctx(ctx, graph, options.threads)

    call.free = lambda: ggml.ggml_free(ctx)
    return call


def onednn_graph(length, dim):
    """softmax(q k^T * scale) v in bf16, as benchdnn reads graphs."""
    square, rows = [1, HEADS, length, length], [1, HEADS, length, dim]

    def tensor(number, shape):
        strides = [math.prod(shape[d + 1 :]) for d in range(len(shape))]
        return {"id": number, "dtype": "bf16", "shape": shape, "stride": strides, "layout_type": "strided",
                "property_type": "variable"}  # fmt: skip

    def op(number, kind, attributes, inputs, output):
        return {"id": number, "name": f"op{number}", "kind": kind, "inputs": inputs, "outputs": [output],
                "attrs": {name: {"type": kind, "value": value} for name, kind, value in attributes}}  # fmt: skip

    def transposed(b):
        return [("transpose_a", "bool", 0), ("transpose_b", "bool", b)]

    scores, scaled, weights = (tensor(number, square) for number in (4, 5, 6))
    graph = [
        op(100, "MatMul", transposed(1), [tensor(0, rows), tensor(1, rows)], scores),
        op(101, "Multiply", [("auto_broadcast", "string", "numpy")], [scores, tensor(2, [1, 1, 1, 1])], scaled),
        op(102, "SoftMax", [("axis", "s64", 3)], [scaled], weights),
        op(103, "MatMul", transposed(0), [weights, tensor(3, rows)], tensor(7, rows)),
    ]
    return {"version": "3.6.0", "engine_kind": "cpu", "fpmath_mode": "strict", "input_ports": [0, 1, 2, 3],
            "output_ports": [7], "graph": graph}  # fmt: skip


def onednn_seconds(options, length, dim):
    """Best time by benchdnn's graph driver, or what it said."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(onednn_graph(length, dim), file)
        file.flush()
        command = [options.benchdnn, "--graph", "--engine=cpu", "--mode=P", "--perf-template=%-time%",
                   f"--case={file.name}"]  # fmt: skip
        environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    for line in done.stdout.splitlines():
        try:
            return float(line) / 1e3
        except ValueError:
            continue
    return f"benchdnn failed: {(done.stdout + done.stderr)[-200:]}"


def peers_beside(options, length, dim, causal):
    """Seconds of oneDNN and ggml, or why there are none."""
    figures = {}
    if not options.benchdnn:
        figures["onednn bf16"] = "not installed"
    elif causal:
        figures["onednn bf16"] = "full only"
    else:
        figures["onednn bf16"] = onednn_seconds(options, length, dim)
    try:
        call = ggml_attention(options, length, length, HEADS, HEADS, dim, causal)
        figures["ggml f16"] = timed(call, options.seconds)
        call.free()
    except ImportError:
        figures["ggml f16"] = "not installed"
    return figures


def prefill_rows(torch, options):
    shapes = itertools.product(options.dims, options.lengths, (False, True))
    for dim, length, causal in shapes:
        mask = "causal" if causal else "none"
        shape = ["--len", str(length), "--heads-q", str(HEADS), "--dim-qk", str(dim), "--mask", mask, "--no-roofs"]
        rounds = {name: [] for name, *_ in KINDS}
        seconds = {}
        for _ in range(options.rounds):
            theirs = {}
            for name, dtype, arguments, *_ in KINDS:
                if dtype not in theirs:
                    call = torch_sdpa(torch, getattr(torch, dtype), length, length, HEADS, HEADS, dim, causal)
                    theirs[dtype] = timed(call, options.seconds)
                    seconds.setdefault(f"torch {dtype}", []).append(theirs[dtype])
                (entry,) = sotto_bench(options, shape + arguments)["results"]
                seconds.setdefault(name, []).append(entry["median_seconds"])
                rounds[name].append(theirs[dtype] / entry["median_seconds"])
        flops = entry["flops"]
        row = {"dim": dim, "len": length, "mask": mask, "flops": flops,
               "seconds": {name: statistics.median(times) for name, times in seconds.items()},
               "ratio": {name: statistics.median(ratios) for name, ratios in rounds.items()},
               "beside": peers_beside(options, length, dim, causal)}  # fmt: skip
        gflops = {name: 1e-9 * flops / value for name, value in row["seconds"].items()}
        print(f"D {dim:3} len {length:6} {mask:6}  torch fp32 {gflops['torch float32']:4.0f}, bf16 "
              f"{gflops['torch bfloat16']:4.0f} GFLOP/s;  "
              + "  ".join(f"{name} {gflops[name]:.0f} ({row['ratio'][name]:.2f}x)" for name, *_ in KINDS)
              + ";  " + "  ".join(f"{name}: {value if isinstance(value, str) else f'{1e-9 * flops / value:.0f}'}"
                                  for name, value in row["beside"].items()), flush=True)  # fmt: skip
        yield row


def decode_rows(torch, options):
    shape = ["--decode", "--len-k", str(DECODE["len_k"]), "--heads-q", str(DECODE["heads_q"]), "--heads-kv",
             str(DECODE["heads_kv"]), "--dim-qk", str(DECODE["dim"]), "--op", "attention", "--recipe", "exact",
             "--dtype", "bf16,bf16/e4m3"]  # fmt: skip
    call = torch_sdpa(torch, torch.bfloat16, 1, DECODE["len_k"], DECODE["heads_q"], DECODE["heads_kv"],
                      DECODE["dim"], False)  # fmt: skip
    theirs, fractions, seconds = [], {}, {}
    for _ in range(options.rounds):
        theirs.append(timed(call, options.seconds))
        result = sotto_bench(options, shape)
        for entry in result["results"]:
            fractions.setdefault(entry["dtype"], []).append(entry["gbps"] / result["roofs"]["read_gbps"])
            seconds.setdefault(entry["dtype"], []).append(entry["median_seconds"])
    median = statistics.median
    return {"torch_bf16_seconds": median(theirs),
            "seconds": {name: median(times) for name, times in seconds.items()},
            "read_fraction": {name: median(values) for name, values in fractions.items()},
            "ratio": {name: median(t / s for t, s in zip(theirs, times)) for name, times in seconds.items()},
            "fp8_speedup": median(a / b for a, b in zip(seconds["bf16"], seconds["bf16/e4m3"]))}  # fmt: skip


def goals(rows, decode):
    """(goal, figure, met)"""
    for name, _, _, least, least_median in KINDS if rows else []:
        ratios = [row["ratio"][name] for row in rows]
        for text, figure, goal in (("every row", min(ratios), least),
                                   ("median row", statistics.median(ratios), least_median)):  # fmt: skip
            yield f"{name}, {text}: >= {goal}x PyTorch", f"{figure:.2f}x", figure >= goal
    if decode:
        for name, value in decode["read_fraction"].items():
            yield f"decode, {name} cache: >= 80 % of read bandwidth", f"{100 * value:.0f} %", value >= 0.8
        speedup = decode["fp8_speedup"]
        yield "decode, e4m3 cache against bf16: >= 1.6x", f"{speedup:.2f}x", speedup >= 1.6


def plot(path, rows, machine):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    series = ["torch float32", "torch bfloat16", *(name for name, *_ in KINDS)]
    figure, axes = plt.subplots(1, 1, figsize=(max(8, 1.1 * len(rows)), 5))
    width = 0.9 / len(series)
    for i, name in enumerate(series):
        heights = [1e-9 * row["flops"] / row["seconds"][name] for row in rows]
        label = name if name.startswith("torch") else f"sotto {name}"
        axes.bar([x + i * width for x in range(len(rows))], heights, width, label=label)
    axes.set_xticks([x + 0.45 for x in range(len(rows))],
                    [f"D {row['dim']}\n{row['len']}\n{row['mask']}" for row in rows])  # fmt: skip
    axes.set_ylabel("GFLOP/s (more is better)")
    axes.set_title(f"Attention, {HEADS} heads: {machine['cpu']}, {machine['threads']} threads")
    axes.legend(ncols=4, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.17))
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sotto", default=str(Path(__file__).parent.parent / "build/release/bin/sotto"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.5, help="per peer, shape and round; one call at least")
    parser.add_argument("--dims", type=int, nargs="*", default=[64, 128])
    parser.add_argument("--lengths", type=int, nargs="*", default=[1024, 4096, 16384])
    parser.add_argument("--quick", action="store_true", help="no length above 4k, one round")
    parser.add_argument("--benchdnn", help="oneDNN's program of that name")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE", help="a picture (.png, .svg)")
    options = parser.parse_args()
    if options.quick:
        options.lengths, options.rounds = [n for n in options.lengths if n <= 4096], 1

    import torch

    torch.set_num_threads(options.threads)
    with torch.inference_mode():
        head = sotto_bench(options, ["--len", "64", "--recipe", "exact", "--op", "attention"])
        machine = head["machine"] | {"torch": torch.__version__, "sotto": head["sotto"]}
        roofs = head["roofs"]
        print(f"{machine['cpu']}, {machine['threads']} threads, torch {machine['torch']}, sotto {machine['sotto']}, "
              f"{options.rounds} rounds")  # fmt: skip
        print(f"matrix product f32 {roofs['matrix_f32_gflops']:.0f}, bf16 {roofs['matrix_bf16_gflops']:.0f}, INT8 "
              f"{roofs['matrix_i8_gops']:.0f} GFLOP/s; read {roofs['read_gbps']:.1f} GB/s\n")  # fmt: skip
        rows = list(prefill_rows(torch, options))
        decode = decode_rows(torch, options)
    for name, value in decode["seconds"].items():
        print(f"decode {DECODE['len_k']} keys, {name}: {1e3 * value:.3f} ms, {100 * decode['read_fraction'][name]:.0f} % "
              f"of read bandwidth, {decode['ratio'][name]:.2f}x PyTorch's bf16")  # fmt: skip
    print()
    checked = [{"goal": goal, "figure": figure, "met": met} for goal, figure, met in goals(rows, decode)]
    for entry in checked:
        print(f"{entry['goal']:48} {entry['figure']:>8}  {'met' if entry['met'] else 'NOT MET'}")
    if options.json:
        result = {"machine": machine, "roofs": roofs, "rounds": options.rounds, "rows": rows, "decode": decode,
                  "goals": checked}  # fmt: skip
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n")
    if options.plot:
        plot(options.plot, rows, machine)


if __name__ == "__main__":
    main()
