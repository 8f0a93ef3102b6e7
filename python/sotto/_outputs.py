"""Into the caller's tensors, or into new ones: both forms of an op behind one call."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import _fake


def write_or_return(
    functional: Callable[..., Any],
    into: Callable[..., Any],
    inputs: tuple[Any, ...],
    *,
    out: Tensor | None,
    out_dtype: torch.dtype | None,
    lse: Tensor | None,
    group_scale: Tensor | None,
    **arguments: Any,
) -> Tensor:
    """Calls the op that fits what is to be written, and returns ``out``."""
    if out is None and lse is None and group_scale is None:
        result: Tensor = functional(*inputs, out_dtype=out_dtype, **arguments)[0]
        return result
    if out is None:
        out = _fake.KERNELS[functional](*inputs, out_dtype=out_dtype)[0]  # what it would return
    elif out_dtype is not None and out.dtype != out_dtype:
        raise RuntimeError(f"out: must be {out_dtype}, as out_dtype says, got {out.dtype}")
    into(*inputs, out=out, lse=lse, group_scale=group_scale, **arguments)
    return out
