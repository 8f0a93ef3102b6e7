"""Low-precision attention for PyTorch, on CPUs and on Hopper GPUs.

:func:`sdpa` is a drop-in for ``torch.nn.functional.scaled_dot_product_attention`` that quantises
inside. :func:`attention`, :func:`varlen_attention` and :func:`attention_with_kv_cache` compute on
the dtypes they are given; :func:`quantize`, :func:`channel_mean`, :func:`append_kv` and
:func:`merge_states` are what goes before and after. :func:`explain` says who would run a call, and
why not the others; :mod:`sotto.backends` chooses.
"""

from importlib.metadata import version

from . import backends
from ._arguments import Rope, Scale
from ._attention import attention, attention_with_kv_cache, varlen_attention
from ._explain import Answer, Explanation, Explanations, explain
from ._merge import merge_states
from ._quantize import append_kv, channel_mean, quantize
from ._sdpa import sdpa

__version__ = version("sotto")

__all__ = [
    "Answer",
    "Explanation",
    "Explanations",
    "Rope",
    "Scale",
    "append_kv",
    "attention",
    "attention_with_kv_cache",
    "backends",
    "channel_mean",
    "explain",
    "merge_states",
    "quantize",
    "sdpa",
    "varlen_attention",
]
