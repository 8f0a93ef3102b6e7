"""`sotto bench`: what it measures and says, never how fast that is."""

import json
import re
import xml.etree.ElementTree

import pytest
from test_cli import error_line, needs_bin, sotto

pytestmark = needs_bin

SMALL = ["--len", "64", "--heads-q", "2", "--repeats", "3"]


def bench(*arguments):
    done = sotto("bench", *arguments, "--json", check=0)
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_help_names_every_option():
    text = sotto("bench", "--help", check=0).stdout
    for word in ("--op", "--recipe", "--dtype", "--len", "--len-q", "--len-k", "--heads-kv", "--dim-qk", "--dim-v",
                 "--mask", "--softcap", "--varlen", "--page-size", "--decode", "--device", "--threads", "--warmup", "--repeats",
                 "--backend", "--json", "--against", "--plot", "Examples", "Exit codes"):  # fmt: skip
        assert word in text


def test_json_has_the_documented_shape():
    result = bench(*SMALL, "--recipe", "exact,int8qk")
    assert re.fullmatch(r"\d+\.\d+\.\d+", result["sotto"])
    assert result["machine"]["threads"] >= 1 and result["machine"]["cpu"] and result["machine"]["simd"]
    roofs = result["roofs"]
    assert roofs["matrix_f32_gflops"] > 0 and roofs["read_gbps"] > 0 and roofs["copy_gbps"] > 0
    entries = result["results"]
    assert [(e["op"], e["recipe"]) for e in entries] == [
        (op, recipe) for op in ("attention", "sdpa") for recipe in ("exact", "int8qk")
    ]
    assert len({entry["key"] for entry in entries}) == 4
    for entry in entries:
        assert entry["backend"] == "cpu" and entry["len_q"] == entry["len_k"] == 64
        assert entry["heads_q"] == entry["heads_kv"] == 2 and entry["dim_qk"] == entry["dim_v"] == 64
        assert len(entry["seconds"]) == 3
        assert sorted(entry["seconds"])[1] == pytest.approx(entry["median_seconds"])
        assert entry["flops"] == 4 * 64 * 64 * 64 * 2
        assert entry["gflops"] == pytest.approx(1e-9 * entry["flops"] / entry["median_seconds"])
        assert entry["gbps"] == pytest.approx(1e-9 * entry["bytes"] / entry["median_seconds"])
        assert 0 < entry["roof_fraction"] and entry["bound"] in ("matrix", "memory")
    assert entries[0]["bytes"] == 4 * 64 * 2 * 64 * 2  # bf16 q, k, v, out
    assert entries[1]["bytes"] < entries[0]["bytes"]  # INT8 q, k and e4m3 v


@pytest.mark.parametrize(
    "options, pairs",
    [
        (["--mask", "causal"], 64 * 65 // 2),
        (["--mask", "window:7,0"], 64 * 8 - 28),
        (["--len-q", "16", "--mask", "causal"], 16 * 17 // 2),
        (["--len-q", "16", "--mask", "causal-bottom-right"], 16 * 64 - 120),
        (["--len-q", "1", "--len-k", "1k", "--cache"], 1024),
        (["--batch", "3", "--varlen"], 32 * 32 + 48 * 48 + 64 * 64),
        (["--batch", "2", "--page-size", "5", "--len-k", "33", "--len-q", "2"], 2 * 2 * 33),
    ],
)
def test_only_what_the_mask_shows_counts(options, pairs):
    (entry,) = bench(*SMALL, "--op", "attention", "--recipe", "exact", "--no-roofs", *options)["results"]
    assert entry["flops"] == pairs * 4 * 64 * 2
    assert entry["roof_fraction"] is None


def test_lists_make_a_product():
    result = bench(*("--len", "32,1k", "--dim-qk", "32,64", "--mask", "none,causal", "--heads-q", 4, "--heads-kv", 1),
                   *("--dim-v", 48, "--op", "attention", "--recipe", "exact", "--dtype", "f32,bf16/e4m3"),
                   *("--repeats", 1, "--no-roofs"))  # fmt: skip
    assert result["roofs"] is None
    shapes = [(e["mask"], e["dim_qk"], e["len_q"], e["dtype"]) for e in result["results"]]
    assert shapes == [(mask, dim, n, dtype) for mask in ("none", "causal") for dim in (32, 64) for n in (32, 1024)
                      for dtype in ("f32", "bf16/e4m3")]  # fmt: skip
    for entry in result["results"]:
        assert entry["recipe"] == ("exact" if entry["dtype"] == "f32" else None)
        assert entry["dim_v"] == 48 and entry["heads_kv"] == 1


def test_decode_quantize_and_append():
    cache = bench("--decode", "--len-k", "256", "--heads-q", 4, "--heads-kv", 2, "--dtype", "bf16,bf16/e4m3",
                  "--op", "attention,append", "--recipe", "exact", "--page-size", 16, "--no-roofs")  # fmt: skip
    entries = {(e["op"], e["dtype"]): e for e in cache["results"]}
    assert set(entries) == {(op, d) for op in ("attention", "append") for d in ("bf16", "bf16/e4m3")}
    for (op, dtype), entry in entries.items():
        assert entry["layout"] == "paged" and entry["page_size"] == 16 and entry["len_q"] == 1
        width = 2 if dtype == "bf16" else 1
        if op == "append":
            assert entry["flops"] == 0 and entry["bytes"] == 2 * 2 * 64 * (2 + width)
        else:
            assert entry["bytes"] == 2 * 4 * 64 * 2 + 2 * 256 * 2 * 64 * width
    (entry,) = bench(*SMALL, "--op", "quantize", "--recipe", "exact,fp8")["results"]
    assert entry["recipe"] == "fp8" and entry["flops"] == 0
    assert entry["bytes"] >= 3 * 64 * 2 * 64 * (2 + 1)


def test_table_and_refusals(tmp_path):
    text = sotto("bench", *SMALL, "--page-size", 16, "--recipe", "exact,fp8", check=0).stdout
    assert "roofs" in text and "GFLOP/s" in text and "of roof" in text
    assert "attention" in text and "layout pages of 16" in text
    refused = [line for line in text.splitlines() if line.startswith("refused")]
    assert len(refused) == 2 and all("append_kv" in line for line in refused)
    line = error_line("bench", *SMALL, "--page-size", 16, "--op", "sdpa", "--recipe", "fp8", "--no-roofs", code=1)
    assert "op sdpa" in line and "append_kv" in line


def test_against_names_what_does_not_match(tmp_path):
    before = tmp_path / "before.json"
    sotto("bench", *SMALL, "--recipe", "exact,fp8", "--op", "attention", "--no-roofs", "--json", before, check=0)
    earlier = json.loads(before.read_text())
    now = ["bench", *SMALL, "--recipe", "exact,high", "--op", "attention", "--no-roofs", "--against", before]
    result = json.loads(sotto(*now, "--json", "-", check=0).stdout)
    assert result["against"]["file"] == str(before)
    assert result["against"]["only_here"] == [result["results"][1]["key"]]
    assert result["against"]["only_there"] == [earlier["results"][1]["key"]]
    exact, high = result["results"]
    assert exact["speedup"] == pytest.approx(earlier["results"][0]["median_seconds"] / exact["median_seconds"])
    assert high["speedup"] is None
    text = sotto(*now, check=0).stdout
    assert "speedup" in text and "geometric mean of 1 entries" in text
    assert re.search("^only here .*recipe high", text, re.M) and re.search("^only there .*recipe fp8", text, re.M)


def test_plot_and_json_file(tmp_path):
    plot, report = tmp_path / "p.svg", tmp_path / "r.json"
    done = sotto("bench", *SMALL, "--op", "sdpa,quantize", "--plot", plot, "--json", report, check=0)
    assert "GFLOP/s" in done.stdout
    text = plot.read_text()
    root = xml.etree.ElementTree.fromstring(text)
    assert root.tag.endswith("svg") and "sdpa int8qk" in text and "matrix product f32" in text and "nan" not in text
    assert json.loads(report.read_text())["results"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.svg", "r.json"]


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--len", "1k,"], "--len: expected a number of at least 1, got ''"),
        (["--len", "0"], "--len: expected a number of at least 1, got '0'"),
        (["--len", "1e3"], "--len: expected a number of at least 1, got '1e3'"),
        (["--len", "9" * 30], "--len: expected"),
        (["--len", "99999999999999999m"], "--len: expected"),
        (["--len-q", "-4"], "--len-q: expected a number of at least 1, got '-4'"),
        (["--batch", "many"], "--batch: expected a number of at least 1, got 'many'"),
        (["--heads-q", "6", "--heads-kv", "4"], "--heads-kv 4: expected a divisor of --heads-q 6"),
        (["--dim-qk", "60"], "--dim-qk: expected a multiple of 16 from 16 to 256, or 512, got 60"),
        (["--dim-v", "1024"], "--dim-v: expected a multiple of 16"),
        (["--dtype", "f64"], "--dtype: expected f32, f16, bf16, e4m3, i8, got 'f64'"),
        (["--dtype", "bf16/e4m3/i8/f32"], "--dtype: expected"),
        (["--dtype-out", "e4m3"], "--dtype-out: expected f32, f16, bf16, got 'e4m3'"),
        (["--mask", "causal,diagonal"], "--mask: expected none, causal"),
        (["--softcap", "-1"], "--softcap: expected 0 or a positive number, got '-1'"),
        (["--recipe", "exact,fp9"], "--recipe: "),
        (["--op", "backward"], "--op: expected attention, sdpa, quantize, append, got 'backward'"),
        (["--op", "quantize", "--recipe", "exact"], "--op: nothing to measure"),
        (["--op", "append", "--varlen"], "--op append"),
        (["--op", "append", "--len-q", "2k", "--len-k", "1k"], "--op append: --len-q 2048"),
        (["--varlen", "--page-size", "16"], "--varlen: "),
        (["--decode", "--len-q", "4"], "--len-q 4: --decode has one query"),
        (["--page-size", "0"], "--page-size: expected a number of at least 1"),
        (["--len", "1024m", "--batch", "1m"], "--len-k 1073741824"),
        (["--repeats", "0"], "--repeats: expected"),
        (["--warmup", "-1"], "--warmup: expected"),
        (["--max-seconds", "soon"], "--max-seconds: expected a number, got 'soon'"),
        (["--threads", "2000"], "--threads: expected at most 1024"),
        (["--device", "gpu"], "--device: expected cpu, cuda or cuda:N, got 'gpu'"),
        (["--device", "cuda:one"], "--device: expected a number of at least 0, got 'one'"),
        (["--device", "cuda:-1"], "--device: expected a number of at least 0, got '-1'"),
        (["--backend", "abacus"], "--backend: unknown 'abacus'; known: cpu"),
        (["--plot", "x.png"], "--plot: expected a file name ending in .svg, got 'x.png'"),
        (["--json", "x.txt"], "--json: expected a file name ending in .json, got 'x.txt'"),
        (["--against", "x.txt"], "--against: expected a file name ending in .json"),
        (["--lenth", "5"], "unknown option '--lenth'; did you mean '--len'?"),
        (["surplus"], "unexpected argument 'surplus'"),
    ],
)
def test_wrong_command_lines(arguments, expected):
    assert expected in error_line("bench", *arguments, code=2)


def test_a_missing_device_is_named_with_the_reason():
    line = error_line("bench", *SMALL, "--device", "cuda:999", code=1)
    assert "--device cuda:999: " in line
    info = json.loads(sotto("info", "--json", check=0).stdout)["cuda"]
    assert (info["reason"] or f"this machine has cuda:{info['devices'][0]['index']}") in line


def test_a_gpu_is_measured_by_its_own_clock():
    if not json.loads(sotto("info", "--json", check=0).stdout)["cuda"]["usable"]:
        pytest.skip("no device")
    shape = ["--len", "1k", "--dim-qk", 128]
    result = bench("--device", "cuda", *shape, "--recipe", "fp8", "--op", "attention,sdpa,quantize")
    assert result["machine"]["gpu"] and result["roofs"]["matrix_nominal"] and result["roofs"]["copy_gbps"] > 100
    for entry in result["results"]:
        assert entry["backend"] == "sm90" and len(entry["seconds"]) == 10 and entry["median_seconds"] > 0


@pytest.mark.parametrize(
    "content, expected",
    [
        ("", "is empty"),
        ("{", "JSON"),
        ("[]", "must be an object"),
        ("{}", "results: is missing"),
        ('{"results": 3}', "results: must be an array"),
        ('{"results": [{}]}', "results[0].key: is missing"),
        ('{"results": [{"key": "a"}]}', "results[0].median_seconds: is missing"),
        ('{"results": [{"key": "a", "median_seconds": 0}]}', "results[0].median_seconds: must be above 0"),
        ('{"results": [{"key": 5, "median_seconds": 1}]}', "results[0].key: must be a string"),
        ('{"results": [{"key": "a", "median_seconds": 1}, {"key": "a", "median_seconds": 1}]}', "is there twice"),
    ],
)
def test_hostile_earlier_results(tmp_path, content, expected):
    path = tmp_path / "before.json"
    path.write_text(content)
    line = error_line("bench", *SMALL, "--against", path, "--json", tmp_path / "new.json", code=1)
    assert str(path) in line and expected in line
    assert [p.name for p in tmp_path.iterdir()] == ["before.json"]


def test_unwritable_files(tmp_path):
    for option, name in (("--json", "r.json"), ("--plot", "p.svg")):
        path = tmp_path / "no" / name
        assert str(path) in error_line("bench", *SMALL, option, path, code=1)
    assert list(tmp_path.iterdir()) == []
