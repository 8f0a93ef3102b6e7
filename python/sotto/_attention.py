"""Attention on the dtypes it is given: dense, packed, over a cache."""

from typing import Any

import torch
from torch import Tensor

from ._arguments import (
    RopeLike,
    ScaleLike,
    Window,
    as_rope,
    check_cu_seqlens,
    check_given,
    check_tensors,
    given,
    mask_arguments,
    rope_arguments,
    scale_arguments,
    text_of,
)
from ._library import ops
from ._outputs import checked_outputs, op_arguments, write_or_return
from ._quantize import append_kv, rotate

_attention = ops.attention.default
_attention_out = ops.attention.out
_check_attention = ops.check_attention.default


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    window: Window | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
    descale_q: ScaleLike | None = None,
    descale_k: ScaleLike | None = None,
    descale_v: ScaleLike | None = None,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    seqused_q: Tensor | None = None,
    seqused_k: Tensor | None = None,
    max_len_q: int = 0,
    max_len_k: int = 0,
    page_table: Tensor | None = None,
    batch_idx: Tensor | None = None,
    k_mean: Tensor | None = None,
    v_mean: Tensor | None = None,
    v_lo: Tensor | None = None,
    hadamard_v: bool = False,
    num_splits: int = 0,
    fast: bool = False,
    accumulation: str = "safe",
    alibi_slopes: Tensor | None = None,
    dropout_p: float = 0.0,
    out_dtype: torch.dtype | None = None,
    output_scale: Tensor | None = None,
    group_scale: Tensor | None = None,
    out: Tensor | None = None,
    lse: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Attention of tensors as they are: nothing is quantised on the way in.

    ``q`` and ``k`` are both float32, float16 or bfloat16, both float8_e4m3fn, both int8, or, over a
    quantised cache, ``q`` of 16 or 32 bits beside ``k`` of 8. ``v`` is float8_e4m3fn or of 16 or 32
    bits.

    Args:
        q: ``[batch, len_q, heads, dim]``, or packed ``[total_q, heads, dim]``.
        k: ``[batch, len_k, heads_kv, dim]``, packed ``[total_k, heads_kv, dim]`` or paged
            ``[pages, page_size, heads_kv, dim]``. heads is a multiple of heads_kv.
        v: as k, with dim_v.
        attn_mask: ``[batch or 1, heads or 1, len_q, len_k]``: bool, True where a query may attend,
            or float, added to the scores.
        is_causal: query i sees keys 0 to i (aligned top left).
        window: ``(left, right)``: how many keys before and after its own a query sees, -1 for all;
            the last query's own is the last key (bottom right).
        scale: of q times k; None: ``1 / sqrt(dim)``.
        softcap: where above 0, scores become ``softcap * tanh(score / softcap)``.
        sinks: float32 ``[heads]``, a logit per head that joins the softmax's denominator.
        descale_q: scales of an 8-bit q, as :func:`sotto.quantize` returns them.
        descale_k: of k.
        descale_v: of v and v_lo.
        cu_seqlens_q: int32 ``[batch + 1]``: q is packed, sequence b is ``cu_seqlens_q[b]`` up to
            ``cu_seqlens_q[b + 1]``.
        cu_seqlens_k: the same of k and v.
        seqused_q: int32 ``[batch]``: only the first queries of each sequence count.
        seqused_k: int32 ``[batch]``: only the first keys count.
        max_len_q: no packed sequence of q is longer; 0: unknown.
        max_len_k: the same of k.
        page_table: int32 ``[batch, pages per sequence]``: k and v are paged.
        batch_idx: int32 ``[batch]``: sequence b uses row ``batch_idx[b]`` of k and v.
        k_mean: float32 ``[batch, heads_kv, dim]`` that was subtracted from k.
        v_mean: float32 ``[batch, heads_kv, dim_v]`` that was subtracted from v.
        v_lo: float8_e4m3fn, v's shape: a second term of v.
        hadamard_v: v is Hadamard-transformed, the result is to be transformed back.
        num_splits: into how many parts the keys are cut; 0: the backend's choice.
        fast: a cheaper softmax where a backend has one.
        accumulation: ``"safe"``, or ``"plain"``: as the matrix unit sums.
        alibi_slopes: must be None.
        dropout_p: must be 0.
        out_dtype: of the result; None: q's, of an 8-bit q bfloat16.
        output_scale: as of :func:`sotto.sdpa`, and so are the following.
        group_scale: written.
        out: written and returned.
        lse: written, float32 ``[batch, heads, len_q]`` or packed ``[heads, total_q]``.
        backend: its name; None: the choice of :mod:`sotto.backends`.

    Returns:
        q's shape with dim_v. A row that sees no key is 0, its lse -inf.

    Raises:
        TypeError: an argument is of the wrong kind (the text names it).
        RuntimeError: an argument is wrong, or no backend takes the request, as of
            :func:`sotto.sdpa`.

    Example:
        >>> import torch, sotto
        >>> q, k, v = (torch.randn(1, 64, 8, 64) for _ in range(3))
        >>> k8, descale_k = sotto.quantize(k)
        >>> v8, descale_v = sotto.quantize(v)
        >>> sotto.attention(q, k8, v8, descale_k=descale_k, descale_v=descale_v).shape
        torch.Size([1, 64, 8, 64])
    """
    check_tensors(q=q, k=k, v=v)
    check_cu_seqlens(cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k)
    if accumulation not in ("safe", "plain"):
        raise ValueError(f"accumulation: must be 'safe' or 'plain', got {accumulation!r}")
    return write_or_return(
        _attention,
        _attention_out,
        (q, k, v),
        out=out,
        out_dtype=out_dtype,
        lse=lse,
        group_scale=group_scale,
        scale=scale,
        softcap=softcap or None,
        sinks=sinks,
        output_scale=output_scale,
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
        seqused_q=seqused_q,
        seqused_k=seqused_k,
        max_len_q=max_len_q,
        max_len_k=max_len_k,
        page_table=page_table,
        batch_idx=batch_idx,
        k_mean=k_mean,
        v_mean=v_mean,
        v_lo=v_lo,
        hadamard_v=hadamard_v or None,
        num_splits=num_splits or None,
        fast=fast or None,
        plain_accumulation=accumulation == "plain" or None,
        alibi_slopes=alibi_slopes,
        dropout_p=dropout_p or None,
        backend=backend,
        **mask_arguments(is_causal, window, attn_mask),
        **scale_arguments("descale_q", descale_q),
        **scale_arguments("descale_k", descale_k),
        **scale_arguments("descale_v", descale_v),
    )


def varlen_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_len_q: int = 0,
    max_len_k: int = 0,
    *,
    recipe: str | None = None,
    rope: RopeLike | None = None,
    positions_k: Tensor | None = None,
    is_causal: bool = False,
    window: Window | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
    descale_q: ScaleLike | None = None,
    descale_k: ScaleLike | None = None,
    descale_v: ScaleLike | None = None,
    seqused_q: Tensor | None = None,
    seqused_k: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    output_scale: Tensor | None = None,
    out: Tensor | None = None,
    lse: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Attention within each sequence of a ragged batch, packed without padding.

    Args:
        q: ``[total_q, heads, dim]``.
        k: ``[total_k, heads_kv, dim]``.
        v: ``[total_k, heads_kv, dim_v]``.
        cu_seqlens_q: int32 ``[batch + 1]``: sequence b is ``cu_seqlens_q[b]`` up to
            ``cu_seqlens_q[b + 1]``.
        cu_seqlens_k: the same of k and v.
        max_len_q: no sequence of q is longer; 0: unknown.
        max_len_k: the same of k.
        recipe: q, k and v are of 16 or 32 bits and are quantised by it, as in :func:`sotto.sdpa`;
            None: they are used as they are, as in :func:`sotto.attention`.
        rope: rotates q and k first; needs a recipe (``"exact"`` will do).
        positions_k: int32 ``[total_k]``, the keys' rows of ``rope``; None: as the queries'.
        is_causal: within its sequence query i sees keys 0 to i (aligned top left).
        window: ``(left, right)``, aligned bottom right; ``(-1, 0)`` is FlashAttention's causal.
        scale: as of :func:`sotto.attention`, and so are the following.
        softcap: as there.
        sinks: as there.
        descale_q: as there; not with a recipe.
        descale_k: as there; not with a recipe.
        descale_v: as there; not with a recipe.
        seqused_q: as there.
        seqused_k: as there.
        out_dtype: as there.
        output_scale: as there.
        out: written and returned.
        lse: written, float32 ``[heads, total_q]``.
        backend: its name; None: the choice of :mod:`sotto.backends`.

    Returns:
        ``[total_q, heads, dim_v]``.

    Raises:
        TypeError: an argument is of the wrong kind (the text names it).
        RuntimeError: an argument is wrong, or no backend takes the request, as of
            :func:`sotto.sdpa`.

    Example:
        >>> import torch, sotto
        >>> q, k, v = (torch.randn(10, 4, 64) for _ in range(3))
        >>> cu_seqlens = torch.tensor([0, 3, 10], dtype=torch.int32)  # sequences of 3 and 7 tokens
        >>> sotto.varlen_attention(q, k, v, cu_seqlens, cu_seqlens, recipe="fp8").shape
        torch.Size([10, 4, 64])
    """
    check_given(cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k)
    check_cu_seqlens(cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k)
    if recipe is None:
        if rope is not None:
            raise RuntimeError(
                "rope: needs a recipe: attention on tensors as they are rotates none"
            )
        return attention(
            q,
            k,
            v,
            cu_seqlens_q=cu_seqlens_q,
            cu_seqlens_k=cu_seqlens_k,
            max_len_q=max_len_q,
            max_len_k=max_len_k,
            is_causal=is_causal,
            window=window,
            scale=scale,
            softcap=softcap,
            sinks=sinks,
            seqused_q=seqused_q,
            seqused_k=seqused_k,
            out_dtype=out_dtype,
            output_scale=output_scale,
            out=out,
            lse=lse,
            backend=backend,
            descale_q=descale_q,
            descale_k=descale_k,
            descale_v=descale_v,
        )
    check_tensors(q=q, k=k, v=v)
    for name, descale in (
        ("descale_q", descale_q),
        ("descale_k", descale_k),
        ("descale_v", descale_v),
    ):
        if descale is not None:
            raise RuntimeError(f"{name}: must be None with a recipe: it quantises by itself")
    return write_or_return(
        ops.sdpa.default,
        ops.sdpa.out,
        (q, k, v),
        out=out,
        out_dtype=out_dtype,
        lse=lse,
        group_scale=None,
        recipe=recipe,
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
        seqused_q=seqused_q,
        seqused_k=seqused_k,
        max_len_q=max_len_q,
        max_len_k=max_len_k,
        scale=scale,
        softcap=softcap or None,
        sinks=sinks,
        output_scale=output_scale,
        positions_k=positions_k,
        backend=backend,
        **mask_arguments(is_causal, window, None),
        **rope_arguments(rope),
    )


def attention_with_kv_cache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    cache_seqlens: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    *,
    page_table: Tensor | None = None,
    batch_idx: Tensor | None = None,
    rope: RopeLike | None = None,
    window: Window | None = (-1, 0),
    scale: float | None = None,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
    descale_k: ScaleLike | None = None,
    descale_v: ScaleLike | None = None,
    k_mean: Tensor | None = None,
    hadamard_k: bool = False,
    hadamard_v: bool = False,
    num_splits: int = 0,
    out_dtype: torch.dtype | None = None,
    output_scale: Tensor | None = None,
    out: Tensor | None = None,
    lse: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Writes new keys and values into a cache, in place, then attends over old and new.

    New token t of sequence b goes to position ``cache_seqlens[b] + t``; ``cache_seqlens`` is not
    advanced. Without k and v the cache is only read.

    Args:
        q: ``[batch, len_q, heads, dim]``, float32, float16 or bfloat16.
        k_cache: ``[rows, capacity, heads_kv, dim]``, or paged ``[pages, page_size, heads_kv,
            dim]``: q's dtype, float8_e4m3fn or int8.
        v_cache: as k_cache with dim_v; q's dtype or float8_e4m3fn.
        cache_seqlens: int32 ``[batch]``: how many tokens each sequence has already.
        k: ``[batch, len_new, heads_kv, dim]``, q's dtype.
        v: ``[batch, len_new, heads_kv, dim_v]``.
        page_table: int32 ``[batch, pages per sequence]``: the cache is paged.
        batch_idx: int32 ``[batch]``: row of the cache for each sequence.
        rope: rotates k, and q in the same way; without positions, by their place in the cache.
            Needs k.
        window: as of :func:`sotto.attention`; the default is causal, None sees all keys.
        scale: of q times k; None: ``1 / sqrt(dim)``.
        softcap: where above 0, scores become ``softcap * tanh(score / softcap)``.
        sinks: float32 ``[heads]``, a logit per head that joins the softmax's denominator.
        descale_k: scale of an 8-bit k_cache. Per tensor or head it is given, per token written
            where k is.
        descale_v: the same of v_cache.
        k_mean: float32 ``[batch, heads_kv, dim]``, subtracted from k after RoPE and Hadamard; the
            same for the life of a sequence.
        hadamard_k: k is stored transformed, and q is transformed, too.
        hadamard_v: v is stored transformed; the result is transformed back.
        num_splits: into how many parts the keys are cut; 0: the backend's choice.
        out_dtype: as of :func:`sotto.sdpa`, and so are the following.
        output_scale: as there.
        out: written and returned.
        lse: written, float32 ``[batch, heads, len_q]``.
        backend: its name; None: the choice of :mod:`sotto.backends`.

    Returns:
        ``[batch, len_q, heads, dim_v]``.

    Raises:
        TypeError: an argument is of the wrong kind (the text names it).
        RuntimeError: an argument is wrong, or no backend takes the request, as of
            :func:`sotto.sdpa`. On a GPU none does today.

    Example:
        >>> import torch, sotto
        >>> k_cache, v_cache = (torch.zeros(1, 16, 2, 64) for _ in range(2))
        >>> cache_seqlens = torch.zeros(1, dtype=torch.int32)
        >>> for token in range(3):
        ...     q = torch.randn(1, 1, 8, 64)
        ...     k, v = (torch.randn(1, 1, 2, 64) for _ in range(2))
        ...     out = sotto.attention_with_kv_cache(q, k_cache, v_cache, cache_seqlens, k, v)
        ...     cache_seqlens += 1
        >>> out.shape
        torch.Size([1, 1, 8, 64])
    """
    check_tensors(q=q, k_cache=k_cache, v_cache=v_cache, cache_seqlens=cache_seqlens)
    if (k is None) != (v is None):
        raise RuntimeError(f"{'k' if k is None else 'v'}: is required: k and v come together")
    if k is None and rope is not None:
        raise RuntimeError("rope: needs k and v: keys that are in the cache are not rotated again")
    if cache_seqlens.dtype != torch.int32 or cache_seqlens.shape != q.shape[:1]:
        raise RuntimeError(
            f"cache_seqlens: must be int32 [batch of q] = {list(q.shape[:1])}, got "
            f"{text_of(cache_seqlens)}"
        )
    seqused_k = cache_seqlens
    if k is not None and v is not None:
        check_tensors(k=k, v=v)
        if k.dim() != 4:
            raise RuntimeError(f"k: must be [batch, len_new, heads_kv, dim], got {text_of(k)}")
        seqused_k = cache_seqlens + k.shape[1]
    outputs: dict[str, Any] = {"out": out, "out_dtype": out_dtype, "lse": lse, "group_scale": None}
    arguments: dict[str, Any] = {
        "seqused_k": seqused_k,
        "page_table": page_table,
        "batch_idx": batch_idx,
        "scale": scale,
        "softcap": softcap or None,
        "sinks": sinks,
        "output_scale": output_scale,
        "k_mean": k_mean,
        "hadamard_v": hadamard_v or None,
        "num_splits": num_splits or None,
        "backend": backend,
        **mask_arguments(False, window, None),
        **scale_arguments("descale_k", descale_k),
        **scale_arguments("descale_v", descale_v),
    }
    if k is not None and v is not None:
        # All that may be refused is, before anything is written.
        inputs = (q, k_cache, v_cache)
        _check_attention(
            *inputs,
            **op_arguments(inputs, **arguments),
            **given(out_dtype=out_dtype),
            **checked_outputs(**outputs),
        )
    rope_of_q = None
    if rope is not None:
        rope_of_q = as_rope(rope)
        if rope_of_q.positions is None:
            steps = torch.arange(q.shape[1], dtype=torch.int32, device=q.device)
            positions = (seqused_k - q.shape[1])[:, None] + steps
            rope_of_q = rope_of_q._replace(positions=positions)
    if rope_of_q is not None or hadamard_k:
        q = rotate(q, rope=rope_of_q, hadamard=hadamard_k, backend=backend)
    if k is not None and v is not None:
        append_kv(
            k,
            v,
            k_cache,
            v_cache,
            cache_seqlens,
            page_table=page_table,
            batch_idx=batch_idx,
            rope=rope,
            k_descale=descale_k,
            v_descale=descale_v,
            k_mean=k_mean,
            hadamard_k=hadamard_k,
            hadamard_v=hadamard_v,
            backend=backend,
        )
    return write_or_return(
        _attention, _attention_out, (q, k_cache, v_cache), **outputs, **arguments
    )
