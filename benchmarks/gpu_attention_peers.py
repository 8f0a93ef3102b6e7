"""The peers in benchmarks/gpu_attention.py: each a function of the tensors that returns a call, or
raises an exception that says why it cannot run. All run on torch's current stream."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

ROOF_SIZE = 8192  # of the square matrix products that count as the chip's roof


class Call:
    """What is timed. `out` is [batch, len, heads, dim] where it is an attention's, else None."""

    def __init__(self, function, flops=0, out=None):
        self.function, self.flops, self._out = function, flops, out

    def __call__(self):
        self.result = self.function()

    @property
    def out(self):
        return self._out(self.result) if self._out else None


def heads_first(tensors):
    return [tensor.transpose(1, 2) for tensor in tensors]


def torch_sdpa(backend):
    def make(data):
        q, k, v = heads_first((data.q, data.k, data.v))

        def call():
            with sdpa_kernel(backend):
                return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=data.shape.causal)

        return Call(call, data.shape.flops, lambda out: out.transpose(1, 2))

    return make


class CudnnGraph:
    """cuDNN's own graph of one attention, through the package nvidia-cudnn-frontend."""

    def __init__(self, data, dtype):
        import cudnn

        self.cudnn = cudnn
        self.handle = cudnn.create_handle()
        self.graph = cudnn.pygraph(io_data_type=dtype, intermediate_data_type=cudnn.data_type.FLOAT,
                                   compute_data_type=cudnn.data_type.FLOAT, handle=self.handle)  # fmt: skip
        self.options = {"generate_stats": False, "attn_scale": data.scale, "use_causal_mask": data.shape.causal}
        self.tensors = {}

    def input(self, name, tensor):
        if tensor.dim() == 1:
            tensor = tensor.reshape(1, 1, 1, 1)
        node = self.graph.tensor(name=name, dim=list(tensor.shape), stride=list(tensor.stride()),
                                 data_type=self.cudnn.data_type.FLOAT if tensor.dtype == torch.float32
                                 else self.graph_dtype(tensor))  # fmt: skip
        self.tensors[node] = tensor
        return node

    def graph_dtype(self, tensor):
        types = self.cudnn.data_type
        return types.FP8_E4M3 if tensor.dtype == torch.float8_e4m3fn else types.BFLOAT16

    def output(self, node, tensor):
        node.set_output(True).set_dim(list(tensor.shape)).set_stride(list(tensor.stride()))
        node.set_data_type(self.cudnn.data_type.FLOAT if tensor.dtype == torch.float32 else self.graph_dtype(tensor))
        self.tensors[node] = tensor

    def call(self):
        cudnn = self.cudnn
        self.graph.validate()
        self.graph.build_operation_graph()
        self.graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        self.graph.check_support()
        self.graph.build_plans()
        workspace = torch.empty(max(1, self.graph.get_workspace_size()), dtype=torch.uint8, device="cuda")

        def execute():
            cudnn.set_stream(handle=self.handle, stream=torch.cuda.current_stream().cuda_stream)
            self.graph.execute(self.tensors, workspace, handle=self.handle)

        return execute


def cudnn_bf16(data):
    import cudnn

    graph = CudnnGraph(data, cudnn.data_type.BFLOAT16)
    q, k, v = heads_first((data.q, data.k, data.v))
    out = data.empty_out()
    result = graph.graph.sdpa(q=graph.input("q", q), k=graph.input("k", k), v=graph.input("v", v), **graph.options)
    graph.output(result[0], out.transpose(1, 2))
    return Call(graph.call(), data.shape.flops, lambda _: out)


def cudnn_fp8(data):
    import cudnn

    graph = CudnnGraph(data, cudnn.data_type.FP8_E4M3)
    tensors, descales = data.e4m3_per_tensor
    scale_o = 224 / data.expected[2].abs().amax().reshape(1)
    scale_s = torch.full((1,), 256.0, device="cuda")  # P is at most 1
    out = data.empty_out(torch.float8_e4m3fn)
    inputs = {name: graph.input(name, tensor) for name, tensor in zip(("q", "k", "v"), heads_first(tensors))}
    for name, scalar in (*zip(("descale_q", "descale_k", "descale_v"), descales), ("descale_s", 1 / scale_s),
                         ("scale_s", scale_s), ("scale_o", scale_o)):  # fmt: skip
        inputs[name] = graph.input(name, scalar.reshape(1))
    result, _, *amax = graph.graph.sdpa_fp8(**inputs, **graph.options)
    graph.output(result, out.transpose(1, 2))
    for node in amax:
        graph.output(node, torch.empty(1, 1, 1, 1, device="cuda"))
    return Call(graph.call(), data.shape.flops, lambda _: out.float() / scale_o)


def flash_attention_3(fp8):
    def make(data):
        from flash_attn_interface import flash_attn_func

        q, k, v = data.e4m3_per_head[0] if fp8 else (data.q, data.k, data.v)
        options = {"softmax_scale": data.scale, "causal": data.shape.causal}
        if fp8:
            options |= zip(("q_descale", "k_descale", "v_descale"), data.e4m3_per_head[1])
        return Call(lambda: flash_attn_func(q, k, v, **options), data.shape.flops,
                    lambda out: out[0] if isinstance(out, tuple) else out)  # fmt: skip

    return make


def torchao_rope(data):
    from torchao.prototype.attention.quantization import _fp8_rope_sdpa_quantize

    cos, sin = (torch.cat((half, half), dim=1) for half in data.rope)
    return Call(lambda: _fp8_rope_sdpa_quantize(data.q, data.k, data.v, cos, sin))


def copy(function):
    """As many bytes as a quantisation of q, k and v to 8 bits reads and writes."""

    def make(data):
        words = data.attention_bytes * 3 // 2 // 2 // 8
        source, target = (torch.ones(words, dtype=torch.int64, device="cuda") for _ in range(2))
        return Call(lambda: function(source, target))

    return make


def cublas(fp8):
    def make(_):
        size = (ROOF_SIZE, ROOF_SIZE)
        a, b = (torch.randn(size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        flops = 2 * ROOF_SIZE**3
        if not fp8:
            return Call(lambda: a @ b.t(), flops)
        a, b = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).t()
        one = torch.ones((), device="cuda")
        return Call(lambda: torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16,
                                             use_fast_accum=True), flops)  # fmt: skip

    return make


PEERS = {
    "torch flash": torch_sdpa(SDPBackend.FLASH_ATTENTION),
    "torch cuDNN": torch_sdpa(SDPBackend.CUDNN_ATTENTION),
    "cuDNN bf16": cudnn_bf16,
    "cuDNN fp8": cudnn_fp8,
    "FA3 bf16": flash_attention_3(fp8=False),
    "FA3 fp8": flash_attention_3(fp8=True),
    "torchao RoPE": torchao_rope,
    "copy": copy(lambda source, target: target.copy_(source)),
    "copy kernel": copy(lambda source, target: torch.neg(source, out=target)),
    "cuBLAS fp8": cublas(fp8=True),
    "cuBLAS bf16": cublas(fp8=False),
}
