"""Into the caller's tensors, or into new ones: both forms of an op behind one call."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import _fake
from ._arguments import given, needs_backward


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
    arguments = op_arguments(inputs, **arguments)
    if out is None and lse is None and group_scale is None:
        if out_dtype is not None:
            arguments |= given(out_dtype=out_dtype)
        result: Tensor = functional(*inputs, **arguments)
        return result
    outputs = checked_outputs(out=out, out_dtype=out_dtype, lse=lse, group_scale=group_scale)
    if out is None:
        out = _fake.KERNELS[functional](*inputs, out_dtype=out_dtype)  # what it would return
    outputs["dst"] = out
    into(*inputs, **outputs, **arguments)
    torch.autograd.graph.increment_version(list(outputs.values()))
    return out


def op_arguments(inputs: tuple[Any, ...], **arguments: Any) -> dict[str, Any]:
    """Of what attention and sdpa both take, ``inputs`` excepted."""
    arguments = given(**arguments)
    if needs_backward(*inputs, *arguments.values()):
        arguments["needs_backward"] = True
    return arguments


def checked_outputs(*, out_dtype: torch.dtype | None, **outputs: Any) -> dict[str, Any]:
    """The outputs that are given, once they are such that they may be written."""
    tensors = given(**outputs)
    given(out_dtype=out_dtype)
    for name, tensor in tensors.items():
        if needs_backward(tensor):
            raise RuntimeError(
                f"{name}: must not require gradients: what is written has no backward"
            )
    out = tensors.pop("out", None)
    if out is None:
        return tensors
    if out_dtype is not None and out.dtype != out_dtype:
        raise RuntimeError(f"out: must be {out_dtype}, as out_dtype says, got {out.dtype}")
    return {"dst": out, **tensors}
