"""What benchmarks/gpu_attention.py found, as text, Markdown and pictures.

A result is a dict: name, shape, launch, launches, rounds, contenders {name: {ms, spread, flops,
tflops, sqnr, rounds (ms)} or {failed}} and figures [{what, ours, over, value, least, goal, time}].
"""

import dataclasses
import statistics

from gpu_attention_rows import PEERS_16_BIT

LEAST_SQNR = 20  # dB: below, the output is wrong and not merely rounded


def spread(values):
    """The distance of the quartiles over the median."""
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / middle


def evaluate(figure, entries):
    """The median of the rounds' ratios; without a value where one side did not run, or is wrong."""

    def able(name):
        return "ms" in entries[name] and right(entries[name])

    def work(name):
        return 1 if figure.time else entries[name]["flops"] or 1

    peers = [name for name in figure.over if able(name)]
    over = max(peers, key=lambda name: work(name) / entries[name]["ms"], default=None)
    value = None
    if able(figure.ours) and over:
        pairs = zip(entries[figure.ours]["rounds"], entries[over]["rounds"])
        ratios = [ours / theirs for ours, theirs in pairs]  # of times
        scale = work(figure.ours) / work(over)
        value = statistics.median(ratio if figure.time else scale / ratio for ratio in ratios)
    return {**dataclasses.asdict(figure), "over": over, "value": value}


def contender_lines(result):
    for name, entry in result["contenders"].items():
        if "failed" in entry:
            yield f"  {name:22} -  ({entry['failed']})"
            continue
        line = f"  {name:22} {entry['ms']:9.4f} ms ±{100 * entry['spread']:4.1f} %"
        if entry["tflops"]:
            line += f"  {entry['tflops']:6.0f} TFLOP/s"
        if entry["sqnr"] is not None:
            line += f"  {entry['sqnr']:5.1f} dB" + ("" if right(entry) else "  WRONG")
        yield line


def right(entry):
    return entry["sqnr"] is None or entry["sqnr"] >= LEAST_SQNR


def verdict(figure):
    """"missed", "met" (the least), "goal", "no run"; "" where nothing is wanted."""
    value, least, goal = figure["value"], figure["least"], figure["goal"]
    if value is None or least is None:
        return "" if least is None else "no run"
    reached = (lambda bound: value <= bound) if figure["time"] else (lambda bound: value >= bound)
    return "goal" if reached(goal) else "met" if reached(least) else "missed"


def bound(figure, which):
    return "" if figure[which] is None else ("≤ " if figure["time"] else "≥ ") + f"{figure[which]:g}"


def figure_line(figure):
    value = "   -" if figure["value"] is None else f"{figure['value']:6.3f}"
    bounds = f"  (at least {bound(figure, 'least')}, goal {bound(figure, 'goal')})" if figure["least"] else ""
    over = f" [{figure['over']}]" if figure["over"] else ""
    return f"{verdict(figure):>7} {value} {figure['what']}{over}{bounds}"


def text(result):
    head = f"{result['name']}: {result['launches']} launches, {result['rounds']} rounds, {result['launch']}"
    figures = (figure_line(figure) for figure in result["figures"] if figure["value"] is not None or figure["least"])
    return "\n".join([head, *contender_lines(result), *figures])


def summary(results):
    wanted = [(result, figure) for result in results for figure in result["figures"] if figure["least"] is not None]
    width = max((len(result["name"]) for result, _ in wanted), default=0)
    lines = [f"{result['name']:{width}} {figure_line(figure)}" for result, figure in wanted]
    met = sum(verdict(figure) in ("met", "goal") for _, figure in wanted)
    return "\n".join([*lines, f"{met} of {len(wanted)} met"])


def markdown(machine, results):
    lines = [
        f"{machine['gpu']}, CUDA {machine['cuda']}, PyTorch {machine['torch']}, "
        f"cuDNN {machine['cudnn']}, {machine['date']}",
        "",
        "| row | figure | over | measured | at least | goal |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        for figure in result["figures"]:
            if figure["value"] is None and figure["least"] is None:
                continue
            value = "–" if figure["value"] is None else f"{figure['value']:.2f}"
            if verdict(figure) in ("met", "goal"):
                value = f"**{value}**"
            lines.append(f"| {result['name']} | {figure['what']} | {figure['over'] or '–'} | {value} "
                         f"| {bound(figure, 'least')} | {bound(figure, 'goal')} |")  # fmt: skip
    lines += ["", "| row | contender | ms | TFLOP/s | SQNR, dB |", "|---|---|---|---|---|"]
    for result in results:
        for name, entry in result["contenders"].items():
            if "failed" in entry:
                continue
            tflops = f"{entry['tflops']:.0f}" if entry["tflops"] else ""
            sqnr = "" if entry["sqnr"] is None else f"{entry['sqnr']:.1f}"
            lines.append(f"| {result['name']} | {name} | {entry['ms']:.4f} | {tflops} | {sqnr} |")
    return "\n".join(lines) + "\n"


def plots(folder, machine, results):
    """layer.png and speedup.png, from the rows of sdpa against length; False where two of them lack."""
    rows = [result for result in results if result["name"].startswith("sdpa ")
            and all(figure["value"] is not None for figure in result["figures"])]  # fmt: skip
    if len(rows) < 2:
        return False
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    def series(name, value):
        points = [(row["shape"]["len_q"], value(row, name)) for row in rows]
        return zip(*[(length, y) for length, y in points if y is not None])

    def of_entry(member):
        return lambda row, name: row["contenders"].get(name, {}).get(member)

    def finish(axes, label):
        axes.set_xscale("log", base=2)
        lengths = [row["shape"]["len_q"] for row in rows]
        axes.set_xticks(lengths, [f"{length // 1024}k" for length in lengths])
        axes.set_xlabel("length")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")

    names = [name for name in rows[0]["contenders"] if any("ms" in row["contenders"].get(name, {}) for row in rows)]
    shape = rows[0]["shape"]
    title = f"{machine['gpu']}, batch 1, {shape['heads']} heads, D {shape['dim_qk']}, causal"

    figure, (left, right_) = plt.subplots(1, 2, figsize=(13, 5))
    for name in names:
        style = "-" if name in PEERS_16_BIT else "o-" if name.endswith("sdpa") else "o--"
        label = name if name in PEERS_16_BIT else f"sotto {name}"
        left.plot(*series(name, of_entry("ms")), style, ms=4, label=label)
        right_.plot(*series(name, of_entry("tflops")), style, ms=4, label=label)
    left.set_yscale("log")
    finish(left, "ms per layer (less is better)")
    finish(right_, "TFLOP/s (more is better)")
    figure.suptitle(f"Attention of one layer: {title}")
    figure.tight_layout()
    figure.savefig(folder / "layer.png", dpi=120)

    figure, axes = plt.subplots(figsize=(7, 5))
    for name in ("fp8 sdpa", "int8qk sdpa"):

        def speedup(row, name):
            return next(figure["value"] for figure in row["figures"] if figure["ours"] == name)

        axes.plot(*series(name, speedup), marker="o", label=f"sotto {name}")
    axes.axhline(1, color="black", lw=1)
    finish(axes, "speed over the best 16-bit peer")
    axes.set_title(f"Quantisation included\n{title}", fontsize="medium")
    figure.tight_layout()
    figure.savefig(folder / "speedup.png", dpi=120)
    return True
