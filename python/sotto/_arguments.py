"""Arguments that several functions share, and what they mean to the ops."""

import numbers
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


_INTEGER = (int, numbers.Integral, torch.SymInt), "an integer"
_NUMBER = (float, int, numbers.Real, torch.SymFloat, torch.SymInt), "a number"
_FLAG = (bool, torch.SymBool), "a bool"
_TEXT = (str,), "a str"
_DTYPE = (torch.dtype,), "a torch.dtype"
_TENSOR = (Tensor,), "a Tensor"
# Of the ops' arguments; those that are not here are tensors.
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys(("scale", "softcap", "dropout_p"), _NUMBER),
    **dict.fromkeys(("left", "right", "max_len_q", "max_len_k", "num_splits"), _INTEGER),
    **dict.fromkeys(("heads_kv", "block", "max_tokens", "rotary_dim"), _INTEGER),
    **dict.fromkeys(("fast", "plain_accumulation", "power_of_two", "bottom_right"), _FLAG),
    **dict.fromkeys(("hadamard", "hadamard_k", "hadamard_v", "interleaved"), _FLAG),
    **dict.fromkeys(("recipe", "backend", "granularity"), _TEXT),
    **dict.fromkeys(("dtype", "out_dtype"), _DTYPE),
    **{f"descale_{of}_granularity": _TEXT for of in "qkv"},
    **{f"descale_{of}_block": _INTEGER for of in "qkv"},
}


def given(prefix: str = "", /, **arguments: Any) -> dict[str, Any]:
    """Those that are not None: the others are left to the op's defaults, for each that is given
    costs time. Raises TypeError for one of the wrong kind."""
    arguments = {name: value for name, value in arguments.items() if value is not None}
    for name, value in arguments.items():
        kinds, meaning = _KINDS.get(name, _TENSOR)
        if not isinstance(value, kinds):
            raise TypeError(f"{prefix}{name}: must be {meaning}, got {type(value).__name__}")
    return arguments


def check_given(**arguments: object) -> None:
    """Raises TypeError for an argument that must not be None and is."""
    for name, value in arguments.items():
        if value is None:
            meaning = _KINDS.get(name, _TENSOR)[1]
            raise TypeError(f"{name}: must be {meaning}, got NoneType")


def check_cu_seqlens(**arguments: Tensor | None) -> None:
    for name, tensor in arguments.items():
        if tensor is None:
            continue
        check_tensors(**{name: tensor})
        if tensor.dim() != 1 or tensor.shape[0] < 1 or tensor.dtype != torch.int32:
            raise RuntimeError(f"{name}: must be int32 [batch + 1], got {text_of(tensor)}")


def text_of(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def needs_backward(*arguments: object) -> bool:
    """Whether the caller could differentiate one of them, or a tensor in one of them; no op has a
    backward."""
    return torch.is_grad_enabled() and any(map(_requires_grad, arguments))


def _requires_grad(argument: object) -> bool:
    if isinstance(argument, Tensor):
        return argument.requires_grad
    return isinstance(argument, tuple | list) and any(map(_requires_grad, argument))


def refuse_backward(**arguments: object) -> None:
    for name, argument in arguments.items():
        if needs_backward(argument):
            raise RuntimeError(
                f"{name}: must not require gradients: there is no backward. Call under "
                "torch.no_grad() or detach it"
            )


def rope_arguments(rope: RopeLike | None) -> dict[str, Any]:
    return {} if rope is None else given("rope.", **as_rope(rope)._asdict())


def as_rope(rope: RopeLike) -> Rope:
    if not isinstance(rope, tuple) or not 2 <= len(rope) <= 5:
        raise TypeError(f"rope: must be a Rope or (cos, sin), got {type(rope).__name__}")
    check_tensors(**{"rope.cos": rope[0], "rope.sin": rope[1]})
    return Rope(*rope)


def scale_arguments(name: str, scale: ScaleLike | None) -> dict[str, Any]:
    if scale is None:
        return {}
    if not isinstance(scale, Scale):
        check_tensors(**{name: scale})
        return {name: scale}
    check_tensors(**{name: scale.values})
    given(f"{name}.", **scale._asdict())
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
        if not (
            isinstance(window, tuple)
            and len(window) == 2
            and all(isinstance(side, _INTEGER[0]) for side in window)
        ):
            raise TypeError(f"window: must be (left, right), two integers, got {window!r}")
        left, right = window
        mask.update(left=left, right=0 if is_causal else right, bottom_right=True)
    elif is_causal:
        mask["right"] = 0
    return mask
