"""What the ops return, in shapes, strides and dtypes: all that torch.compile knows of them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ._library import ops

_QUANTIZED = (torch.float8_e4m3fn, torch.int8)


def _out(q: Tensor, dim_v: Any, out_dtype: torch.dtype | None) -> Tensor:
    """Of ``q`` as the library has it, [batch, len, heads, dim] or [total, heads, dim]."""
    if out_dtype is None:
        out_dtype = torch.bfloat16 if q.dtype in _QUANTIZED else q.dtype
    width = dim_v // 2 if out_dtype == torch.float4_e2m1fn_x2 else dim_v
    return q.new_empty((*q.shape[:-1], width), dtype=out_dtype)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    out_dtype: torch.dtype | None = None,
    **_: Any,
) -> Tensor:
    return _out(q, v.shape[-1], out_dtype)


def sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    out_dtype: torch.dtype | None = None,
    **_: Any,
) -> Tensor:
    dense = query.dim() == 4
    q = query.transpose(1, 2) if dense else query
    out = _out(q, value.shape[-1], out_dtype)
    return out.transpose(1, 2) if dense else out


def quantize(
    x: Tensor,
    *,
    dtype: torch.dtype,
    granularity: str = "head",
    heads_kv: int = 0,
    block: int = 0,
    cu_seqlens: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    data = x.new_empty(x.shape, dtype=dtype)
    heads = x.shape[-2]
    batch = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    shape: tuple[Any, ...]
    if dtype not in _QUANTIZED:
        shape = (0,)
    elif granularity == "tensor":
        shape = (1,)
    elif granularity == "kv_head":
        shape = (batch, heads_kv)
    elif granularity == "token":
        shape = tuple(x.shape[:-1])
    elif granularity == "block":
        if cu_seqlens is None:
            shape = (batch, heads, (x.shape[1] + block - 1) // block)
        else:
            shape = (heads, x.shape[0] // block + batch)
    else:
        shape = (batch, heads)
    return data, x.new_empty(shape, dtype=torch.float32)


def channel_mean(x: Tensor, *, cu_seqlens: Tensor | None = None, **_: Any) -> Tensor:
    batch = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    return x.new_empty((batch, *x.shape[-2:]), dtype=torch.float32)


def merge_states(
    outs: list[Tensor],
    lses: list[Tensor],
    *,
    out_dtype: torch.dtype | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    out = outs[0].new_empty(outs[0].shape, dtype=out_dtype or outs[0].dtype)
    return out, lses[0].new_empty(lses[0].shape)


def _writes_only(*_: Any, **__: Any) -> None:
    """Of the ops that return nothing."""


KERNELS: dict[Any, Callable[..., Any]] = {
    ops.attention.default: attention,
    ops.attention.out: _writes_only,
    ops.sdpa.default: sdpa,
    ops.sdpa.out: _writes_only,
    ops.quantize.default: quantize,
    ops.quantize.out: _writes_only,
    ops.channel_mean.default: channel_mean,
    ops.append_kv.default: _writes_only,
    ops.merge_states.default: merge_states,
    ops.merge_states.out: _writes_only,
}

torch.library.register_fake(ops.check_attention.default, _writes_only)
for _op, _kernel in KERNELS.items():
    torch.library.register_fake(_op, _kernel)
