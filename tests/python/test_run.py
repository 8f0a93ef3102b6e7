"""`sotto run`: attention on tensors of files, against the same computed with NumPy."""

import json
import math
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from test_cli import error_line, needs_bin, sotto

pytestmark = needs_bin

E4M3 = ml_dtypes.float8_e4m3fn


def attend(q, k, v, *, scale=None, allow=None, bias=0.0, softcap=0.0, sinks=None):
    """In float64: (out, lse) of [batch, len, heads, dim]; allow and bias broadcast to
    [batch, heads, len_q, len_k]."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    group = q.shape[2] // k.shape[2]
    k, v = (np.repeat(x, group, axis=2) for x in (k, v))
    z = np.einsum("bihd,bjhd->bhij", q, k) * (scale if scale is not None else q.shape[3] ** -0.5)
    if softcap:
        z = softcap * np.tanh(z / softcap)
    z = z + bias
    if allow is not None:
        z = np.where(allow, z, -np.inf)
    top = z.max(axis=3, initial=-1e30)
    p = np.exp(z - top[..., None])
    total = p.sum(axis=3)
    if sinks is not None:
        total = total + np.exp(sinks[None, :, None] - top)
    with np.errstate(divide="ignore", invalid="ignore"):
        out = np.einsum("bhij,bjhd->bihd", p, v) / np.moveaxis(total, 1, 2)[..., None]
        return np.nan_to_num(out), np.log(total) + top


def sqnr(out, reference):
    out, reference = np.asarray(out, np.float64), np.asarray(reference, np.float64)
    return 10 * math.log10((reference**2).sum() / max(((out - reference) ** 2).sum(), 1e-300))


def read(path):
    """The file's tensors; 8-bit floats as their bits."""
    header_bytes = struct.unpack("<Q", path.read_bytes()[:8])[0]
    blob = path.read_bytes()
    types = {"F32": "<f4", "F16": "<f2", "BF16": ml_dtypes.bfloat16, "F8_E4M3": E4M3, "U8": "u1"}
    tensors = {}
    for name, entry in json.loads(blob[8 : 8 + header_bytes]).items():
        begin, end = (8 + header_bytes + at for at in entry["data_offsets"])
        data = np.frombuffer(blob[begin:end], dtype=types[entry["dtype"]])
        tensors[name] = data.reshape(entry["shape"])
    return tensors


def run(*arguments, check=0):
    done = sotto("run", *arguments, "--json", check=check)
    return json.loads(done.stdout)


@pytest.fixture
def qkv(tmp_path):
    """A file with q, k, v in fp32, and they."""
    random = np.random.default_rng(7)
    tensors = {
        "q": random.standard_normal((2, 33, 4, 32), np.float32),
        "k": random.standard_normal((2, 40, 2, 32), np.float32),
        "v": random.standard_normal((2, 40, 2, 48), np.float32),
    }
    path = tmp_path / "qkv.safetensors"
    save_file(tensors, path)
    return path, tensors


BAND = np.arange(40)[None, :] - np.arange(33)[:, None]  # j - i
MASKS = {
    "none": np.full((33, 40), True),
    "causal": BAND <= 0,
    "causal-bottom-right": BAND <= 7,
    "window:5,2": (BAND - 7 >= -5) & (BAND - 7 <= 2),
}


@pytest.mark.parametrize("mask", MASKS)
def test_masks(qkv, tmp_path, mask):
    path, tensors = qkv
    result = run("--input", path, "--mask", mask, "--out", tmp_path / "o.safetensors")
    assert result["backend"] == "cpu" and result["recipe"] is None
    assert result["files"] == [str(tmp_path / "o.safetensors")]
    out, lse = attend(**tensors, allow=MASKS[mask])
    found = read(tmp_path / "o.safetensors")
    assert set(found) == {"out", "lse"}
    assert found["out"].dtype == np.float32
    assert sqnr(found["out"], out) > 110
    np.testing.assert_allclose(found["lse"], lse, atol=1e-4)


def test_scores(qkv, tmp_path):
    """scale, softcap, sinks, a dense mask of both kinds, align."""
    path, tensors = qkv
    random = np.random.default_rng(1)
    sinks = random.standard_normal(4).astype(np.float32)
    allow = random.random((1, 4, 33, 40)) < 0.7
    bias = random.standard_normal((2, 1, 33, 40)).astype(np.float32)
    for name, array in (("sinks", sinks), ("allow", allow), ("bias", bias)):
        np.save(tmp_path / f"{name}.npy", array)
    out = tmp_path / "o.npy"
    run("--input", path, "--scale", 0.3, "--softcap", 2.5, "--sinks", tmp_path / "sinks.npy",
        "--dense-mask", tmp_path / "allow.npy", "--out", out, "--lse-out", tmp_path / "lse.npy")  # fmt: skip
    expected, lse = attend(**tensors, scale=0.3, softcap=2.5, sinks=sinks, allow=allow)
    assert sqnr(np.load(out), expected) > 110
    np.testing.assert_allclose(np.load(tmp_path / "lse.npy"), lse, atol=1e-4)
    run("--input", path, "--dense-mask", tmp_path / "bias.npy", "--mask", "causal", "--align", "bottom-right",
        "--out", out)  # fmt: skip
    expected, _ = attend(**tensors, bias=bias, allow=MASKS["causal-bottom-right"])
    assert sqnr(np.load(out), expected) > 110


def test_layout_and_names(qkv, tmp_path):
    path, tensors = qkv
    swapped = {f"layer.{n}": np.ascontiguousarray(x.swapaxes(1, 2)) for n, x in tensors.items()}
    other = tmp_path / "bhsd.safetensors"
    save_file(swapped, other)
    out = tmp_path / "o.npy"
    result = run("--input", other, "--q", "layer.q", "--k", f"{other}:layer.k", "--v", "layer.v",
                 "--layout", "bhsd", "--out", out)  # fmt: skip
    assert result["inputs"] == {n: f"{other}:layer.{n}" for n in "kqv"}
    assert np.load(out).shape == (2, 4, 33, 48)
    assert sqnr(np.load(out).swapaxes(1, 2), attend(**tensors)[0]) > 110


def test_ragged_batches(tmp_path):
    """Packed tensors with cu_seqlens (as NumPy's own int64), and lengths of a padded batch."""
    random = np.random.default_rng(3)
    lens_q, lens_k = [3, 0, 9], [5, 4, 9]
    q, k, v = (random.standard_normal((n, 2, 16), np.float32) for n in (12, 18, 18))
    arrays = {"q": q, "k": k, "v": v, "cq": np.cumsum([0, *lens_q]), "ck": np.cumsum([0, *lens_k])}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    files = [f"--{n}={tmp_path / n}.npy" for n in "qkv"]
    run(*files, "--cu-seqlens-q", tmp_path / "cq.npy", "--cu-seqlens-k", tmp_path / "ck.npy",
        "--max-len-q", 9, "--max-len-k", 9, "--out", tmp_path / "o.npy")  # fmt: skip
    out = np.load(tmp_path / "o.npy")
    for b in range(3):
        rows, keys = slice(*arrays["cq"][b : b + 2]), slice(*arrays["ck"][b : b + 2])
        expected, _ = attend(q[None, rows], k[None, keys], v[None, keys])
        np.testing.assert_allclose(out[rows], expected[0], atol=1e-5)

    batch = {n: random.standard_normal((2, 8, 2, 16), np.float32) for n in "qkv"}
    save_file(batch | {"cache_seqlens": np.array([3, 8], np.int32)}, tmp_path / "b.safetensors")
    result = run("--input", tmp_path / "b.safetensors", "--out", tmp_path / "o.npy")
    assert "seqused_k" in result["inputs"]
    allow = np.arange(8)[None, None, None, :] < np.array([3, 8])[:, None, None, None]
    np.testing.assert_allclose(np.load(tmp_path / "o.npy"), attend(**batch, allow=allow)[0], atol=1e-5)


def test_paged_quantised_cache(tmp_path):
    """bf16 queries over e4m3 pages, decode."""
    random = np.random.default_rng(5)
    q = random.standard_normal((2, 1, 4, 64)).astype(ml_dtypes.bfloat16)
    pages = {n: (random.standard_normal((8, 4, 2, 64)) * 32).astype(E4M3) for n in "kv"}
    table = np.array([[5, 1, 7], [0, 2, 6]], np.int32)
    lens = np.array([9, 12], np.int32)
    descale = np.array([1 / 32], np.float32)
    path = tmp_path / "cache.safetensors"
    write(path, {"q": q, "k": pages["k"], "v": pages["v"], "page_table": table, "seqused_k": lens,
                 "k_descale": descale, "v_descale": descale})  # fmt: skip
    run("--input", path, "--mask", "causal-bottom-right", "--out", tmp_path / "o.npy", "--out-dtype", "f32")
    k, v = (np.asarray(pages[n], np.float32)[table].reshape(2, 12, 2, 64) / 32 for n in "kv")
    allow = np.arange(12)[None, None, None, :] < lens[:, None, None, None]
    expected, _ = attend(np.asarray(q, np.float32), k, v, allow=allow)
    assert sqnr(np.load(tmp_path / "o.npy"), expected) > 35  # P in bf16 or better


def write(path, tensors):
    """As safetensors.numpy.save_file, which does not know 8-bit floats everywhere."""
    names = {"float32": "F32", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3", "int8": "I8", "int32": "I32"}
    header, data = {}, b""
    for name, array in tensors.items():
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": names[array.dtype.name], "shape": array.shape, "data_offsets": offsets}
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_descales_of_every_granularity(tmp_path):
    random = np.random.default_rng(9)
    q, k = (random.integers(-127, 128, (1, 20, 2, 32)).astype(np.int8) for _ in "qk")
    v = random.standard_normal((1, 20, 2, 32)).astype(np.float32)
    scales = {
        ("head", "head"): ((1, 2), (1, 2), lambda s: s[:, None, :, None]),
        ("token", "token"): ((1, 20, 2), (1, 20, 2), lambda s: s[..., None]),
        ("block:8", "block:8"): (
            (1, 2, 3),
            (1, 2, 3),
            lambda s: np.repeat(s, 8, axis=2)[:, :, :20].swapaxes(1, 2)[..., None],
        ),
    }
    for (kind_q, kind_k), (shape_q, shape_k, spread) in scales.items():
        dq, dk = (random.uniform(0.001, 0.02, s).astype(np.float32) for s in (shape_q, shape_k))
        path = tmp_path / "x.safetensors"
        write(path, {"q": q, "k": k, "v": v, "q_descale": dq, "k_descale": dk})
        run("--input", path, "--q-granularity", kind_q, "--k-granularity", kind_k, "--out-dtype", "f32",
            "--out", tmp_path / "o.npy")  # fmt: skip
        expected, _ = attend(q * spread(dq), k * spread(dk), v)
        assert sqnr(np.load(tmp_path / "o.npy"), expected) > 80


def test_recipe_and_rope(qkv, tmp_path):
    path, tensors = qkv
    angles = np.arange(40)[:, None] * 100.0 ** -(np.arange(16) / 16)
    save_file({"cos": np.cos(angles).astype(np.float32), "sin": np.sin(angles).astype(np.float32)},
              tmp_path / "rope.safetensors")  # fmt: skip
    rope = ["--cos", tmp_path / "rope.safetensors", "--sin", tmp_path / "rope.safetensors"]

    def turned(x):
        c, s = (f(angles)[: x.shape[1], None, :] for f in (np.cos, np.sin))
        a, b = x[..., :16], x[..., 16:]
        return np.concatenate([a * c - b * s, b * c + a * s], axis=-1)

    expected, _ = attend(turned(tensors["q"]), turned(tensors["k"]), tensors["v"])
    result = run("--input", path, "--recipe", "exact", *rope, "--out", tmp_path / "exact.npy")
    assert result["recipe"] == "exact"
    assert sqnr(np.load(tmp_path / "exact.npy"), expected) > 100
    run("--input", path, "--recipe", "int8qk+v_mean", *rope, "--out", tmp_path / "int8.npy")
    assert 25 < sqnr(np.load(tmp_path / "int8.npy"), expected) < 60
    line = error_line("run", "--input", path, *rope, code=2)
    assert "--cos" in line and "--recipe" in line


@pytest.mark.parametrize(
    "options, least",
    [
        (["--out-dtype", "e4m3"], 28),
        (["--out-dtype", "e4m3", "--output-group", "64"], 30),
        (["--out-dtype", "e4m3", "--output-group", "64", "--group-scale-dtype", "ue8m0"], 30),
        (["--out-dtype", "nvfp4"], 18),
    ],
)
def test_quantised_outputs(tmp_path, options, least):
    random = np.random.default_rng(2)
    tensors = {n: random.standard_normal((1, 140, 2, 64), np.float32) for n in "qkv"}
    path, exact, out = (tmp_path / f"{n}.safetensors" for n in ("x", "exact", "out"))
    save_file(tensors | {"scale": np.array([0.01 if "e4m3" in options else 1], np.float32)}, path)
    run("--input", path, "--out", exact)
    scale = [] if "--output-group" in options else ["--output-scale", "scale"]
    found = run("--input", path, *options, *scale, "--out", out, "--compare", exact)["comparisons"]
    assert [c["name"] for c in found] == ["out", "lse"]
    assert found[0]["sqnr_db"] > least and found[1]["identical"]
    # The file reads back to the same values.
    again = run("--input", path, *options, *scale, "--compare", out, "--min-sqnr", 200)
    assert again["comparisons"][0]["identical"]
    written = read(out)
    if options == ["--out-dtype", "e4m3"]:
        decoded = written["out"].astype(np.float32) * written["output_scale"]
        assert sqnr(decoded, attend(**tensors)[0]) > least
    if options[-1] == "64":
        decoded = written["out"].astype(np.float32) * written["group_scale"].reshape(1, 140, 2, 1)
        assert sqnr(decoded, attend(**tensors)[0]) > least


def test_comparison(qkv, tmp_path):
    path, tensors = qkv
    out, _ = attend(**tensors)
    wrong = out.astype(np.float32)
    wrong[1, 20, 3, 7] += 0.5
    save_file({"mine": wrong, "short": wrong[:, :-1]}, tmp_path / "ref.safetensors")
    result = run("--input", path, "--compare", f"{tmp_path / 'ref.safetensors'}:mine")
    (comparison,) = result["comparisons"]
    assert comparison["max_abs_error"] == pytest.approx(0.5, abs=1e-3)
    assert comparison["sqnr_db"] == pytest.approx(10 * math.log10((wrong**2).sum() / 0.25), abs=0.05)
    text = sotto("run", "--input", path, "--compare", f"{tmp_path / 'ref.safetensors'}:mine", check=0).stdout
    assert "[1, 20, 3, 7]" in text and "SQNR" in text
    done = sotto("run", "--input", path, "--compare", f"{tmp_path / 'ref.safetensors'}:mine",
                 "--min-sqnr", 80, "--out", tmp_path / "o.npy", check=1)  # fmt: skip
    assert "--min-sqnr 80" in done.stderr and "SQNR" in done.stdout
    assert (tmp_path / "o.npy").exists()
    line = error_line("run", "--input", path, "--compare", f"{tmp_path / 'ref.safetensors'}:short", code=1)
    assert "short" in line and "[2, 33, 4, 48]" in line
    nan = out.astype(np.float32)
    nan[0, 0, 0, 0] = np.nan
    np.save(tmp_path / "nan.npy", nan)
    result = run("--input", path, "--compare", tmp_path / "nan.npy")
    assert result["comparisons"][0]["nonfinite_mismatches"] == 1
    assert "not finite" in sotto("run", "--input", path, "--compare", tmp_path / "nan.npy", "--min-sqnr", 1,
                                 check=1).stderr  # fmt: skip


def test_explain_and_backend(qkv):
    path, _ = qkv
    text = sotto("run", "--input", path, "--explain", check=0).stdout
    assert "chosen" in text and "reference" in text
    result = run("--input", path, "--explain", "--backend", "reference")
    assert result["backend"] == "reference"
    answers = {answer["backend"]: answer for answer in result["explain"]}
    assert answers["reference"]["chosen"] and not answers["cpu"]["chosen"]
    done = sotto("run", "--input", path, "--explain", "--dropout-p", 0.5, check=1)
    assert "no" in done.stdout and "dropout" in done.stderr


def npy(descr="<f4", fortran="False", shape="(1, 8, 2, 16)", data=1024, magic=b"\x93NUMPY\x01\x00"):
    header = f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    return magic + struct.pack("<H", len(header)) + header + bytes(data)


def safetensors(header, data=b"", size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


ENTRY = {"dtype": "F32", "shape": [1, 8, 2, 16], "data_offsets": [0, 1024]}


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"", "is empty"),
        (b"PK\x03\x04", "magic"),
        (npy(magic=b"\x93NUMPY\x09\x00"), "version"),
        (npy(descr=">f4"), "descr"),
        (npy(descr="|O"), "pickled"),
        (npy(descr="<f8"), "descr"),
        (npy(descr="<V2"), "bf16"),
        (npy(fortran="True"), "fortran_order"),
        (npy(shape="(1099511627776, 1099511627776)"), "shape"),
        (npy(shape="(99999999999999999999999,)"), "shape"),
        (npy(shape="(-1, 8)"), "shape"),
        (npy(data=1000), "data"),
        (npy(data=2000), "data"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "header"),
    ],
)
def test_hostile_npy(tmp_path, content, expected):
    path = tmp_path / "q.npy"
    path.write_bytes(content)
    for name in "kv":
        (tmp_path / f"{name}.npy").write_bytes(npy())
    line = error_line("run", *(f"--{n}={tmp_path / n}.npy" for n in "qkv"), "--out", tmp_path / "o.npy", code=1)
    assert str(path) in line and expected in line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["k.npy", "q.npy", "v.npy"]


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"short", "header size"),
        (safetensors({}, size=1 << 60), "header size"),
        (safetensors(b"{not json"), "header"),
        (safetensors(b"[]"), "header"),
        (safetensors({"q": ENTRY | {"dtype": "F64"}}, bytes(1024)), "q.dtype"),
        (safetensors({"q": ENTRY | {"shape": [1 << 40, 1 << 40]}}, bytes(1024)), "q.shape"),
        (safetensors({"q": ENTRY | {"shape": [1, 9, 2, 16]}}, bytes(1024)), "q.data_offsets"),
        (safetensors({"q": ENTRY | {"data_offsets": [0, 1 << 50]}}, bytes(1024)), "q.data_offsets"),
        (safetensors({"q": ENTRY}, bytes(1024)), "--k: expected a tensor"),
        (safetensors({"q": ENTRY | {"dtype": "U8", "shape": [1024]}}, bytes(1024)), "q: U8"),
        (safetensors({"q": ENTRY | {"shape": [1, 2, 2, 2, 2, 16]}}, bytes(1024)), "at most 4 dimensions"),
    ],
)
def test_hostile_safetensors(tmp_path, content, expected):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    done = sotto("run", "--input", path, "--out", tmp_path / "o.safetensors")
    assert done.returncode in (1, 2) and done.stdout == ""
    assert expected in done.stderr.splitlines()[0]
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], "--q: expected a tensor"),
        (["--input", "x.npy"], "--input: expected a file name ending in .safetensors, got 'x.npy'"),
        (["--q", "name"], "--q: expected FILE.npy, FILE.safetensors:NAME"),
        (["--mask", "diagonal"], "--mask: expected none, causal"),
        (["--mask", "window:3"], "window:LEFT,RIGHT"),
        (["--mask", "window:3,-2"], "--mask window:RIGHT: expected a number of at least -1, got '-2'"),
        (["--align", "left"], "--align: expected top-left, bottom-right, got 'left'"),
        (["--scale", "big"], "--scale: expected a number, got 'big'"),
        (["--scale", "nan"], "--scale: expected a number, got 'nan'"),
        (["--softcap", "1e999"], "--softcap: expected a number"),
        (["--recipe", "fp9"], "--recipe: "),
        (["--out", "x.txt"], "--out: expected a file name ending in .safetensors or .npy, got 'x.txt'"),
        (["--lse-out", "x.safetensors"], "--lse-out: expected a file name ending in .npy"),
        (["--out-dtype", "e5m2"], "--out-dtype: expected f32, f16, bf16, e4m3, nvfp4, got 'e5m2'"),
        (["--output-group", "32"], "--output-group: expected 64, 128, got '32'"),
        (["--q-granularity", "block:0"], "--q-granularity block:N: expected a number of at least 1"),
        (["--layout", "sbhd"], "--layout: expected bshd, bhsd, got 'sbhd'"),
        (["--num-splits", "-1"], "--num-splits: expected a number of at least 0, got '-1'"),
        (["--threads", "0"], "--threads: expected"),
        (["--backend", "abacus"], "--backend: unknown 'abacus'; known: cpu"),
        (["--min-sqnr", "30"], "--min-sqnr 30: needs --compare"),
        (["--json", "x.txt"], "--json: expected a file name ending in .json"),
        (["--quiet"], "unknown option '--quiet'"),
    ],
)
def test_wrong_command_lines(arguments, expected):
    assert expected in error_line("run", *arguments, code=2)


def test_illegal_requests_name_option_and_file(qkv, tmp_path):
    path, tensors = qkv
    save_file({"k": tensors["k"][..., :16].copy()}, tmp_path / "k.safetensors")
    line = error_line("run", "--input", path, "--k", tmp_path / "k.safetensors", code=1)
    assert f"--k {tmp_path / 'k.safetensors'}:k: " in line and "head size must be 32" in line
    assert "--softcap -3" in error_line("run", "--input", path, "--softcap", -3, code=1)
    np.save(tmp_path / "lens.npy", np.array([5, 400]))
    line = error_line("run", "--input", path, "--seqused-k", tmp_path / "lens.npy", code=1)
    assert f"--seqused-k {tmp_path / 'lens.npy'}: " in line and "400" in line
    np.save(tmp_path / "lens.npy", np.array([5, 1 << 40]))
    assert "32 bits" in error_line("run", "--input", path, "--seqused-k", tmp_path / "lens.npy", code=1)
    line = error_line("run", "--input", path, "--q", "queries", code=1)
    assert f"{path}: queries: there is no such tensor" in line
    line = error_line("run", "--input", path, "--out-dtype", "bf16", "--out", tmp_path / "o.npy", code=2)
    assert "--out" in line and "NumPy has no bf16" in line
    line = error_line("run", "--input", path, "--out-dtype", "e4m3", "--output-group", 64, code=2)
    assert "--output-group 64" in line and "48" in line
    line = error_line("run", "--input", path, "--recipe", "exact", "--rotary-dim", 16, code=2)
    assert "--rotary-dim 16" in line and "--cos" in line
    line = error_line("run", "--input", path, "--out", tmp_path / "no" / "o.npy", code=1)
    assert str(tmp_path / "no" / "o.npy") in line
    assert not list(tmp_path.glob("o.*")) and not list(tmp_path.glob("*.tmp*"))


def test_inputs_are_never_overwritten(qkv, tmp_path):
    path, _ = qkv
    before = path.read_bytes()
    (tmp_path / "link.safetensors").symlink_to(path)
    for out in (path, tmp_path / "link.safetensors"):
        error = error_line("run", "--input", path, "--out", out, code=2)
        assert "--out" in error and "is a file that is read" in error
    assert path.read_bytes() == before


def test_json_to_a_file_and_result_for_others(qkv, tmp_path):
    path, _ = qkv
    run("--input", path, "--no-lse", "--out", tmp_path / "alone.safetensors")
    assert set(read(tmp_path / "alone.safetensors")) == {"out"}
    assert "--no-lse" in error_line("run", "--input", path, "--no-lse", "--lse-out", tmp_path / "l.npy", code=2)
    done = sotto("run", "--input", path, "--json", tmp_path / "r.json", "--out", tmp_path / "o.safetensors", check=0)
    assert "backend  cpu" in done.stdout
    assert json.loads((tmp_path / "r.json").read_text())["backend"] == "cpu"
    with safe_open(tmp_path / "o.safetensors", "np") as file:  # the reference implementation reads it
        assert file.get_tensor("out").shape == (2, 33, 4, 48)
