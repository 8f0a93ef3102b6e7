"""Attention on the dtypes it is given, and what goes before and after it."""

import pytest
import torch

import sotto
from quality import sqnr

E4M3 = torch.float8_e4m3fn


def exact(q, k, v, seen=None):
    """Of [batch, len, heads, dim] in float64."""
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, seen, enable_gqa=True)
    return out.transpose(1, 2)


@pytest.fixture
def cpu_only(device):
    if device.type == "cuda":
        pytest.skip("refused by backend sm90")


def test_16_bits(randn):
    q, k, v = (randn(2, 40, heads, 64) for heads in (4, 2, 2))
    assert sqnr(sotto.attention(q, k, v), exact(q, k, v)) > 40


@pytest.mark.parametrize("dtype", [E4M3, torch.int8])
def test_8_bits(randn, dtype):
    """What quantize() returns attention() takes, scales of every granularity included."""
    q, k, v = (randn(2, 256, heads, 64) for heads in (4, 2, 2))
    q8, descale_q = sotto.quantize(q, dtype, "token" if dtype == torch.int8 else "kv_head",
                                   heads_kv=2)  # fmt: skip
    k8, descale_k = sotto.quantize(k, dtype, "block" if dtype == torch.int8 else "kv_head",
                                   heads_kv=2, block=128)  # fmt: skip
    v8, descale_v = sotto.quantize(v, E4M3)
    scales = {"descale_q": descale_q, "descale_k": descale_k, "descale_v": descale_v}
    out = sotto.attention(q8, k8, v8, **scales)
    assert out.dtype == torch.bfloat16
    assert sqnr(out, exact(q, k, v)) > 18
    lse = torch.empty(2, 4, 256, device=q.device)
    assert torch.equal(sotto.attention(q8, k8, v8, lse=lse, **scales), out)


def test_quantised_cache_beside_16_bits(randn, cpu_only):
    q, k, v = (randn(2, 40, heads, 64) for heads in (4, 2, 2))
    mean = sotto.channel_mean(k, max_tokens=20)
    k8, descale_k = sotto.quantize(k, E4M3, "token", mean=mean)
    v8, descale_v = sotto.quantize(v, E4M3, "token")
    out = sotto.attention(q, k8, v8, descale_k=descale_k, descale_v=descale_v, k_mean=mean)
    assert sqnr(out, exact(q, k, v)) > 25


def test_quantize_of_packed_blocks(randn, ints):
    x = randn(10, 4, 64)
    data, scale = sotto.quantize(
        x, torch.int8, "block", block=2, cu_seqlens=ints([0, 3, 10]), power_of_two=True
    )
    assert scale.cu_blocks.tolist() == [0, 2, 6]
    # Sequence 1 starts at token 3 and at block 2.
    values = data[3:5].float() * scale.values[:, 2, None]
    assert (values - x[3:5]).abs().max() < 0.05


def test_rope_and_hadamard_before_quantisation(randn):
    x = randn(2, 40, 4, 64)
    angles = torch.rand(40, 32, device=x.device)
    data, scale = sotto.quantize(x, rope=(angles.cos(), angles.sin()), hadamard=True)
    norms = (data.float() * scale.values[:, None, :, None]).norm(dim=-1)
    torch.testing.assert_close(norms, x.float().norm(dim=-1), rtol=0.05, atol=0)


@pytest.mark.parametrize("recipe", [None, "fp8", "int8qk"])
def test_varlen(randn, ints, recipe):
    q, k, v = (randn(30, heads, 64) for heads in (4, 2, 2))
    bounds = [0, 7, 7, 30]
    cu_seqlens = ints(bounds)
    lse = torch.empty(4, 30, device=q.device)
    out = sotto.varlen_attention(
        q, k, v, cu_seqlens, cu_seqlens, 23, 23, recipe=recipe, is_causal=True, lse=lse
    )
    for first, last in zip(bounds, bounds[1:], strict=False):
        if first == last:
            continue
        part = [x[None, first:last] for x in (q, k, v)]
        seen = torch.ones(last - first, last - first, device=q.device).tril().bool()
        assert sqnr(out[None, first:last], exact(*part, seen)) > 18
    assert lse.isfinite().all()


def test_merge_states_of_parts(randn, cpu_only):
    q, k, v = (randn(2, 40, heads, 64) for heads in (4, 2, 2))
    outs, lses = [], []
    for part in (slice(0, 3), slice(3, 40)):
        lses.append(torch.empty(2, 4, 40))
        outs.append(sotto.attention(q, k[:, part], v[:, part], lse=lses[-1]))
    out, lse = sotto.merge_states(outs, lses, out_dtype=torch.float32)
    assert out.dtype == torch.float32 and lse.shape == (2, 4, 40)
    assert sqnr(out, exact(q, k, v)) > 40


def decode(randn, ints, *, dtype, paged, rope=None, hadamard=False):
    """Prefill of 5 tokens, then 4 steps of one; returns results and all of q, k and v."""
    q, k, v = (randn(2, 9, heads, 64) for heads in (4, 2, 2))
    shape = (6, 4, 2, 64) if paged else (2, 12, 2, 64)
    k_cache, v_cache = (torch.zeros(shape, dtype=dtype) for _ in range(2))
    options = {"hadamard_k": hadamard, "hadamard_v": hadamard, "rope": rope}
    if paged:
        options["page_table"] = ints([[5, 0, 2], [1, 4, 3]])
    if dtype == E4M3:
        options["descale_k"] = torch.zeros(shape[:3])  # per token, written
        options["descale_v"] = torch.zeros(shape[:3])
    outs, done = [], 0
    for step in (5, 1, 1, 1, 1):
        new = slice(done, done + step)
        outs.append(
            sotto.attention_with_kv_cache(
                q[:, new], k_cache, v_cache, ints([done, done]), k[:, new], v[:, new], **options
            )
        )
        done += step
    return torch.cat(outs, 1), q, k, v


CAUSAL = torch.ones(9, 9).tril().bool()


@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, E4M3])
def test_kv_cache(randn, ints, cpu_only, dtype, paged):
    out, q, k, v = decode(randn, ints, dtype=dtype, paged=paged)
    assert sqnr(out, exact(q, k, v, CAUSAL)) > (40 if dtype == torch.bfloat16 else 25)


@pytest.mark.parametrize("hadamard", [False, True])
def test_kv_cache_with_rope(randn, ints, cpu_only, hadamard):
    """Query and key turn with their place in the cache, as all at once would."""
    angles = torch.arange(9)[:, None] * torch.rand(32)
    rope = (angles.cos(), angles.sin())
    out, q, k, v = decode(randn, ints, dtype=torch.bfloat16, paged=False, rope=rope,
                          hadamard=hadamard)  # fmt: skip
    whole = sotto.sdpa(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True, enable_gqa=True,
        recipe="exact", rope=rope,
    )  # fmt: skip
    assert sqnr(out, whole.transpose(1, 2)) > 38


def test_kv_cache_that_is_only_read(randn, ints, cpu_only):
    q, k, v = (randn(2, 9, heads, 64) for heads in (4, 2, 2))
    out = sotto.attention_with_kv_cache(q[:, :1], k, v, ints([9, 3]), window=None)
    assert sqnr(out[0], exact(q[:1, :1], k[:1], v[:1])[0]) > 40
    assert sqnr(out[1], exact(q[1:, :1], k[1:, :3], v[1:, :3])[0]) > 40


def test_nvfp4_output(randn, cpu_only):
    q = randn(1, 40, 2, 64)
    out = torch.empty(1, 40, 2, 32, dtype=torch.float4_e2m1fn_x2)
    group_scale = torch.empty(128, 8, dtype=E4M3)
    sotto.attention(q, q, q, out=out, output_scale=torch.ones(1), group_scale=group_scale)
    assert out.view(torch.uint8).any() and group_scale.float().max() > 0
