"""Attention over parts of the keys becomes attention over all of them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ._arguments import check_tensors, given, refuse_backward
from ._library import ops


def merge_states(
    outs: Sequence[Tensor],
    lses: Sequence[Tensor],
    *,
    out_dtype: torch.dtype | None = None,
    output_scale: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Merges what :func:`sotto.attention` left of disjoint sets of keys.

    Args:
        outs: each ``[batch, len_q, heads, dim_v]`` or ``[total_q, heads, dim_v]``; float32,
            float16 or bfloat16.
        lses: of each, float32 ``[batch, heads, len_q]`` or ``[heads, total_q]``.
        out_dtype: of the result; None: that of outs.
        output_scale: float32 ``[1]``: the scale of a float8_e4m3fn result.
        backend: its name; None: the choice of :mod:`sotto.backends`.

    Returns:
        out and lse over all keys. Rows that no state saw are 0 and -inf.

    Raises:
        TypeError: an argument is of the wrong kind (the text names it).
        RuntimeError: an argument is wrong, or no backend takes the request.

    Example:
        >>> import torch, sotto
        >>> q, k, v = (torch.randn(1, 64, 4, 64) for _ in range(3))
        >>> outs, lses = [], []
        >>> for part in (slice(0, 40), slice(40, 64)):
        ...     lses.append(torch.empty(1, 4, 64))
        ...     outs.append(sotto.attention(q, k[:, part], v[:, part], lse=lses[-1]))
        >>> out, lse = sotto.merge_states(outs, lses)
        >>> torch.allclose(out, sotto.attention(q, k, v), atol=1e-5)
        True
    """
    for name, tensors in (("outs", outs), ("lses", lses)):
        if not isinstance(tensors, Sequence):
            raise TypeError(f"{name}: must be a sequence of tensors, got {type(tensors).__name__}")
        check_tensors(**{f"{name}[{i}]": tensor for i, tensor in enumerate(tensors)})
    if not outs:
        raise RuntimeError("outs: must hold at least one state, got none")
    outs, lses = list(outs), list(lses)
    refuse_backward(outs=outs, lses=lses, output_scale=output_scale)
    arguments = given(out_dtype=out_dtype, output_scale=output_scale, backend=backend)
    out, lse = ops.merge_states.default(outs, lses, **arguments)
    return out, lse
