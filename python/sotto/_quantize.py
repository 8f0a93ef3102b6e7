"""What goes before attention: quantisation, channel means, new tokens into a cache."""

import torch
from torch import Tensor

from ._arguments import (
    RopeLike,
    Scale,
    ScaleLike,
    check_cu_seqlens,
    check_given,
    check_tensors,
    given,
    refuse_backward,
    rope_arguments,
    scale_arguments,
)
from ._library import ops


def quantize(
    x: Tensor,
    dtype: torch.dtype = torch.float8_e4m3fn,
    granularity: str = "head",
    *,
    heads_kv: int = 0,
    block: int = 0,
    power_of_two: bool = False,
    rope: RopeLike | None = None,
    hadamard: bool = False,
    mean: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    seqused: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Scale]:
    """Quantises to 8 bits: ``x`` is about ``data * scale``.

    RoPE comes first, then the Hadamard transform, then the subtraction of ``mean``, then rounding
    to the nearest. The scale is amax / 448 (float8_e4m3fn) or amax / 127 (int8) of the elements
    that share it. Infinities saturate; NaN stays NaN in float8_e4m3fn and becomes 0 in int8.

    Args:
        x: ``[batch, len, heads, dim]``, or packed ``[total, heads, dim]``; float32, float16 or
            bfloat16.
        dtype: torch.float8_e4m3fn or torch.int8.
        granularity: which elements share a scale: see :class:`sotto.Scale`.
        heads_kv: for ``"kv_head"``: heads of k and v, so that q's heads of a group share a scale.
        block: for ``"block"``: tokens that share a scale.
        power_of_two: round each scale up to a power of two.
        rope: rotates x.
        hadamard: transforms each head, by the largest power of two up to 256 that divides dim.
        mean: float32 ``[batch, heads, dim]``, subtracted.
        cu_seqlens: int32 ``[batch + 1]``: x is packed.
        seqused: int32 ``[batch]``: tokens from there on come out as zeros.
        backend: its name; None: the choice of :mod:`sotto.backends`.

    Returns:
        data of x's shape, and its scale, which :func:`sotto.attention` takes as a descale.

    Raises:
        TypeError: an argument is of the wrong kind (the text names it).
        RuntimeError: an argument is wrong, or no backend takes the request.

    Example:
        >>> import torch, sotto
        >>> x = torch.randn(1, 32, 4, 64)
        >>> data, scale = sotto.quantize(x, torch.int8, "token")
        >>> scale.values.shape
        torch.Size([1, 32, 4])
        >>> bool((data * scale.values[..., None] - x).abs().max() < 0.05)
        True
    """
    check_tensors(x=x)
    check_given(dtype=dtype, granularity=granularity)
    check_cu_seqlens(cu_seqlens=cu_seqlens)
    arguments = given(
        dtype=dtype,
        granularity=granularity,
        heads_kv=heads_kv,
        block=block,
        power_of_two=power_of_two,
        hadamard=hadamard,
        mean=mean,
        cu_seqlens=cu_seqlens,
        seqused=seqused,
        backend=backend,
    )
    refuse_backward(x=x, rope=rope, mean=mean)
    if dtype not in (torch.float8_e4m3fn, torch.int8):
        raise RuntimeError(f"dtype: must be torch.float8_e4m3fn or torch.int8, got {dtype}")
    cu_blocks = None
    if granularity == "block":
        if block < 1:
            raise RuntimeError(f"block: must be at least 1 for granularity 'block', got {block}")
        if cu_seqlens is not None:
            # No sequence is longer than an int32 can say, and neither need a block be.
            counts = -(-cu_seqlens.diff() // min(block, 2**31 - 1))
            cu_blocks = torch.nn.functional.pad(counts.cumsum(0, dtype=torch.int32), (1, 0))
    data, values = ops.quantize.default(x, cu_blocks=cu_blocks, **arguments, **rope_arguments(rope))
    return data, Scale(values, granularity, block, cu_blocks)


def rotate(x: Tensor, *, rope: RopeLike | None, hadamard: bool, backend: str | None) -> Tensor:
    """``quantize`` without rounding: RoPE and Hadamard in x's dtype."""
    arguments = given(dtype=x.dtype, hadamard=hadamard, backend=backend)
    rotated: Tensor = ops.quantize.default(x, **arguments, **rope_arguments(rope))[0]
    return rotated


def channel_mean(
    x: Tensor,
    *,
    descale: ScaleLike | None = None,
    max_tokens: int = 0,
    rope: RopeLike | None = None,
    hadamard: bool = False,
    cu_seqlens: Tensor | None = None,
    seqused: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """The mean over a sequence's tokens that ``quantize`` and ``append_kv`` subtract.

    Args:
        x: ``[batch, len, heads, dim]``, or packed ``[total, heads, dim]``.
        descale: scale of an 8-bit x.
        max_tokens: over how many tokens of each sequence, the first ones; 0: all.
        rope: rotates x first.
        hadamard: then transforms it.
        cu_seqlens: int32 ``[batch + 1]``: x is packed.
        seqused: int32 ``[batch]``: only the first tokens count.
        backend: its name; None: the choice of :mod:`sotto.backends`.

    Returns:
        float32 ``[batch, heads, dim]``.

    Raises:
        TypeError: an argument is of the wrong kind (the text names it).
        RuntimeError: an argument is wrong, or no backend takes the request.

    Example:
        >>> import torch, sotto
        >>> k = torch.randn(1, 32, 4, 64) + 3
        >>> mean = sotto.channel_mean(k)
        >>> k8, scale = sotto.quantize(k, mean=mean)  # and attention(..., k_mean=mean)
        >>> bool((mean - 3).abs().max() < 1)
        True
    """
    check_tensors(x=x)
    check_cu_seqlens(cu_seqlens=cu_seqlens)
    refuse_backward(x=x, descale=descale, rope=rope)
    arguments = given(
        max_tokens=max_tokens,
        hadamard=hadamard,
        cu_seqlens=cu_seqlens,
        seqused=seqused,
        backend=backend,
    )
    mean: Tensor = ops.channel_mean.default(
        x, **arguments, **rope_arguments(rope), **scale_arguments("descale", descale)
    )
    return mean


def append_kv(
    k: Tensor,
    v: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    cache_seqlens: Tensor,
    *,
    cu_seqlens: Tensor | None = None,
    page_table: Tensor | None = None,
    batch_idx: Tensor | None = None,
    k_descale: ScaleLike | None = None,
    v_descale: ScaleLike | None = None,
    rope: RopeLike | None = None,
    hadamard_k: bool = False,
    hadamard_v: bool = False,
    k_mean: Tensor | None = None,
    v_mean: Tensor | None = None,
    backend: str | None = None,
) -> None:
    """Writes new keys and values into a cache, in place.

    New token t of sequence b goes to position ``cache_seqlens[b] + t``; ``cache_seqlens`` is not
    advanced.

    Args:
        k: ``[batch, len_new, heads_kv, dim]``, or packed ``[total, heads_kv, dim]``; float32,
            float16 or bfloat16.
        v: as k with dim_v.
        k_cache: written, ``[rows, capacity, heads_kv, dim]``, or paged ``[pages, page_size,
            heads_kv, dim]``; float32, float16, bfloat16, float8_e4m3fn or int8.
        v_cache: written, as k_cache with dim_v, but not int8.
        cache_seqlens: int32 ``[batch]``: how many tokens each sequence has already.
        cu_seqlens: int32 ``[batch + 1]``: k and v are packed.
        page_table: int32 ``[batch, pages per sequence]``: the cache is paged.
        batch_idx: int32 ``[batch]``: row of the cache for each sequence.
        k_descale: of an 8-bit k_cache. Per tensor or head it is read, per token written.
        v_descale: the same of v_cache.
        rope: rotates k; without positions, by its place in the cache.
        hadamard_k: transforms k, after RoPE.
        hadamard_v: transforms v.
        k_mean: float32 ``[batch, heads_kv, dim]``, subtracted from k after both.
        v_mean: float32 ``[batch, heads_kv, dim_v]``, the same of v.
        backend: its name; None: the choice of :mod:`sotto.backends`.

    Raises:
        TypeError: an argument is of the wrong kind (the text names it).
        RuntimeError: an argument is wrong, or no backend takes the request.

    Example:
        >>> import torch, sotto
        >>> k_cache, v_cache = (torch.zeros(1, 16, 2, 64, dtype=torch.bfloat16) for _ in range(2))
        >>> k, v = (torch.ones(1, 3, 2, 64, dtype=torch.bfloat16) for _ in range(2))
        >>> sotto.append_kv(k, v, k_cache, v_cache, torch.tensor([4], dtype=torch.int32))
        >>> k_cache[0, :, 0, 0].tolist()[2:8]
        [0.0, 0.0, 1.0, 1.0, 1.0, 0.0]
    """
    check_tensors(k=k, v=v, k_cache=k_cache, v_cache=v_cache, cache_seqlens=cache_seqlens)
    check_cu_seqlens(cu_seqlens=cu_seqlens)
    refuse_backward(
        k=k,
        v=v,
        k_cache=k_cache,
        v_cache=v_cache,
        k_descale=k_descale,
        v_descale=v_descale,
        rope=rope,
        k_mean=k_mean,
        v_mean=v_mean,
    )
    arguments = given(
        cu_seqlens=cu_seqlens,
        page_table=page_table,
        batch_idx=batch_idx,
        hadamard_k=hadamard_k,
        hadamard_v=hadamard_v,
        k_mean=k_mean,
        v_mean=v_mean,
        backend=backend,
    )
    descales = scale_arguments("k_descale", k_descale) | scale_arguments("v_descale", v_descale)
    ops.append_kv.default(
        k, v, k_cache, v_cache, cache_seqlens, **arguments, **rope_arguments(rope), **descales
    )
    # A descale that is only read counts as written, too, as the op's schema has it.
    written = [descales[name] for name in ("k_descale", "v_descale") if name in descales]
    torch.autograd.graph.increment_version([k_cache, v_cache, *written])
