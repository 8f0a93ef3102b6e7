"""torch.compile, torch.export, AOTInductor, CUDA graphs: the ops are opaque nodes."""

import pytest
import torch

import sotto


class Attention(torch.nn.Module):
    def forward(self, q, k, v):
        return sotto.sdpa(q * 2, k, v, is_causal=True, enable_gqa=True) + 1


def inputs(randn, length):
    return tuple(randn(2, heads, length, 64) for heads in (4, 2, 2))


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(randn, dynamic):
    compiled = torch.compile(Attention(), fullgraph=True, dynamic=dynamic)
    for length in (24, 40, 33):
        qkv = inputs(randn, length)
        torch.testing.assert_close(compiled(*qkv), Attention()(*qkv))


def test_dynamic_shapes_compile_once(randn):
    compiled = torch.compile(Attention(), fullgraph=True, dynamic=True)
    counter = torch._dynamo.testing.CompileCounter()
    counted = torch.compile(Attention(), fullgraph=True, dynamic=True, backend=counter)
    for length in (24, 40, 33):
        counted(*inputs(randn, length))
    assert counter.frame_count == 1
    assert compiled(*inputs(randn, 24)).shape == (2, 4, 24, 64)


def test_every_function_compiles_in_one_graph(randn, ints, device):
    def call(q, k, v, cu_seqlens):
        q8, descale_q = sotto.quantize(q)
        k8, descale_k = sotto.quantize(k, mean=sotto.channel_mean(k))
        v8, descale_v = sotto.quantize(v)
        out = sotto.attention(
            q8, k8, v8, descale_q=descale_q, descale_k=descale_k, descale_v=descale_v
        )
        packed = (x.flatten(0, 1) for x in (q, k, v))
        ragged = sotto.varlen_attention(*packed, cu_seqlens, cu_seqlens, recipe="int8qk")
        lse = torch.empty(2, 2, 24, device=q.device)
        with_lse = sotto.sdpa(*(x.transpose(1, 2) for x in (q, k, v)), lse=lse)
        written = torch.empty_like(q)
        sotto.sdpa(*(x.transpose(1, 2) for x in (q, k, v)), out=written.transpose(1, 2))
        return out, ragged, with_lse, lse, written

    qkv = [randn(2, 24, 2, 64) for _ in range(3)]
    lengths = ints([0, 20, 48])
    result = torch.compile(call, fullgraph=True)(*qkv, lengths)
    for one, expected in zip(result, call(*qkv, lengths), strict=True):
        torch.testing.assert_close(one, expected)


def test_outputs_of_the_caller_compile(randn, device):
    if device.type == "cuda":
        pytest.skip("outputs by groups are refused on a GPU")

    def call(q, out, lse, out8, group_scale):
        sotto.attention(q, q, q, out=out.transpose(1, 2), lse=lse)
        sotto.attention(q, q, q, out=out8, group_scale=group_scale)

    def arguments():
        out8 = torch.zeros(1, 24, 2, 64, dtype=torch.float8_e4m3fn)
        return torch.zeros(1, 2, 24, 64).bfloat16(), torch.zeros(1, 2, 24), out8, torch.zeros(24, 2)

    q, expected, compiled = randn(1, 24, 2, 64), arguments(), arguments()
    call(q, *expected)
    torch.compile(call, fullgraph=True)(q, *compiled)
    for one, other in zip(compiled, expected, strict=True):
        assert other.float().any()
        torch.testing.assert_close(one.float(), other.float())


def test_a_cache_is_written_in_place(randn, ints, device):
    if device.type == "cuda":
        pytest.skip("caches are refused on a GPU")

    def step(q, k_cache, v_cache, seqlens, k, v):
        return sotto.attention_with_kv_cache(q, k_cache, v_cache, seqlens, k, v) * 2

    def arguments():
        torch.manual_seed(1)
        caches = [torch.zeros(2, 16, 2, 64) for _ in range(2)]
        return (torch.randn(2, 1, 4, 64), *caches, ints([3, 0]), *torch.randn(2, 2, 1, 2, 64))

    eager, compiled = arguments(), arguments()
    expected = step(*eager)
    torch.testing.assert_close(torch.compile(step, fullgraph=True)(*compiled), expected)
    torch.testing.assert_close(compiled[1], eager[1])
    assert compiled[1].any()


def test_export(randn):
    length = torch.export.Dim("length", min=2, max=4096)
    program = torch.export.export(
        Attention(), inputs(randn, 24), dynamic_shapes=({2: length}, {2: length}, {2: length})
    )
    qkv = inputs(randn, 40)
    torch.testing.assert_close(program.module()(*qkv), Attention()(*qkv))


def package_and_run(device, path):
    qkv = inputs(lambda *shape: torch.randn(shape, device=device).bfloat16(), 24)
    program = torch.export.export(Attention(), qkv)
    torch._inductor.aoti_compile_and_package(program, package_path=path)
    loaded = torch._inductor.aoti_load_package(path)
    torch.testing.assert_close(loaded(*qkv), Attention()(*qkv))


def test_aot_inductor(device, tmp_path):
    """In a process of its own: what a compiled program does wrong may end it."""
    process = torch.multiprocessing.get_context("spawn").Process(
        target=package_and_run, args=(device, str(tmp_path / "attention.pt2"))
    )
    process.start()
    process.join()
    assert process.exitcode == 0


def test_cuda_graph(randn, device):
    if device.type == "cpu":
        pytest.skip("of a GPU")
    qkv = inputs(randn, 200)
    expected = Attention()(*qkv)  # planned before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = Attention()(*qkv)
    for _ in range(3):
        out.zero_()
        graph.replay()
        assert torch.equal(out, expected)
    for x in qkv:
        x.copy_(torch.randn_like(x))
    graph.replay()
    assert torch.equal(out, Attention()(*qkv))


def test_other_streams(randn, device):
    if device.type == "cpu":
        pytest.skip("of a GPU")
    q, k, v = inputs(randn, 2000)
    expected = sotto.sdpa(q, k, v, enable_gqa=True)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        late = q.clone()  # what is launched on another stream would not see it
        out = sotto.sdpa(late, k, v, enable_gqa=True)
    stream.synchronize()
    assert torch.equal(out, expected)
