"""Hugging Face transformers: importing this module makes "sotto" one of its attention functions.

``model.set_attn_implementation("sotto")`` then chooses it for a whole model, with the default
recipe; :func:`sotto.apply_low_precision_attention` does with more to choose.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from ._model import Settings, config_before, settings_of
from ._sdpa import sdpa


def attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """What transformers' modules call; tensors are ``[batch, heads, len, dim]``, result
    ``[batch, len, heads, dim]``.

    The module's settings are :func:`sotto.apply_low_precision_attention`'s, else the default.
    """
    for unknown in ("position_bias", "cache"):
        if kwargs.get(unknown) is not None:
            raise ValueError(
                f"{unknown}: must be None for attention function 'sotto': leave this model's own "
                "(sotto.remove_low_precision_attention, or model.set_attn_implementation('sdpa'))"
            )
    settings = settings_of(module) or Settings()
    recipe = settings.recipe_of(query, key)
    if recipe is None:
        if is_causal is not None:
            kwargs["is_causal"] = is_causal
        if softcap is not None:
            kwargs["softcap"] = softcap
        if s_aux is not None:
            kwargs["s_aux"] = s_aux
        before = _attention_before(module)
        return before(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    len_q = query.shape[2]
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    # A mask has all that is to be hidden; one query without a mask sees everything.
    is_causal = len_q > 1 and attention_mask is None and is_causal
    if is_causal and key.shape[2] > len_q:  # a static cache's tail is still empty
        key, value = key[:, :, :len_q], value[:, :, :len_q]
    out = sdpa(
        query,
        key,
        value,
        attention_mask,
        dropout,
        is_causal,
        scale=scaling,
        enable_gqa=True,
        recipe=recipe,
        softcap=softcap or 0.0,
        sinks=None if s_aux is None else s_aux.float(),
        backend=settings.backend,
    )
    return out.transpose(1, 2), None


def _attention_before(module: torch.nn.Module) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """Looked up as the module itself does."""
    eager = inspect.unwrap(type(module).forward).__globals__.get("eager_attention_forward")
    name = config_before(module)._attn_implementation
    found: Callable[..., tuple[Tensor, Tensor | None]]
    found = AttentionInterface().get_interface(name, eager)
    return found


AttentionInterface.register("sotto", attention_forward)
AttentionMaskInterface.register("sotto", sdpa_mask)
