"""Tensors for benchmarks/gpu_attention.py, and a check of what comes out."""

import functools
import math

import torch

CHECKED_ROWS = 256  # queries of two heads, over all keys


class Data:
    """q, k, v of a shape, N(0,1) in bf16, [batch, len, heads, dim]; everything else on demand."""

    def __init__(self, shape, seed=0, device="cuda"):
        self.shape = shape
        generator = torch.Generator(device).manual_seed(seed)

        def normal(length, dim):
            size = (shape.batch, length, shape.heads, dim)
            return torch.randn(size, generator=generator, device=device, dtype=torch.bfloat16)

        self.q = normal(shape.len_q, shape.dim_qk)
        self.k = normal(shape.len_k, shape.dim_qk)
        self.v = normal(shape.len_k, shape.dim_v)

    @property
    def scale(self):
        return self.shape.dim_qk**-0.5

    def empty_out(self, dtype=torch.bfloat16):
        shape = self.shape
        return torch.empty(shape.batch, shape.len_q, shape.heads, shape.dim_v, dtype=dtype, device=self.q.device)

    @functools.cached_property
    def rope(self):
        """cos, sin [len, dim / 2] of base 10,000."""
        half = self.shape.dim_qk // 2
        frequency = 10000.0 ** (-torch.arange(half, device=self.q.device, dtype=torch.float32) / half)
        angle = torch.arange(max(self.shape.len_q, self.shape.len_k), device=self.q.device)[:, None] * frequency
        return angle.cos(), angle.sin()

    @functools.cached_property
    def e4m3_per_head(self):
        """(q, k, v), (descales [batch, heads]): amax 448 for each head, as FlashAttention-3 takes them."""
        return quantized((self.q, self.k, self.v), (1, 3))

    @functools.cached_property
    def e4m3_per_tensor(self):
        """The same with one descale for each tensor."""
        return quantized((self.q, self.k, self.v), (0, 1, 2, 3))

    @property
    def attention_bytes(self):
        return sum(tensor.nbytes for tensor in (self.q, self.k, self.v))

    @functools.cached_property
    def expected(self):
        """(rows, heads, output) of some queries of two heads, in fp32."""
        shape = self.shape
        rows = torch.linspace(0, shape.len_q - 1, min(CHECKED_ROWS, shape.len_q), device=self.q.device).long()
        heads = sorted({0, shape.heads - 1})
        q, k, v = (tensor[0][:, heads].transpose(0, 1).float() for tensor in (self.q[:, rows], self.k, self.v))
        scores = (q * self.scale) @ k.transpose(1, 2)
        if shape.causal:
            hidden = torch.arange(shape.len_k, device=rows.device)[None, :] > rows[:, None]
            scores.masked_fill_(hidden, -math.inf)
        return rows, heads, (scores.softmax(-1) @ v).transpose(0, 1)

    def sqnr(self, out):
        """dB of an attention output [batch, len, heads, dim]; 0 where it is not finite."""
        rows, heads, expected = self.expected
        difference = out[0, rows][:, heads].float() - expected
        error = difference.square().sum().item()
        return 10 * math.log10(expected.square().sum().item() / error) if math.isfinite(error) else 0.0


def quantized(tensors, dims):
    data, descales = [], []
    for tensor in tensors:
        descale = tensor.abs().amax(dims, keepdim=True).float() / 448
        data.append((tensor / descale).to(torch.float8_e4m3fn))
        descales.append(descale.reshape(descale.shape[0], descale.shape[2]))
    return data, descales
