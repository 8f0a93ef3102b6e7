"""sdpa(): a drop-in for torch's scaled_dot_product_attention that quantises inside."""

import torch
from torch import Tensor

from ._arguments import (
    RopeLike,
    Window,
    check_given,
    check_tensors,
    mask_arguments,
    rope_arguments,
)
from ._library import ops
from ._outputs import write_or_return

_sdpa = ops.sdpa.default
_sdpa_out = ops.sdpa.out


def sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    recipe: str = "int8qk",
    rope: RopeLike | None = None,
    positions_k: Tensor | None = None,
    window: Window | None = None,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    output_scale: Tensor | None = None,
    group_scale: Tensor | None = None,
    out: Tensor | None = None,
    lse: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Attention of 16- or 32-bit tensors whose matrix products run on 8-bit numbers.

    The parameters up to ``enable_gqa`` are those of
    :func:`torch.nn.functional.scaled_dot_product_attention`, with their meaning there. Autocast
    takes no part: query, key and value are used as they are.

    Args:
        query: ``[batch, heads, len_q, dim]``, float32, float16 or bfloat16. Head sizes are 16 to
            256 in steps of 16, and 512. Any strides with a contiguous last dimension.
        key: ``[batch, heads_kv, len_k, dim]``, query's dtype and device.
        value: ``[batch, heads_kv, len_k, dim_v]``, the same.
        attn_mask: broadcasts to ``[batch, heads, len_q, len_k]``. bool: True where a query may
            attend; float: added to the scores, -inf hides the key.
        dropout_p: must be 0.
        is_causal: query i sees keys 0 to i (aligned top left).
        scale: of query times key; None: ``1 / sqrt(dim)``.
        enable_gqa: allows heads to be a multiple of heads_kv.
        recipe: how query, key and value are quantised: ``"exact"``, ``"fp8"``,
            ``"fp8-hadamard"``, ``"int8qk"`` or ``"high"``, and members to change, as in
            ``"fp8+hadamard=qkv"`` or ``"int8qk+smooth_k=off"``.
        rope: rotates query and key first. Without positions, key j stands at j and query i at i,
            with a window at ``len_k - len_q + i``.
        positions_k: int32 ``[batch or 1, len_k]``, the keys' rows of ``rope``; None: as the
            queries'.
        window: ``(left, right)``: how many keys before and after its own a query sees, -1 for all;
            the last query's own is the last key (bottom right, as FlashAttention).
            ``window=(-1, 0)`` is causal for new tokens that follow a cache.
        softcap: where above 0, scores become ``softcap * tanh(score / softcap)``.
        sinks: float32 ``[heads]``, a logit per head that joins the softmax's denominator.
        out_dtype: of the result; None: query's. ``torch.float8_e4m3fn`` needs ``output_scale``.
        output_scale: float32 ``[1]`` on query's device: an FP8 result is ``o / output_scale``; of
            NVFP4 it is the global scale.
        group_scale: written beside an FP8 or NVFP4 ``out``: its scales per group.
        out: written and returned, in place of a new tensor.
        lse: written: the logarithm of each row's sum of exponentials, float32
            ``[batch, heads, len_q]``.
        backend: its name; None: the choice of :mod:`sotto.backends`.

    Returns:
        ``[batch, heads, len_q, dim_v]``, in memory with heads beside dim, so that
        ``.transpose(1, 2).flatten(2)`` copies nothing. A row that sees no key is 0, its lse -inf.
        A NaN in value shows in the rows that see it; one in query or key does under ``"exact"``,
        ``"fp8"`` and ``"fp8-hadamard"``; ``"int8qk"`` and ``"high"`` hide it, for INT8 has none.

    Raises:
        TypeError: an argument is of the wrong kind (the text names it).
        RuntimeError: an argument is wrong (the text names it, what was expected and what was seen),
            or no backend takes the request (the text has the reasons of each): dropout and
            gradients, for two. :func:`sotto.explain` shows them without running.

    Example:
        >>> import torch, sotto
        >>> q, k, v = (torch.randn(1, 8, 128, 64) for _ in range(3))
        >>> out = sotto.sdpa(q, k, v, is_causal=True)
        >>> exact = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        >>> bool((out - exact).norm() < 0.1 * exact.norm())
        True
    """
    check_tensors(query=query, key=key, value=value)
    check_given(recipe=recipe)
    if attn_mask is not None:
        check_tensors(attn_mask=attn_mask)
    shape = query.shape
    if len(shape) != 4:
        for name, output in (("out", out), ("lse", lse), ("group_scale", group_scale)):
            if output is not None:
                raise RuntimeError(f"{name}: needs a query of 4 dimensions, got {len(shape)}")
        if attn_mask is not None:
            _check_mask(attn_mask, (*shape[:-1], *key.shape[-2:-1]))
            attn_mask = attn_mask.expand(*shape[:-2], *attn_mask.shape[-2:])
            attn_mask = _four_dimensional(attn_mask)
        query, key, value = map(_four_dimensional, (query, key, value))
    if not enable_gqa and key.dim() == 4 and key.shape[1] != query.shape[1]:
        raise RuntimeError(
            f"key: must have query's {query.shape[1]} heads, or enable_gqa=True, got {key.shape[1]}"
        )
    if attn_mask is not None:
        if attn_mask.dim() > 4:
            _check_mask(attn_mask, (*shape[:-1], *key.shape[-2:-1]))
        attn_mask = _four_dimensional(attn_mask)
        len_q = query.shape[2] if attn_mask.shape[2] == 1 else -1
        len_k = key.shape[2] if attn_mask.shape[3] == 1 else -1
        attn_mask = attn_mask.expand(-1, -1, len_q, len_k)
    result = write_or_return(
        _sdpa,
        _sdpa_out,
        (query, key, value),
        out=out,
        out_dtype=out_dtype,
        lse=lse,
        group_scale=group_scale,
        recipe=recipe,
        dropout_p=dropout_p or None,
        scale=scale,
        softcap=softcap or None,
        sinks=sinks,
        output_scale=output_scale,
        positions_k=positions_k,
        backend=backend,
        **mask_arguments(is_causal, window, attn_mask),
        **rope_arguments(rope),
    )
    return result if len(shape) == 4 else result.reshape(*shape[:-1], result.shape[-1])


def _check_mask(attn_mask: Tensor, scores: tuple[int, ...]) -> None:
    sizes = attn_mask.shape
    pairs = zip(reversed(sizes), reversed(scores), strict=False)
    if len(sizes) > len(scores) or any(size not in (1, score) for size, score in pairs):
        raise RuntimeError(
            f"attn_mask: must broadcast to {list(scores)}, got {list(attn_mask.shape)}"
        )


def _four_dimensional(tensor: Tensor) -> Tensor:
    """With as many leading dimensions of 1 as are missing; with more, the first become one."""
    if tensor.dim() > 4:
        return tensor.flatten(0, -4)
    return tensor[(None,) * (4 - tensor.dim())]
