"""A wrong call: which argument, what was expected, what was seen; as one of torch's errors."""

import pytest
import torch

import sotto


def q_of(randn, **kwargs):
    return randn(1, 4, 16, 64, **kwargs)


SDPA = {
    "rank of key": (lambda r, q: (q, q[0], q), "key: must have 4 dimensions"),
    "head size of key": (lambda r, q: (q, q[..., :32], q), "key: head size must be 64"),
    "head size": (lambda r, q: (q[..., :40],) * 3, "query: head size must be a multiple of 16"),
    "length of value": (lambda r, q: (q, q, q[:, :, :8]), "value: dimension 1 must be 16, as k's"),
    "batch of key": (lambda r, q: (q, q.repeat(2, 1, 1, 1), q), "key: batch must be 1"),
    "dtype": (lambda r, q: (q.double(),) * 3, "query: dtype must be one of .*, got Double"),
    "8 bits": (lambda r, q: (q.to(torch.float8_e4m3fn),) * 3, "query: sdpa quantises by itself"),
    "mixed dtypes": (lambda r, q: (q, q.half(), q), "key: dtype must be bf16, as q's"),
    "last stride": (lambda r, q: (q.mT.contiguous().mT, q, q), "query: last dimension must be con"),
}


@pytest.mark.parametrize("case", SDPA)
def test_sdpa_inputs(randn, case):
    make, text = SDPA[case]
    with pytest.raises(RuntimeError, match=f"^{text}"):
        sotto.sdpa(*make(randn, q_of(randn)))


OPTIONS = {
    "recipe": ({"recipe": "fp9"}, "recipe: unknown name 'fp9'; known: exact, fp8"),
    "dropout": ({"dropout_p": 0.1}, "no backend takes this request(.|\n)*has no dropout"),
    "dropout beyond 1": ({"dropout_p": 1.5}, "dropout_p: must lie in"),
    "scale": ({"scale": float("nan")}, "scale: must be finite"),
    "softcap": ({"softcap": -1.0}, "softcap: must be 0"),
    "window": ({"window": (-2, 0)}, "window: must be -1"),
    "backend": ({"backend": "cudnn"}, "backend: no backend is named 'cudnn'; known: .*cpu"),
    "out_dtype": ({"out_dtype": torch.int64}, "out_dtype: dtype must be one of"),
    "fp8 without a scale": ({"out_dtype": torch.float8_e4m3fn}, "output: an e4m3 out needs"),
    "rope": ({"rope": (torch.ones(16, 5), torch.ones(16, 5))}, "rope.cos: must be .positions, 32"),
    "positions without rope": (
        {"positions_k": torch.ones(1, 16, dtype=torch.int32)},
        "positions_k: needs rope",
    ),
    "sinks": ({"sinks": torch.ones(3)}, "sinks: shape must be .heads_q. = .4"),
    "mask": ({"attn_mask": torch.ones(16, 15, dtype=torch.bool)}, "attn_mask: shape must be"),
    "mask's dtype": ({"attn_mask": torch.ones(16, 16).long()}, "attn_mask: dtype must be one of"),
    "mask and is_causal": (
        {"attn_mask": torch.ones(16, 16, dtype=torch.bool), "is_causal": True},
        "attn_mask: must not be set together with is_causal",
    ),
    "out": ({"out": torch.ones(1, 4, 16, 32)}, "out: shape must be"),
    "out's dtype": (
        {"out": torch.ones(1, 4, 16, 64), "out_dtype": torch.float16},
        "out: must be torch.float16, as out_dtype says",
    ),
    "lse": ({"lse": torch.ones(1, 16, 4)}, "lse: shape must be"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_sdpa_options(randn, device, case):
    options, text = OPTIONS[case]

    def there(value):
        if isinstance(value, tuple) and not isinstance(value[0], int):
            return tuple(map(there, value))
        return value.to(device) if isinstance(value, torch.Tensor) else value

    q = q_of(randn)
    with pytest.raises(RuntimeError, match=f"^{text}"):
        sotto.sdpa(q, q, q, **{name: there(value) for name, value in options.items()})


def test_gqa_must_be_allowed(randn):
    q, k = q_of(randn), randn(1, 2, 16, 64)
    with pytest.raises(RuntimeError, match="key: must have query's 4 heads, or enable_gqa=True"):
        sotto.sdpa(q, k, k)
    with pytest.raises(RuntimeError, match="key: heads must divide q's 4 heads, got 3"):
        sotto.sdpa(q, randn(1, 3, 16, 64), randn(1, 3, 16, 64), enable_gqa=True)


def test_no_tensor(randn):
    q = q_of(randn)
    with pytest.raises(TypeError, match="^key: must be a Tensor, got list"):
        sotto.sdpa(q, [1.0], q)
    with pytest.raises(TypeError, match="^q: must be a Tensor, got NoneType"):
        sotto.attention(None, q, q)
    with pytest.raises(TypeError, match="^x: must be a Tensor, got int"):
        sotto.quantize(1)
    with pytest.raises(TypeError, match="^lses.1.: must be a Tensor"):
        sotto.merge_states([q, q], [q, None])
    with pytest.raises(TypeError, match="^attn_mask: must be a Tensor, got bool"):
        sotto.sdpa(q, q, q, True)
    with pytest.raises(TypeError, match="^rope: must be a Rope or .cos, sin., got Tensor"):
        sotto.sdpa(q, q, q, rope=q)
    with pytest.raises(TypeError, match="^window: must be .left, right., got 7"):
        sotto.sdpa(q, q, q, window=7)
    with pytest.raises(TypeError, match="^descale_k: must be a Tensor, got float"):
        sotto.attention(q, q, q, descale_k=1.0)
    with pytest.raises(RuntimeError, match="'sinks'"):
        sotto.sdpa(q, q, q, sinks=1.0)


def test_gradients(randn):
    q = q_of(randn).requires_grad_()
    with pytest.raises(RuntimeError, match="no backward"):
        sotto.sdpa(q, q, q)
    with pytest.raises(RuntimeError, match="no backward"):
        sotto.attention(q, q, q)
    with pytest.raises(RuntimeError, match="^x: must not require gradients"):
        sotto.quantize(q)
    with torch.no_grad():
        sotto.sdpa(q, q, q)


def test_other_devices(randn, device):
    q = q_of(randn)
    assert sotto.sdpa(q.to("meta"), q.to("meta"), q.to("meta")).device.type == "meta"
    if device.type == "cuda":
        with pytest.raises(RuntimeError, match="^key: must be on cuda:0, .* got cpu"):
            sotto.sdpa(q, q.cpu(), q)


ATTENTION = {
    "descale of 16 bits": ({"descale_q": torch.ones(1)}, "descale_q: is for 8-bit data"),
    "accumulation": ({"accumulation": "both"}, "accumulation: must be 'safe' or 'plain'"),
    "cu_seqlens_q": ({"cu_seqlens_q": torch.ones(2).int()}, "q: must be packed"),
    "seqused_k": ({"seqused_k": torch.ones(2).int()}, "seqused_k: shape must be .batch. = .1"),
    "seqused_k's dtype": ({"seqused_k": torch.ones(1).long()}, "seqused_k: dtype must be one of"),
    "page_table": ({"page_table": torch.ones(1).int()}, "page_table: must have 2 dimensions"),
    "k_mean": ({"k_mean": torch.ones(1, 4, 64)}, "k_mean: shape must be"),
    "alibi": ({"alibi_slopes": torch.ones(16)}, "no backend takes this request(.|\n)*ALiBi"),
    "num_splits": ({"num_splits": -1}, "num_splits: must not be negative"),
}


@pytest.mark.parametrize("case", ATTENTION)
def test_attention_options(randn, device, case):
    options, text = ATTENTION[case]
    there = {n: v.to(device) if isinstance(v, torch.Tensor) else v for n, v in options.items()}
    q = q_of(randn)
    with pytest.raises((RuntimeError, ValueError), match=f"^{text}"):
        sotto.attention(q, q, q, **there)


def test_int8_needs_its_scale(randn):
    q = q_of(randn).to(torch.int8)
    with pytest.raises(RuntimeError, match="^descale_q: is required for INT8"):
        sotto.attention(q, q, q_of(randn))


def test_an_unknown_granularity(randn):
    q8, scale = sotto.quantize(q_of(randn))
    with pytest.raises(RuntimeError, match="^descale_q: granularity must be tensor, head"):
        sotto.attention(q8, q8, q8, descale_q=scale._replace(granularity="row"))
    with pytest.raises(RuntimeError, match="^granularity: granularity must be tensor, head"):
        sotto.quantize(q_of(randn), granularity="row")


def test_quantize(randn):
    x = q_of(randn)
    with pytest.raises(RuntimeError, match="^dtype: must be torch.float8_e4m3fn or torch.int8"):
        sotto.quantize(x, torch.float16)
    with pytest.raises(RuntimeError, match="^block: must be at least 1"):
        sotto.quantize(x, granularity="block")
    with pytest.raises(RuntimeError, match="^descale: kv heads must divide x's 16 heads, got 3"):
        sotto.quantize(x, granularity="kv_head", heads_kv=3)
    with pytest.raises(RuntimeError, match="^x: must be .batch, len, heads, dim"):
        sotto.quantize(x[0])


def test_varlen(randn, ints):
    q = randn(10, 4, 64)
    lengths = ints([0, 10])
    with pytest.raises(RuntimeError, match="^rope: needs a recipe"):
        sotto.varlen_attention(q, q, q, lengths, lengths, rope=(q, q))
    with pytest.raises(RuntimeError, match="^descale_q, _k, _v: must be None with a recipe"):
        sotto.varlen_attention(q, q, q, lengths, lengths, recipe="fp8", descale_k=lengths)
    with pytest.raises(RuntimeError, match="^cu_seqlens_k: shape must be"):
        sotto.varlen_attention(q, q, q, lengths, ints([0, 5, 10]))


def test_cache(randn, ints):
    q, cache = randn(1, 1, 4, 64), randn(1, 16, 4, 64)
    with pytest.raises(RuntimeError, match="^v: is required: k and v come together"):
        sotto.attention_with_kv_cache(q, cache, cache, ints([0]), k=q)
    with pytest.raises(RuntimeError, match="^rope: needs k and v"):
        sotto.attention_with_kv_cache(q, cache, cache, ints([0]), rope=(q, q))
    with pytest.raises(RuntimeError, match="^v_cache: must not be the memory of k_cache"):
        sotto.append_kv(q, q, cache, cache, ints([0]))


def test_a_full_cache(randn, ints, device):
    if device.type == "cuda":
        pytest.skip("append_kv is refused on a GPU")
    new, cache = randn(1, 3, 4, 64), randn(1, 16, 4, 64)
    with pytest.raises(RuntimeError, match="sequence 0"):
        sotto.append_kv(new, new, cache, cache.clone(), ints([14]))


def test_merge_states(randn):
    out, lse = randn(1, 16, 4, 64), randn(1, 4, 16, dtype=torch.float32)
    with pytest.raises(RuntimeError, match="^outs: must hold at least one state"):
        sotto.merge_states([], [])
    with pytest.raises(RuntimeError, match="^lses: must be as many as outs, 2, got 1"):
        sotto.merge_states([out, out], [lse])


def test_what_a_gpu_does_not_run_yet(randn, ints, device):
    if device.type == "cpu":
        pytest.skip("of a GPU")
    q, cache = randn(1, 1, 4, 64), randn(1, 16, 4, 64)
    with pytest.raises(RuntimeError, match="no backend takes this request"):
        sotto.attention_with_kv_cache(q, cache, cache.clone(), ints([3]), q, q)
    with pytest.raises(RuntimeError, match="no backend takes this request"):
        sotto.attention(q, cache, cache, num_splits=4)
