"""torch.library.opcheck on every op: schema, aliasing, fake kernels, tracing with static and with
dynamic shapes. What a device does not run yet must raise with a reason."""

import pytest
import torch

import sotto  # noqa: F401  (registers the ops)

ops = torch.ops.sotto
E4M3 = torch.float8_e4m3fn


def check(op, *args, **kwargs):
    utils = ["test_schema", "test_autograd_registration"]
    utils += ["test_faketensor", "test_aot_dispatch_static", "test_aot_dispatch_dynamic"]
    if any(holds_fp8(argument) for argument in (*args, *kwargs.values())):
        utils.remove("test_schema")  # compares tensors by arithmetic that torch has not for FP8
    torch.library.opcheck(op, args, kwargs, test_utils=utils)


def holds_fp8(argument):
    return argument is E4M3 or getattr(argument, "dtype", None) is E4M3


def test_there_is_a_gpu():
    """Says in the summary whether all of these tests ran on one, too."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU: the package's tests ran on the CPU alone")


@pytest.fixture
def runs_here(device):
    """For what runs on the CPU and is refused on a GPU, with its reason."""

    def check_or_refused(op, *args, **kwargs):
        if device.type == "cpu":
            check(op, *args, **kwargs)
            return
        with pytest.raises(RuntimeError, match="no backend takes this request"):
            op(*args, **kwargs)

    return check_or_refused


@pytest.mark.parametrize("recipe", ["exact", "fp8", "int8qk"])
def test_sdpa(randn, recipe):
    q, k, v = randn(2, 4, 24, 64), randn(2, 2, 40, 64), randn(2, 2, 40, 64)
    check(ops.sdpa.default, q, k, v, right=0, recipe=recipe)


def test_sdpa_high(randn, runs_here):
    q = randn(1, 2, 24, 64)
    runs_here(ops.sdpa.default, q, q, q, recipe="high")


def test_sdpa_with_rope_and_other_arguments(randn, ints):
    q, k, v = randn(2, 4, 24, 64), randn(2, 2, 24, 64), randn(2, 2, 24, 64)
    angles = torch.arange(24, device=q.device)[:, None] * torch.rand(32, device=q.device)
    check(
        ops.sdpa.default, q, k, v, left=8, right=0, bottom_right=True, softcap=20.0, scale=0.1,
        sinks=randn(4, dtype=torch.float32), cos=angles.cos(), sin=angles.sin(),
        positions=ints([list(range(24))]), out_dtype=torch.float16,
    )  # fmt: skip


def test_sdpa_to_fp8(randn):
    q = randn(1, 2, 24, 64)
    scale = torch.ones(1, device=q.device)
    check(ops.sdpa.default, q, q, q, recipe="fp8", output_scale=scale, out_dtype=E4M3)


def test_sdpa_out(randn):
    q, out = randn(1, 2, 24, 64), randn(1, 2, 24, 64)
    lse = randn(1, 2, 24, dtype=torch.float32)
    check(ops.sdpa.out, q, q, q, dst=out, lse=lse)


def test_sdpa_packed(randn, ints):
    q, k = randn(10, 4, 64), randn(12, 2, 64)
    check(
        ops.sdpa.default, q, k, k, cu_seqlens_q=ints([0, 3, 10]), cu_seqlens_k=ints([0, 7, 12]),
        max_len_q=7, max_len_k=7, recipe="fp8",
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_attention(randn, dtype):
    q, k, v = (randn(2, 24, heads, 64, dtype=dtype) for heads in (4, 2, 2))
    check(ops.attention.default, q, k, v, right=0)


def test_attention_on_fp8(randn):
    q, k, v = (randn(2, 24, heads, 64).to(E4M3) for heads in (4, 2, 2))
    one = torch.ones(2, 2, device=q.device)
    check(
        ops.attention.default, q, k, v, descale_q=one, descale_k=one, descale_v=one,
        descale_q_granularity="kv_head",
    )  # fmt: skip


def test_attention_out(randn):
    q, out = randn(1, 24, 2, 64), randn(1, 24, 2, 64)
    check(ops.attention.out, q, q, q, dst=out)


def test_attention_out_by_groups(randn, runs_here):
    q = randn(1, 24, 2, 64)
    runs_here(
        ops.attention.out, q, q, q, dst=torch.empty_like(q, dtype=E4M3),
        group_scale=torch.empty(24, 2, device=q.device),
    )  # fmt: skip


def test_attention_packed(randn, ints):
    q, k = randn(10, 4, 64), randn(12, 2, 64)
    check(
        ops.attention.default, q, k, k, cu_seqlens_q=ints([0, 3, 10]),
        cu_seqlens_k=ints([0, 7, 12]), seqused_k=ints([5, 5]), right=0,
    )  # fmt: skip


def test_attention_over_a_cache(randn, ints, runs_here):
    q, cache = randn(2, 1, 4, 64), randn(3, 16, 2, 64)
    for op in (ops.check_attention.default, ops.attention.default):
        runs_here(op, q, cache, cache, seqused_k=ints([3, 16]), batch_idx=ints([2, 0]))


def test_attention_over_a_paged_cache(randn, ints, runs_here):
    q, pages = randn(2, 1, 4, 64), randn(6, 8, 2, 64)
    runs_here(
        ops.attention.default, q, pages, pages, seqused_k=ints([11, 20]),
        page_table=ints([[4, 1, 0], [5, 2, 3]]), right=0, bottom_right=True,
    )  # fmt: skip


@pytest.mark.parametrize("granularity", ["tensor", "head", "kv_head", "block", "token"])
@pytest.mark.parametrize("dtype", [E4M3, torch.int8])
def test_quantize(randn, dtype, granularity):
    check(
        ops.quantize.default, randn(2, 24, 4, 64), dtype=dtype, granularity=granularity, block=16,
        heads_kv=2, hadamard=True, mean=randn(2, 4, 64, dtype=torch.float32),
    )  # fmt: skip


@pytest.mark.parametrize("granularity", ["head", "block", "token"])
def test_quantize_packed(randn, ints, granularity):
    check(
        ops.quantize.default, randn(10, 4, 64), dtype=torch.int8, granularity=granularity, block=4,
        cu_seqlens=ints([0, 3, 10]), cu_blocks=ints([0, 1, 3]),
    )  # fmt: skip


def test_quantize_transforms_only(randn):
    check(ops.quantize.default, randn(2, 24, 4, 64), dtype=torch.bfloat16, hadamard=True)


def test_quantize_out(randn):
    x = randn(2, 24, 4, 64)
    check(
        ops.quantize.out, x, dst=x.to(E4M3), out_lo=x.to(E4M3),
        descale=torch.empty(2, 4, device=x.device),
    )  # fmt: skip


def test_channel_mean(randn, ints):
    check(ops.channel_mean.default, randn(2, 24, 4, 64), max_tokens=5)
    check(ops.channel_mean.default, randn(10, 4, 64), cu_seqlens=ints([0, 3, 10]))


def test_append_kv(randn, ints, runs_here):
    new, cache = randn(2, 3, 2, 64), randn(2, 16, 2, 64)
    runs_here(ops.append_kv.default, new, new, cache, cache.clone(), ints([0, 13]))


def test_append_kv_to_pages(randn, ints, runs_here):
    new, pages = randn(2, 3, 2, 64), randn(6, 8, 2, 64).to(E4M3)
    scales = torch.zeros(6, 8, 2, device=new.device)
    runs_here(
        ops.append_kv.default, new, new, pages, pages.clone(), ints([0, 13]),
        page_table=ints([[4, 1, 0], [5, 2, 3]]), k_descale=scales, v_descale=scales.clone(),
        hadamard_k=True,
    )  # fmt: skip


def test_merge_states(randn, runs_here):
    outs = [randn(2, 24, 4, 64) for _ in range(3)]
    lses = [randn(2, 4, 24, dtype=torch.float32) for _ in range(3)]
    runs_here(ops.merge_states.default, outs, lses)
    runs_here(ops.merge_states.out, outs, lses, dst=outs[0].clone(), lse=lses[0].clone())
