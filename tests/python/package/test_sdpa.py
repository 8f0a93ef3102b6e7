"""sotto.sdpa against torch's own scaled_dot_product_attention."""

import threading

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import sotto
from quality import sqnr

# What each recipe keeps of normal numbers, in dB, with some room (docs/benchmarks.md).
QUALITY = {"exact": 40, "fp8": 20, "fp8-hadamard": 20, "int8qk": 25, "high": 25}


def exact(q, k, v, *args, **kwargs):
    """torch's result in float64."""
    if (mask := kwargs.get("attn_mask")) is not None and mask.dtype != torch.bool:
        kwargs["attn_mask"] = mask.double()
    return scaled_dot_product_attention(q.double(), k.double(), v.double(), *args, **kwargs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("recipe", QUALITY)
def test_quality(randn, device, recipe, dtype):
    if device.type == "cuda" and (recipe == "high" or dtype == torch.float32):
        pytest.skip("refused by backend sm90")
    q, k, v = (randn(2, heads, 150, 64, dtype=dtype) for heads in (4, 2, 2))
    out = sotto.sdpa(q, k, v, is_causal=True, enable_gqa=True, recipe=recipe)
    assert out.dtype == dtype
    assert sqnr(out, exact(q, k, v, is_causal=True, enable_gqa=True)) > QUALITY[recipe]


def test_arguments_are_torchs(randn):
    q, k, v = (randn(2, heads, 40, 64) for heads in (4, 2, 2))
    out = sotto.sdpa(q, k, v, None, 0.0, True, scale=0.3, enable_gqa=True)
    assert sqnr(out, exact(q, k, v, None, 0.0, True, scale=0.3, enable_gqa=True)) > 25


@pytest.mark.parametrize("shape", [(40, 64), (3, 40, 64), (2, 1, 3, 40, 64), (2, 2, 2, 3, 40, 64)])
def test_other_ranks(randn, shape):
    q, k, v = (randn(*shape) for _ in range(3))
    out = sotto.sdpa(q, k, v, is_causal=True)
    assert out.shape == q.shape
    assert sqnr(out, exact(q, k, v, is_causal=True)) > 25


@pytest.mark.parametrize("shape", [(40, 50), (1, 50), (4, 40, 50), (2, 1, 40, 50), (2, 4, 1, 50)])
@pytest.mark.parametrize("dtype", [torch.bool, torch.bfloat16])
def test_masks_broadcast(randn, device, shape, dtype):
    q, k, v = randn(2, 4, 40, 64), randn(2, 4, 50, 64), randn(2, 4, 50, 64)
    mask = randn(*shape)
    if dtype == torch.bool:
        mask = mask > 0
        mask[..., 0] = True
    if device.type == "cuda":
        with pytest.raises(RuntimeError, match="no backend takes this request"):
            sotto.sdpa(q, k, v, mask)
        return
    assert sqnr(sotto.sdpa(q, k, v, mask), exact(q, k, v, attn_mask=mask)) > 25


def test_masks_of_other_ranks(randn, device):
    if device.type == "cuda":
        pytest.skip("refused by backend sm90")
    q, mask = randn(2, 3, 4, 40, 64), randn(3, 1, 40, 40) > 0
    mask[..., 0] = True
    assert sqnr(sotto.sdpa(q, q, q, mask), exact(q, q, q, attn_mask=mask)) > 25


def test_causal_is_top_left_and_window_bottom_right(randn):
    q, k, v = randn(1, 2, 20, 64), randn(1, 2, 50, 64), randn(1, 2, 50, 64)
    assert sqnr(sotto.sdpa(q, k, v, is_causal=True), exact(q, k, v, is_causal=True)) > 25
    ahead = torch.arange(50, device=q.device) - torch.arange(20, device=q.device)[:, None] - 30
    seen = (ahead <= 0) & (ahead >= -7)
    assert sqnr(sotto.sdpa(q, k, v, window=(7, 0)), exact(q, k, v, attn_mask=seen)) > 25


def test_strides(randn):
    q, k, v = (randn(2, 40, 4, 64).transpose(1, 2) for _ in range(3))
    out = sotto.sdpa(q, k, v)
    assert torch.equal(out, sotto.sdpa(q.contiguous(), k.contiguous(), v.contiguous()))
    assert out.transpose(1, 2).is_contiguous()


def test_out_and_lse_are_written(randn):
    q, k, v = (randn(2, 4, 40, 64) for _ in range(3))
    expected = sotto.sdpa(q, k, v, recipe="exact")
    out, lse = torch.empty_like(q), torch.empty(2, 4, 40, device=q.device)
    assert sotto.sdpa(q, k, v, recipe="exact", out=out, lse=lse) is out
    assert torch.equal(out, expected)
    scores = q.double() @ k.double().mT / 8
    torch.testing.assert_close(lse.double(), scores.logsumexp(-1), atol=1e-3, rtol=1e-3)
    lse_only = torch.empty_like(lse)
    again = sotto.sdpa(q, k, v, recipe="exact", lse=lse_only)
    assert torch.equal(again, expected) and again.stride() == expected.stride()
    assert torch.equal(lse_only, lse)


def test_fp8_output(randn):
    q, k, v = (randn(2, 4, 40, 64) for _ in range(3))
    scale = torch.tensor(0.01, device=q.device)  # no dimensions: as good as [1]
    out = sotto.sdpa(q, k, v, out_dtype=torch.float8_e4m3fn, output_scale=scale)
    assert out.dtype == torch.float8_e4m3fn
    assert sqnr(out.float() * scale, exact(q, k, v)) > 20


def test_softcap_and_sinks(randn):
    q, k, v = (randn(2, 4, 40, 64) for _ in range(3))
    sinks = randn(4, dtype=torch.float32)
    scores = 5 * torch.tanh(q.double() @ k.double().mT / 8 / 5)
    sunk = torch.cat([scores, sinks.double()[None, :, None, None].expand(2, 4, 40, 1)], -1)
    expected = sunk.softmax(-1)[..., :-1] @ v.double()
    assert sqnr(sotto.sdpa(q, k, v, softcap=5.0, sinks=sinks, recipe="exact"), expected) > 40


def rotated(x, cos, sin, interleaved):
    x = x.double()
    first, second = (x[..., ::2], x[..., 1::2]) if interleaved else x.chunk(2, -1)
    pairs = (first * cos - second * sin, second * cos + first * sin)
    return torch.stack(pairs, -1).flatten(-2) if interleaved else torch.cat(pairs, -1)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rope(randn, ints, interleaved):
    q, k, v = (randn(2, 4, 40, 64) for _ in range(3))
    angles = torch.rand(100, 32, device=q.device) * 6
    cos, sin = angles.cos(), angles.sin()
    positions = list(range(3, 83, 2))
    row = torch.tensor(positions)
    q_rotated, k_rotated = (rotated(x, cos[row], sin[row], interleaved) for x in (q, k))
    rope = sotto.Rope(cos, sin, interleaved, positions=ints([positions]))
    out = sotto.sdpa(q, k, v, is_causal=True, rope=rope)
    assert sqnr(out, exact(q_rotated, k_rotated, v, is_causal=True)) > 25
    if not interleaved:
        q_rotated, k_rotated = (rotated(x, cos[:40], sin[:40], interleaved) for x in (q, k))
        out = sotto.sdpa(q, k, v, rope=(cos, sin))
        assert sqnr(out, exact(q_rotated, k_rotated, v)) > 25


@pytest.mark.parametrize("shape", [(0, 4, 40, 64), (2, 4, 0, 64)])
def test_empty(randn, shape):
    q = randn(*shape)
    k = randn(shape[0], 4, 50, 64)
    assert sotto.sdpa(q, k, k).shape == shape


def test_no_keys(randn):
    q, k = randn(2, 4, 40, 64), randn(2, 4, 0, 64)
    lse = torch.empty(2, 4, 40, device=q.device)
    assert torch.equal(sotto.sdpa(q, k, k, lse=lse), torch.zeros_like(q))
    assert torch.equal(lse, torch.full_like(lse, -torch.inf))


def test_same_bits_from_many_threads(randn):
    inputs = [randn(1, 4, 30 + n, 64) for n in range(8)]
    expected = [sotto.sdpa(q, q, q, is_causal=True) for q in inputs]
    wrong = []

    def work(first):
        for n in range(40):
            q = inputs[(first + n) % 8]
            if not torch.equal(sotto.sdpa(q, q, q, is_causal=True), expected[(first + n) % 8]):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_more_shapes_than_plans_are_kept(randn):
    """The oldest plan goes; a request that comes back is planned again."""
    q = randn(1, 2, 100, 64)
    first = sotto.sdpa(q[:, :, :1], q, q)
    for length in range(1, 101):
        assert sotto.sdpa(q[:, :, :length], q, q).shape[2] == length
    assert torch.equal(first, sotto.sdpa(q[:, :, :1], q, q))


def test_a_kept_plan_does_not_outlive_a_change_of_backend(randn, monkeypatch):
    q = randn(1, 2, 16, 64)
    sotto.sdpa(q, q, q)
    monkeypatch.setenv("SOTTO_DISABLE", ",".join(backend.name for backend in sotto.backends.list()))
    with pytest.raises(RuntimeError, match="disabled by SOTTO_DISABLE"):
        sotto.sdpa(q, q, q)
    monkeypatch.delenv("SOTTO_DISABLE")
    sotto.sdpa(q, q, q)


@pytest.mark.parametrize("recipe", ["exact", "fp8", "fp8-hadamard", "int8qk"])
@pytest.mark.parametrize("holder", ["query", "key", "value"])
def test_nan(randn, recipe, holder):
    """As sdpa's docstring says: rows that see one show it, but INT8 has none."""
    qkv = {name: randn(1, 2, 32, 64) for name in ("query", "key", "value")}
    qkv[holder][0, 0, 5, 3] = torch.nan
    rows = sotto.sdpa(**qkv, is_causal=True, recipe=recipe).isnan().any(-1)[0]
    expected = torch.zeros_like(rows)
    if recipe != "int8qk" or holder == "value":
        expected[0, 5 : 6 if holder == "query" else None] = True
    assert torch.equal(rows, expected)


def test_autocast_takes_no_part(randn, device):
    q = randn(1, 2, 32, 64, dtype=torch.float32)
    with torch.autocast(device.type, torch.bfloat16):
        assert sotto.sdpa(q, q, q).dtype == torch.float32
