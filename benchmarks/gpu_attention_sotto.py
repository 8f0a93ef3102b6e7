"""Sotto's contenders in benchmarks/gpu_attention.py, through the library of gpu_attention.cpp."""

import ctypes
from dataclasses import dataclass

import torch

DTYPES = {torch.bfloat16: b"bf16", torch.float16: b"f16", torch.float32: b"f32", torch.float8_e4m3fn: b"e4m3"}


@dataclass(frozen=True)
class Ours:
    recipe: str | None = None  # None: attention on the inputs as they are
    step: str = "attend"  # or quantize, or sdpa: both
    rope: bool = False
    e4m3_inputs: bool = False  # a caller's own: natural layout, amax 448
    e4m3_out: bool = False


OURS = {
    "bf16": Ours(),
    "e4m3 tensors": Ours(e4m3_inputs=True),
    "fp8": Ours("fp8"),
    "fp8 plain": Ours("fp8+accumulation=plain"),
    "fp8, e4m3 out": Ours("fp8", e4m3_out=True),
    "int8qk": Ours("int8qk"),
    "fp8 sdpa": Ours("fp8", "sdpa"),
    "int8qk sdpa": Ours("int8qk", "sdpa"),
    "fp8 quantize": Ours("fp8", "quantize"),
    "fp8 quantize RoPE": Ours("fp8", "quantize", rope=True),
    "int8qk quantize": Ours("int8qk", "quantize"),
    "int8qk quantize RoPE": Ours("int8qk", "quantize", rope=True),
}


class BenchTensor(ctypes.Structure):  # as in gpu_attention.cpp
    _fields_ = [("data", ctypes.c_void_p), ("dtype", ctypes.c_char_p), ("cuda", ctypes.c_int32),
                ("rank", ctypes.c_int32), ("shape", ctypes.c_int64 * 4), ("strides", ctypes.c_int64 * 4)]  # fmt: skip

    @classmethod
    def of(cls, tensor):
        sizes = ctypes.c_int64 * 4
        return cls(tensor.data_ptr(), DTYPES[tensor.dtype], tensor.device.index if tensor.is_cuda else -1,
                   tensor.dim(), sizes(*tensor.shape), sizes(*tensor.stride()))  # fmt: skip


class BenchRequest(ctypes.Structure):
    _fields_ = [("recipe", ctypes.c_char_p)] + [
        (name, BenchTensor)
        for name in ("q", "k", "v", "out", "descale_q", "descale_k", "descale_v", "output_scale", "cos", "sin")
    ] + [("causal", ctypes.c_int32)]  # fmt: skip


class Library:
    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.library.sotto_bench_error.restype = ctypes.c_char_p
        self.library.sotto_bench_plan.restype = ctypes.c_void_p
        self.library.sotto_bench_workspace_size.restype = ctypes.c_size_t
        self.library.sotto_bench_workspace_size.argtypes = [ctypes.c_void_p]
        self.library.sotto_bench_free.argtypes = [ctypes.c_void_p]
        for step in ("quantize", "attend", "sdpa"):
            self.step(step).argtypes = [ctypes.c_void_p] * 3

    def step(self, name):
        return getattr(self.library, f"sotto_bench_{name}")

    def error(self):
        return RuntimeError(self.library.sotto_bench_error().decode())


class Contender:
    """A call on one set of tensors. Throws RuntimeError where the library refuses."""

    def __init__(self, library, ours, data):
        self.library, self.ours = library, ours
        self.flops = 0 if ours.step == "quantize" else data.shape.flops
        q, k, v = data.e4m3_per_head[0] if ours.e4m3_inputs else (data.q, data.k, data.v)
        self.buffer = data.empty_out(torch.float8_e4m3fn if ours.e4m3_out else torch.bfloat16)
        request = BenchRequest(recipe=ours.recipe.encode() if ours.recipe else None, causal=data.shape.causal)
        tensors = {"q": q, "k": k, "v": v, "out": self.buffer}
        if ours.e4m3_inputs:
            tensors |= zip(("descale_q", "descale_k", "descale_v"), data.e4m3_per_head[1])
        if ours.rope:
            tensors |= zip(("cos", "sin"), data.rope)
        if ours.e4m3_out:  # half of the range in use
            self.output_scale = (data.expected[2].abs().amax() / 224).reshape(1)
            tensors["output_scale"] = self.output_scale
        for name, tensor in tensors.items():
            setattr(request, name, BenchTensor.of(tensor))
        self.tensors = tensors  # the request has their addresses
        self.handle = library.library.sotto_bench_plan(ctypes.byref(request))
        if not self.handle:
            raise library.error()
        size = library.library.sotto_bench_workspace_size(self.handle)
        self.workspace = torch.empty(size, dtype=torch.uint8, device=q.device)
        self.run = library.step(ours.step)
        if ours.recipe and ours.step == "attend":
            self.enqueue(library.step("quantize"))

    def enqueue(self, step):
        stream = torch.cuda.current_stream().cuda_stream if self.workspace.is_cuda else None
        if step(self.handle, self.workspace.data_ptr(), stream) != 0:
            raise self.library.error()

    def __call__(self):
        self.enqueue(self.run)

    def poison(self):
        """Fills the output with NaN: what the next launch leaves out will be seen."""
        self.buffer.view(torch.uint8).fill_(0xFF)

    @property
    def out(self):
        """The attention's output in fp32, or None."""
        if self.ours.step == "quantize":
            return None
        return self.buffer.float() * self.output_scale if self.ours.e4m3_out else self.buffer

    def __del__(self):
        if getattr(self, "handle", None):
            self.library.library.sotto_bench_free(self.handle)
