"""The program `sotto` as a user meets it.

SOTTO_BIN is the program, SOTTO_TEST_MODEL the GGUF file of SmolLM2-135M-Instruct.
"""

import json
import math
import os
import re
import subprocess
from pathlib import Path

import pytest

BIN = os.environ.get("SOTTO_BIN")
MODEL = os.environ.get("SOTTO_TEST_MODEL")

needs_bin = pytest.mark.skipif(not BIN, reason="SOTTO_BIN is not set")
needs_model = pytest.mark.skipif(not (BIN and MODEL), reason="SOTTO_TEST_MODEL is not set")

PROSE = (
    "The harbour was quiet in the early morning. Two boats had come in during the night, and their "
    "nets lay drying on the stones beside the wall. An old man walked along the pier, counted the "
    "lamps that were still lit, and wrote their number in a small book. He had done this every day "
    "for thirty years, although nobody had ever asked to see the book. "
)


def sotto(*arguments, check=None):
    done = subprocess.run([BIN, *map(str, arguments)], capture_output=True, text=True, timeout=600)
    if check is not None:
        assert done.returncode == check, done.stderr
    return done


def error_line(*arguments, code):
    """The first line of standard error; nothing else may have been printed."""
    done = sotto(*arguments, check=code)
    assert done.stdout == ""
    return done.stderr.splitlines()[0]


@pytest.fixture
def prose(tmp_path):
    path = tmp_path / "prose.txt"
    path.write_text(PROSE * 2)
    return path


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """Two windows with some layers kept exact, as JSON, and the page."""
    folder = tmp_path_factory.mktemp("eval")
    text, page = folder / "prose.txt", folder / "page.html"
    text.write_text(PROSE * 3)
    done = sotto(
        *("eval", "--model", MODEL, "--text", text, "--context", 96, "--windows", 2),
        *("--modes", "exact,fp8,int8qk+v_mean", "--skip-first", 1, "--skip-last", 2),
        *("--json", "--report", page),
        check=0,
    )
    return json.loads(done.stdout), page, done


@needs_bin
def test_version_and_help():
    assert re.fullmatch(r"sotto \d+\.\d+\.\d+\n", sotto("--version", check=0).stdout)
    assert "Exit codes" in sotto("--help", check=0).stdout
    text = sotto("eval", "--help", check=0).stdout
    for word in ("--model", "--text", "--tokens", "--context", "--windows", "--modes", "--skip-first",
                 "--skip-last", "--backend", "--json", "--report", "Examples", "Exit codes"):  # fmt: skip
        assert word in text
    assert "--json" in sotto("info", "--help", check=0).stdout


@needs_bin
def test_info():
    info = json.loads(sotto("info", "--json", check=0).stdout)
    assert info["cpu"]["simd"] and info["cpu"]["threads"] >= 1
    names = [backend["name"] for backend in info["backends"]]
    assert {"cpu", "reference"} <= set(names)
    priorities = [backend["priority"] for backend in info["backends"]]
    assert priorities == sorted(priorities, reverse=True)
    for backend in info["backends"]:
        assert backend["usable"] == (not backend["reasons"])
    assert info["cuda"]["usable"] or info["cuda"]["reason"] or info["cuda"]["devices"] == []
    text = sotto("info", check=0).stdout
    for name in names:
        assert name in text


@needs_bin
@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["evla"], "unknown command 'evla'; did you mean 'eval'?"),
        (["eval", "--modle", "x"], "unknown option '--modle'; did you mean '--model'?"),
        (["eval", "--modle=x"], "unknown option '--modle'; did you mean '--model'?"),
        (["eval", "--contxet", "5"], "unknown option '--contxet'; did you mean '--context'?"),
        (["info", "--jsn"], "unknown option '--jsn'; did you mean '--json'?"),
        (["--verion"], "unknown option '--verion'; did you mean '--version'?"),
        (["info", "surplus"], "unexpected argument 'surplus'"),
        ([], "no command given"),
        (["eval"], "--model: expected"),
        (["eval", "--model", "m.gguf"], "either --text FILE or --tokens FILE"),
        (["eval", "--model", "m", "--text", "t", "--tokens", "t"], "either --text FILE or --tokens"),
        (["eval", "--model", "m", "--text", "t", "--context", "0"], "--context: expected a number of at least 2"),
        (["eval", "--model", "m", "--text", "t", "--context", "-5"], "--context: expected a number of at least 2"),
        (["eval", "--model", "m", "--text", "t", "--context", "1"], "--context: expected a number of at least 2"),
        (["eval", "--model", "m", "--text", "t", "--context", "many"], "--context: expected"),
        (["eval", "--model", "m", "--text", "t", "--context", "9" * 30], "--context: expected"),
        (["eval", "--model", "m", "--text", "t", "--windows", "-1"], "--windows: expected a number"),
        (["eval", "--model", "m", "--text", "t", "--windows", "few"], "--windows: expected a number"),
        (["eval", "--model", "m", "--text", "t", "--skip-first", "-1"], "--skip-first: expected"),
        (["eval", "--model", "m", "--text", "t", "--skip-last", "1e1"], "--skip-last: expected"),
        (["eval", "--model", "m", "--text", "t", "--threads", "0"], "--threads: expected"),
        (["eval", "--model", "m", "--text", "t", "--threads", "99999"], "at most 1024"),
        (["eval", "--model", "m", "--text", "t", "--modes", "fp9"], "int8qk"),
        (["eval", "--model", "m", "--text", "t", "--modes", "exact,,fp8"], "unknown name ''"),
        (["eval", "--model", "m", "--text", "t", "--modes", "fp8+colour"], "--modes: "),
        (["eval", "--model", "m", "--text", "t", "--backend", "abacus"], "known: cpu"),
        (["eval", "--model", "m", "--text", "t", "--report", "x.png"], "ending in .html"),
        (["eval", "--model"], "--model"),
    ],
)
def test_wrong_command_lines(arguments, expected):
    line = error_line(*arguments, code=2)
    assert line.startswith("sotto")
    assert expected in line


@needs_bin
def test_missing_and_unwritable_files(tmp_path, prose):
    missing = tmp_path / "none.gguf"
    assert str(missing) in error_line("eval", "--model", missing, "--text", prose, code=1)
    assert "none.txt" in error_line("eval", "--model", missing, "--text", tmp_path / "none.txt", code=1)
    assert str(tmp_path) in error_line("eval", "--model", missing, "--text", tmp_path, code=1)
    page = tmp_path / "no" / "page.html"
    line = error_line("eval", "--model", missing, "--text", prose, "--report", page, code=1)
    assert str(page) in line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["prose.txt"]


@needs_model
def test_texts_without_a_prediction(tmp_path):
    path = tmp_path / "short.txt"
    for text, expected in (("", "is empty"), ("a", "expected at least 2 tokens")):
        path.write_text(text)
        line = error_line("eval", "--model", MODEL, "--text", path, code=1)
        assert str(path) in line and expected in line


@needs_model
def test_tokens_outside_the_vocabulary(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text("1 2 49152 3")
    assert "49152" in error_line("eval", "--model", MODEL, "--tokens", path, code=1)


@needs_model
def test_more_layers_skipped_than_there_are(prose):
    line = error_line(
        "eval", "--model", MODEL, "--text", prose, "--skip-first", 20, "--skip-last", 11, code=1
    )
    assert "30 layers" in line


@needs_model
def test_json_has_the_documented_shape(evaluation):
    result, _, done = evaluation
    assert done.stderr == ""  # no terminal, no bar
    assert result["model"] == Path(MODEL).name and result["text"] == "prose.txt"
    assert result["context"] == 96 and result["windows"] == 2 and result["evaluated_tokens"] == 192
    assert result["tokens"] > 192
    modes = {entry["mode"]: entry for entry in result["results"]}
    assert list(modes) == ["exact", "fp8", "int8qk+v_mean"]
    for entry in modes.values():
        assert len(entry["window_perplexity"]) == 2
        assert math.exp(sum(map(math.log, entry["window_perplexity"])) / 2) == pytest.approx(
            entry["perplexity"]
        )
        assert 0 < entry["attention_seconds"] < entry["seconds"]
        assert sum(entry["window_seconds"]) == pytest.approx(entry["seconds"])
        assert [layer["layer"] for layer in entry["layers"]] == list(range(30))
    exact, fp8, int8 = modes.values()
    assert exact["kl"] == 0 and exact["top1"] == 1 and exact["perplexity_change"] == 0
    assert all(layer["sqnr_db"] is None for layer in exact["layers"])
    for entry in (fp8, int8):
        sqnr = [layer["sqnr_db"] for layer in entry["layers"]]
        assert [i for i, value in enumerate(sqnr) if value is None] == [0, 28, 29]
        known = [value for value in sqnr if value is not None]
        assert min(known) == pytest.approx(entry["worst_sqnr_db"])
    assert 0 < int8["kl"] < fp8["kl"] < 0.1
    assert int8["mean_sqnr_db"] > fp8["mean_sqnr_db"] + 5
    assert fp8["perplexity"] / exact["perplexity"] - 1 == pytest.approx(fp8["perplexity_change"])


@needs_model
def test_page_needs_nothing_else(evaluation):
    _, page, _ = evaluation
    text = page.read_text()
    assert text.startswith("<!DOCTYPE html>") and text.rstrip().endswith("</html>")
    assert "<svg" in text and "int8qk+v_mean" in text
    assert "<script" not in text and "http" not in text and "nan" not in text.lower()
    assert [p.name for p in page.parent.iterdir() if "tmp" in p.name] == []


@needs_model
def test_unlisted_exact_is_still_the_baseline(evaluation, tmp_path):
    result, page, _ = evaluation
    alone = json.loads(
        sotto(
            *("eval", "--model", MODEL, "--text", page.parent / "prose.txt", "--context", 96),
            *("--windows", 2, "--modes", "fp8", "--skip-first", 1, "--skip-last", 2, "--json"),
            check=0,
        ).stdout
    )
    (fp8,) = alone["results"]
    before = result["results"][1]
    for field in ("mode", "perplexity", "window_perplexity", "kl", "top1", "layers"):
        assert fp8[field] == before[field]  # the same bits on every run


@needs_model
def test_table_token_file_and_short_text(tmp_path):
    ids = tmp_path / "ids.json"
    ids.write_text("[446, 6356, 389, 9226, 506]")
    text = sotto("eval", "--model", MODEL, "--tokens", ids, "--modes", "exact,int8qk", check=0).stdout
    assert "1 window of 5" in text
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "±" in rows["int8qk"] and "±" not in rows["exact"]
