"""A wrong call: which argument, what was expected, what was seen; as one of torch's errors."""

import pytest
import torch

import sotto

E4M3 = torch.float8_e4m3fn


def q_of(randn, **kwargs):
    return randn(1, 4, 16, 64, **kwargs)


SDPA = {
    "rank of key": (lambda r, q: (q, q[0], q), "key: must have 4 dimensions"),
    "head size of key": (lambda r, q: (q, q[..., :32], q), "key: head size must be 64"),
    "head size": (lambda r, q: (q[..., :40],) * 3, "query: head size must be a multiple of 16"),
    "length of value": (lambda r, q: (q, q, q[:, :, :8]), "value: dimension 1 must be 16, as k's"),
    "batch of key": (lambda r, q: (q, q.repeat(2, 1, 1, 1), q), "key: batch must be 1"),
    "dtype": (
        lambda r, q: (q.double(),) * 3,
        "query: dtype must be float32, float16 or bfloat16, got Double",
    ),
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
    "out_dtype": (
        {"out_dtype": torch.int64},
        "out_dtype: dtype must be float32, .* or float4_e2m1fn_x2, got Long",
    ),
    "fp8 without a scale": ({"out_dtype": torch.float8_e4m3fn}, "output: an e4m3 out needs"),
    "rope": ({"rope": (torch.ones(16, 5), torch.ones(16, 5))}, "rope.cos: must be .positions, 32"),
    "positions without rope": (
        {"positions_k": torch.ones(1, 16, dtype=torch.int32)},
        "positions_k: needs rope",
    ),
    "sinks": ({"sinks": torch.ones(3)}, "sinks: shape must be .heads_q. = .4"),
    "mask": ({"attn_mask": torch.ones(16, 15, dtype=torch.bool)}, "attn_mask: shape must be"),
    "mask's dtype": (
        {"attn_mask": torch.ones(16, 16).long()},
        "attn_mask: dtype must be bool, float32, .*, got Long",
    ),
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
    with pytest.raises(TypeError, match="^window: must be .left, right., two integers, got 7"):
        sotto.sdpa(q, q, q, window=7)
    with pytest.raises(TypeError, match="^descale_k: must be a Tensor, got float"):
        sotto.attention(q, q, q, descale_k=1.0)


BACKWARD = {
    "mask": lambda q, one: sotto.sdpa(q, q, q, one(16, 16)),
    "sinks": lambda q, one: sotto.sdpa(q, q, q, sinks=one(4)),
    "rope": lambda q, one: sotto.sdpa(q, q, q, rope=(one(16, 32), one(16, 32))),
    "output_scale": lambda q, one: sotto.sdpa(q, q, q, output_scale=one(1), out_dtype=E4M3),
    "descale_k": lambda q, one: sotto.attention(q.to(E4M3), *[q.to(E4M3)] * 2, descale_k=one(1)),
    "k_mean": lambda q, one: sotto.attention(q, q, q, k_mean=one(1, 16, 64)),
    "mean": lambda q, one: sotto.quantize(q, mean=one(1, 16, 64)),
    "rope.cos": lambda q, one: sotto.quantize(q, rope=(one(4, 32), one(4, 32))),
    "descale": lambda q, one: sotto.channel_mean(q.to(E4M3), descale=one(1)),
    "outs": lambda q, one: sotto.merge_states([one(1, 4, 16, 64)], [torch.zeros(1, 16, 4)]),
    "lses": lambda q, one: sotto.merge_states([q], [one(1, 16, 4)]),
    "k": lambda q, one: sotto.append_kv(one(*q.shape), q, *caches(q)),
    "v_descale": lambda q, one: sotto.append_kv(q, q, *caches(q), v_descale=one(1)),
    "out": lambda q, one: sotto.sdpa(q, q, q, out=one(*q.shape)),
    "lse": lambda q, one: sotto.sdpa(q, q, q, lse=one(1, 4, 16)),
}


def caches(q):
    k_cache = torch.zeros(1, 16, *q.shape[2:], dtype=q.dtype, device=q.device)
    return k_cache, k_cache.clone(), torch.zeros(1, dtype=torch.int32, device=q.device)


@pytest.mark.parametrize("case", BACKWARD)
def test_no_argument_has_a_backward(randn, device, case):
    def one(*shape):
        return torch.ones(shape, device=device, requires_grad=True)

    with pytest.raises(RuntimeError, match="no backward|must not require gradients"):
        BACKWARD[case](q_of(randn), one)


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


def test_autograd_learns_what_is_written(randn, ints, device):
    """What was saved for a backward and is overwritten is an error there, as torch has it."""
    q = q_of(randn)

    def overwritten(shape, write):
        y = torch.ones(shape, device=device, requires_grad=True) * 1
        loss = (y**2).sum()
        with torch.no_grad():
            write(y)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()

    overwritten(q.shape, lambda y: sotto.sdpa(q, q, q, out=y))
    overwritten((1, 4, 16), lambda y: sotto.sdpa(q, q, q, lse=y))
    overwritten(q.shape, lambda y: sotto.attention(q, q, q, out=y))
    if device.type == "cpu":
        cache = torch.zeros(1, 16, 16, 64)
        overwritten(cache.shape, lambda y: sotto.append_kv(q, q, y, cache, ints([0])))
        overwritten(cache.shape, lambda y: sotto.append_kv(q, q, cache, y, ints([0])))
        e4m3, other = cache.to(E4M3), cache.to(E4M3)
        scale = torch.ones(1, 16, 16)
        overwritten(
            scale.shape,
            lambda y: sotto.append_kv(q, q, e4m3, other, ints([0]), k_descale=y, v_descale=scale),
        )
        out = torch.zeros(1, 4, 16, 64).to(E4M3)
        overwritten((4, 16), lambda y: sotto.attention(q, q, q, out=out, group_scale=y))


KINDS = {
    "scale": {"scale": "a"},
    "softcap": {"softcap": "a"},
    "dropout_p": {"dropout_p": "a"},
    "recipe": {"recipe": None},
    "sinks": {"sinks": [1.0]},
    "window": {"window": (1.5, 0)},
    "rope.cos": {"rope": (1, 2)},
    "rope.interleaved": {"rope": (torch.ones(16, 32), torch.ones(16, 32), 2.5)},
    "out_dtype": {"out_dtype": "fp8"},
    "out": {"out": 1},
    "lse": {"lse": [1.0]},
    "backend": {"backend": 1},
    "output_scale": {"output_scale": 1.0},
}


@pytest.mark.parametrize("argument", KINDS)
def test_kinds(randn, argument):
    q = q_of(randn)
    with pytest.raises(TypeError, match=f"^{argument}: must be "):
        sotto.sdpa(q, q, q, **KINDS[argument])


def test_kinds_elsewhere(randn):
    q = q_of(randn)
    with pytest.raises(TypeError, match="^cu_seqlens_q: must be a Tensor, got list"):
        sotto.attention(q, q, q, cu_seqlens_q=[0, 3])
    with pytest.raises(TypeError, match="^cu_seqlens_k: must be a Tensor, got NoneType"):
        sotto.varlen_attention(q[0], q[0], q[0], torch.ones(2).int(), None)
    with pytest.raises(TypeError, match="^num_splits: must be an integer, got float"):
        sotto.attention(q, q, q, num_splits=1.5)
    with pytest.raises(TypeError, match="^descale_k.block: must be an integer, got str"):
        sotto.attention(q, q, q, descale_k=sotto.Scale(q, "block", "a"))
    with pytest.raises(TypeError, match="^granularity: must be a str, got NoneType"):
        sotto.quantize(q, granularity=None)
    with pytest.raises(TypeError, match="^heads_kv: must be an integer, got str"):
        sotto.quantize(q, heads_kv="a")
    with pytest.raises(TypeError, match="^outs: must be a sequence of tensors, got int"):
        sotto.merge_states(1, 2)


def test_numbers_of_other_libraries(randn):
    numpy = pytest.importorskip("numpy")
    q = q_of(randn)
    expected = sotto.sdpa(q, q, q, scale=0.125, window=(4, 0))
    out = sotto.sdpa(q, q, q, scale=numpy.float32(0.125), window=(numpy.int64(4), 0))
    assert torch.equal(out, expected)


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
    "seqused_k's dtype": (
        {"seqused_k": torch.ones(1).long()},
        "seqused_k: dtype must be int32, got Long",
    ),
    "page_table": ({"page_table": torch.ones(1).int()}, "page_table: must have 2 dimensions"),
    "k_mean": ({"k_mean": torch.ones(1, 4, 64)}, "k_mean: shape must be"),
    "alibi": ({"alibi_slopes": torch.ones(16)}, "no backend takes this request(.|\n)*ALiBi"),
    "num_splits": ({"num_splits": -1}, "num_splits: must not be negative"),
    "too many splits": ({"num_splits": 2**32 + 1}, "num_splits: must fit into 32 bits, got 42949"),
    "cu_seqlens' dtype": (
        {"cu_seqlens_q": torch.ones(2).long()},
        r"cu_seqlens_q: must be int32 .batch . 1., got int64 .2.",
    ),
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
    with pytest.raises(RuntimeError, match="^heads_kv: must divide x's 16 heads, got 3"):
        sotto.quantize(x, granularity="kv_head", heads_kv=3)
    with pytest.raises(RuntimeError, match="^heads_kv: must divide x's 16 heads, got -1"):
        sotto.quantize(x, granularity="kv_head", heads_kv=-1)
    with pytest.raises(RuntimeError, match="^x: must be .batch, len, heads, dim"):
        sotto.quantize(x[0])
    for wrong in (torch.ones(0).int(), torch.tensor(3).int(), torch.ones(2)):
        with pytest.raises(RuntimeError, match="^cu_seqlens: must be int32 .batch . 1., got"):
            sotto.quantize(x[0], cu_seqlens=wrong.to(x.device))
    with pytest.raises(RuntimeError, match="^cu_seqlens: must have batch . 1 entries, got none"):
        torch.ops.sotto.quantize(x[0], dtype=E4M3, cu_seqlens=torch.ones(0, device=x.device).int())


def test_a_block_longer_than_the_sequence(randn, ints):
    x = randn(1, 10, 4, 64)
    data, scale = sotto.quantize(x, granularity="block", block=2**63 - 1)
    assert scale.values.shape == (1, 4, 1)
    packed, scales = sotto.quantize(
        x[0], granularity="block", block=2**63 - 1, cu_seqlens=ints([0, 10])
    )
    assert scales.cu_blocks.tolist() == [0, 1]
    torch.testing.assert_close(packed.float(), data[0].float())


def test_other_ranks(randn):
    q = q_of(randn)[0]
    with pytest.raises(RuntimeError, match="^lse: needs a query of 4 dimensions, got 3"):
        sotto.sdpa(q, q, q, lse=torch.ones(4, 16))
    text = r"^attn_mask: must broadcast to \[4, 16, 16\], got \[1, 1, 16, 16\]"
    with pytest.raises(RuntimeError, match=text):
        sotto.sdpa(q, q, q, torch.ones(1, 1, 16, 16).bool())
    with pytest.raises(RuntimeError, match="^attn_mask: must broadcast to .1, 4, 16, 16., got"):
        sotto.sdpa(q[None], q[None], q[None], torch.ones(1, 1, 1, 16, 16).bool())


def test_varlen(randn, ints):
    q = randn(10, 4, 64)
    lengths = ints([0, 10])
    with pytest.raises(RuntimeError, match="^rope: needs a recipe"):
        sotto.varlen_attention(q, q, q, lengths, lengths, rope=(q, q))
    with pytest.raises(RuntimeError, match="^descale_k: must be None with a recipe"):
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


def test_a_refused_call_leaves_the_cache(randn, ints, device):
    if device.type == "cuda":
        pytest.skip("caches are refused on a GPU")
    q, new = randn(1, 1, 8, 64), randn(1, 1, 4, 64)
    k_cache, v_cache = torch.zeros(2, 1, 16, 4, 64, dtype=q.dtype)
    angles = torch.ones(4, 32)

    def refused(text, q, seqlens=(0,), **options):
        with pytest.raises(RuntimeError, match=text):
            sotto.attention_with_kv_cache(
                q, k_cache, v_cache, ints(list(seqlens)), new, new, **options
            )
        assert not k_cache.any() and not v_cache.any()

    refused("no backward", q.clone().requires_grad_())
    refused("^cache_seqlens: must be int32 .batch of q. = .2., got int32 .1.", randn(2, 1, 8, 64))
    refused("^k: heads must divide q's 7 heads", randn(1, 1, 7, 64))
    refused("^k: head size must be 32", randn(1, 1, 8, 32))
    refused("^out: shape must be", q, out=randn(1, 1, 8, 32))
    refused("^lse: shape must be", q, lse=torch.ones(1, 8, 2))
    refused("^sinks: shape must be", q, sinks=torch.ones(3))
    positions = torch.zeros(1, 2, dtype=torch.int32)
    refused("^rope.positions: shape", q, rope=sotto.Rope(angles, angles, positions=positions))


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
