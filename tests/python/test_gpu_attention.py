"""benchmarks/gpu_attention.py: what it makes of times, on any machine. Needs neither torch nor a GPU."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import gpu_attention_report as report  # noqa: E402
from gpu_attention_rows import Figure, Shape, all_rows  # noqa: E402


def entry(rounds, sqnr):
    ms = sorted(rounds)[len(rounds) // 2]
    return {"ms": ms, "spread": 0, "rounds": rounds, "flops": 1e9, "tflops": 1 / ms, "sqnr": sqnr}


ENTRIES = {
    "ours": entry([2.0, 4.0, 3.0], 25.0),
    "slow": entry([6.0, 8.0, 9.0], 50.0),
    "fast": entry([4.0, 8.0, 4.5], 50.0),
    "wrong": entry([1.0, 1.0, 1.0], 3.0),
    "broken": entry([1.0, 1.0, 1.0], 0.0),
    "missing": {"failed": "ModuleNotFoundError: no such thing"},
}


def test_only_what_the_mask_shows_counts():
    assert Shape(4, heads=1, dim_qk=16).flops == 16 * 4 * 16
    assert Shape(4, heads=1, dim_qk=16, causal=True).flops == 10 * 4 * 16
    assert Shape(6, 4, heads=2, dim_qk=16, dim_v=32, causal=True).flops == (10 + 2 * 4) * 2 * 48 * 2
    assert Shape(2, 4, heads=1, dim_qk=16, causal=True).flops == 3 * 4 * 16


def test_ratios_are_taken_within_a_round_over_the_fastest_that_is_right():
    value = report.evaluate(Figure("", "ours", ("slow", "missing", "wrong", "fast", "broken"), 1.4, 2.0), ENTRIES)
    assert value["over"] == "fast"
    assert value["value"] == pytest.approx(2.0)  # of 2, 2 and 1.5
    assert report.verdict(value | {"value": 2.0}) == "goal"
    assert report.verdict(value | {"value": 1.9}) == "met"
    assert report.verdict(value | {"value": 1.3}) == "missed"


def test_times_are_judged_the_other_way_round():
    value = report.evaluate(Figure("", "ours", ("fast",), 1.01, 1.0, time=True), ENTRIES)
    assert value["value"] == pytest.approx(0.5)
    for time, verdict in ((0.5, "goal"), (1.005, "met"), (1.02, "missed")):
        assert report.verdict(value | {"value": time}) == verdict


@pytest.mark.parametrize(
    "ours, over", [("missing", "fast"), ("wrong", "fast"), ("broken", "fast"), ("ours", "missing"), ("ours", "wrong")]
)
def test_what_did_not_run_or_is_wrong_gives_no_figure(ours, over):
    value = report.evaluate(Figure("", ours, (over,), 1.0, 2.0), ENTRIES)
    assert value["value"] is None and report.verdict(value) == "no run"


def test_reports():
    figure = report.evaluate(Figure("ours over theirs", "ours", ("fast",), 1.4, 3.0), ENTRIES)
    result = {"name": "a row", "shape": {"len_q": 4}, "launch": "graph", "launches": 3, "rounds": 3,
              "contenders": ENTRIES, "figures": [figure]}  # fmt: skip
    text = report.text(result)
    assert "no such thing" in text and "3.0 dB  WRONG" in text and "met  2.0" in text
    assert "1 of 1 met" in report.summary([result])
    machine = dict.fromkeys(("gpu", "cuda", "torch", "cudnn", "date"), "x")
    assert "| a row | ours over theirs | fast | **2.00** | ≥ 1.4 | ≥ 3 |" in report.markdown(machine, [result])


def test_rows_have_names_of_their_own_and_figures_of_their_contenders():
    rows = all_rows()
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        for figure in row.figures:
            assert {figure.ours, *figure.over} <= set(row.contenders), row.name
            assert (figure.least is None) == (figure.goal is None)
