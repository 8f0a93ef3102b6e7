"""Arguments that several functions share, and what they mean to the ops."""

from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor


class Rope(NamedTuple):
    """Rotary position embedding of the first ``rotary_dim`` channels.

    A plain tuple ``(cos, sin)`` does as well.
    """

    cos: Tensor
    """float32 ``[positions, rotary_dim / 2]``, or ``[positions, rotary_dim]`` with a factor for
    each channel of a pair."""
    sin: Tensor
    """As ``cos``."""
    interleaved: bool = False
    """Which channels make a pair: ``(2d, 2d + 1)`` (GPT-J, FLUX), or, where False,
    ``(d, d + rotary_dim / 2)`` (Llama)."""
    rotary_dim: int = 0
    """How many channels are rotated; 0: the whole head."""
    positions: Tensor | None = None
    """int32 ``[batch or 1, len]``, or ``[total]`` of packed tensors: a token's row of ``cos`` and
    ``sin``. None: its index in its sequence."""


class Scale(NamedTuple):
    """Factors of an 8-bit tensor (``x = data * scale``), and which elements share one.

    ===========  ==============================  ===================
    granularity  values of ``[batch, len, ..]``  of packed tensors
    ===========  ==============================  ===================
    tensor       ``[1]``                         ``[1]``
    head         ``[batch, heads]``              ``[batch, heads]``
    kv_head      ``[batch, heads_kv]``           ``[batch, heads_kv]``
    block        ``[batch, heads, blocks]``      ``[heads, blocks]``
    token        ``[batch, len, heads]``         ``[total, heads]``
    ===========  ==============================  ===================

    Where a function takes a ``Scale`` a tensor does as well if its shape says which of tensor, head
    or token it is.
    """

    values: Tensor
    """float32, of the shape in the table."""
    granularity: str | None = None
    """``"tensor"``, ``"head"``, ``"kv_head"``, ``"block"`` or ``"token"``; None: by the shape."""
    block: int = 0
    """Tokens that share a factor, for ``"block"``."""
    cu_blocks: Tensor | None = None
    """int32 ``[batch + 1]``, of packed blocks: those of sequence b are ``cu_blocks[b]`` up to
    ``cu_blocks[b + 1]``."""


RopeLike: TypeAlias = Rope | tuple[Tensor, Tensor]
ScaleLike: TypeAlias = Scale | Tensor
Window: TypeAlias = tuple[int, int]


def check_tensors(**tensors: object) -> None:
    """Raises what torch does for an argument that is no tensor."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: must be a Tensor, got {type(tensor).__name__}")


def needs_backward(*tensors: Tensor | None) -> bool:
    """Whether the caller could differentiate what comes out; no backend has a backward."""
    return torch.is_grad_enabled() and any(
        isinstance(tensor, Tensor) and tensor.requires_grad for tensor in tensors
    )


def rope_arguments(rope: RopeLike | None) -> dict[str, Any]:
    return {} if rope is None else as_rope(rope)._asdict()


def as_rope(rope: RopeLike) -> Rope:
    if not isinstance(rope, tuple) or not 2 <= len(rope) <= 5:
        raise TypeError(f"rope: must be a Rope or (cos, sin), got {type(rope).__name__}")
    return Rope(*rope)


def scale_arguments(name: str, scale: ScaleLike | None) -> dict[str, Any]:
    if scale is None:
        return {}
    if not isinstance(scale, Scale):
        check_tensors(**{name: scale})
        return {name: scale}
    return {
        name: scale.values,
        f"{name}_granularity": scale.granularity,
        f"{name}_block": scale.block,
        f"{name}_cu_blocks": scale.cu_blocks,
    }


def mask_arguments(
    is_causal: bool, window: Window | None, attn_mask: Tensor | None
) -> dict[str, Any]:
    """The band of keys that a query sees: ``is_causal`` is top left, ``window`` bottom right."""
    if is_causal and attn_mask is not None:
        raise RuntimeError("attn_mask: must not be set together with is_causal=True")
    mask: dict[str, Any] = {}
    if attn_mask is not None:
        check_tensors(attn_mask=attn_mask)
        mask["attn_mask"] = attn_mask
    if window is not None:
        if not isinstance(window, tuple) or len(window) != 2:
            raise TypeError(f"window: must be (left, right), got {window!r}")
        left, right = window
        mask.update(left=left, right=0 if is_causal else right, bottom_right=True)
    elif is_causal:
        mask["right"] = 0
    return mask


def without_none(**arguments: Any) -> dict[str, Any]:
    """Those that are not None: the ops' defaults stand for the others."""
    return {name: value for name, value in arguments.items() if value is not None}
