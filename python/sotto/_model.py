"""apply_low_precision_attention(): a model's attention by this package, module by module.

Nothing global changes. A module that looks its attention up among transformers' functions gets a
configuration of its own that names ours; one that calls ``scaled_dot_product_attention`` gets a
forward within which, in its thread, that call is ours.
"""

import copy
import inspect
from collections.abc import Mapping
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from ._library import ops
from ._sdpa import sdpa

_SETTINGS, _CONFIG_BEFORE = "_sotto_settings", "_sotto_config_before"


class Settings(NamedTuple):
    """How one module attends."""

    recipe: str = "int8qk"
    """Of calls with several queries."""
    decode: str | None = "exact"
    """Of calls with one query and several keys; None: what the module did before."""
    backend: str | None = None
    """None: the choice of :mod:`sotto.backends`."""

    def recipe_of(self, query: torch.Tensor, key: torch.Tensor) -> str | None:
        """Which recipe a call runs by, tensors being ``[..., len, dim]``."""
        return self.decode if query.shape[-2] == 1 and key.shape[-2] > 1 else self.recipe


class Site(NamedTuple):
    """A module that computes attention."""

    name: str
    """In the model."""
    module: str
    """Its class."""
    recipe: str | None
    """By which it computes now; None: it was not replaced."""
    reason: str
    """Why not; empty: it was."""


class Sites(tuple[Site, ...]):
    """All of a model, in its order; prints as a table."""

    def __str__(self) -> str:
        replaced = sum(site.recipe is not None for site in self)
        width = max((len(site.name) for site in self), default=0)
        lines = [f"{replaced} of {len(self)} attention modules are low-precision:"]
        for site in self:
            state = site.recipe or f"unchanged: {site.reason}"
            lines.append(f"  {site.name:{width}}  {site.module}  {state}")
        return "\n".join(lines)

    __repr__ = __str__


def apply_low_precision_attention(
    model: nn.Module,
    backend: str | None = None,
    recipe: str = "int8qk",
    hadamard: str | None = None,
    skip_first: int = 0,
    skip_last: int = 0,
    layers: Mapping[int | str, str | None] | None = None,
    *,
    decode: str | None = "exact",
) -> Sites:
    """Makes the attention of a model low-precision, in place, until
    :func:`remove_low_precision_attention`.

    Replaced are modules of Hugging Face transformers that look up their attention function, and
    modules whose class calls ``torch.nn.functional.scaled_dot_product_attention``. Other models,
    and other threads, are as before. Apply it before ``torch.compile``.

    Args:
        model: it, or any part of it.
        backend: its name; None: the choice of :mod:`sotto.backends`.
        recipe: as of :func:`sotto.sdpa`, for calls with several queries: prefill, encoders.
        hadamard: ``"none"``, ``"qk"``, ``"qkv"`` or ``"v_only"`` in place of the recipe's own.
        skip_first: so many of the modules, the first ones, are left alone.
        skip_last: the same of the last.
        layers: a recipe for single modules, by index (in the model's order) or name, before all
            else; None leaves one alone.
        decode: recipe for calls with one query, which would quantise a whole cache to use it once;
            None: what the module did before.

    Returns:
        What was replaced, what not, and why.

    Raises:
        TypeError: model is no module.
        ValueError: an argument is wrong, or nothing in the model can be replaced.
        RuntimeError: the model is compiled, or has it applied already.

    Example:
        >>> import torch, sotto
        >>> class Attention(torch.nn.Module):
        ...     def forward(self, x):
        ...         return torch.nn.functional.scaled_dot_product_attention(x, x, x)
        >>> model = torch.nn.Sequential(Attention(), Attention())
        >>> sotto.apply_low_precision_attention(model, layers={1: "high"})
        2 of 2 attention modules are low-precision:
          0  Attention  int8qk
          1  Attention  high
        >>> out = model(torch.randn(1, 4, 64, 32))
        >>> sotto.remove_low_precision_attention(model)
    """
    _check_model(model)
    if any(settings_of(module) for module in model.modules()):
        raise RuntimeError(
            "model: has low-precision attention already: "
            "call sotto.remove_low_precision_attention(model) first"
        )
    for name, count in (("skip_first", skip_first), ("skip_last", skip_last)):
        if not isinstance(count, int) or count < 0:
            raise ValueError(f"{name}: must be a count of at least 0, got {count!r}")
    if hadamard is not None:
        recipe = f"{recipe}+hadamard={hadamard}"
    layers = layers or {}
    _check_recipe("recipe", recipe, backend)
    _check_recipe("decode", decode, backend)
    for key, text in layers.items():
        _check_recipe(f"layers[{key!r}]", text, backend)

    found = _find(model)
    able = [name for name, reason in found.items() if not reason]
    if not able:
        reasons = "".join(f"\n  {name}: {reason}" for name, reason in found.items())
        raise ValueError(
            "model: has no module that can be replaced: none looks up transformers' attention "
            f"functions or calls scaled_dot_product_attention{reasons}"
        )
    chosen: dict[str, str | None] = {
        name: recipe if skip_first <= i < len(able) - skip_last else None
        for i, name in enumerate(able)
    }
    for key, text in layers.items():
        chosen[_name_of(key, able)] = text

    sites = []
    for name, reason in found.items():
        module = model.get_submodule(name)
        text = chosen.get(name)
        if text is not None:
            _replace(module, Settings(text, decode, backend))
        elif not reason:
            reason = "skipped by layers" if name in _names(layers, able) else "skipped"
        sites.append(Site(name, type(module).__name__, text, reason))
    return Sites(sites)


def remove_low_precision_attention(model: nn.Module) -> None:
    """Undoes :func:`apply_low_precision_attention`.

    Args:
        model: what it was applied to, or any part of it.

    Raises:
        TypeError: model is no module.
        RuntimeError: no module of the model has it applied, or the model is compiled.

    Example:
        >>> import torch, sotto
        >>> class Attention(torch.nn.Module):
        ...     def forward(self, x):
        ...         return torch.nn.functional.scaled_dot_product_attention(x, x, x)
        >>> model, x = Attention(), torch.randn(1, 4, 64, 32)
        >>> exact = model(x)
        >>> sites = sotto.apply_low_precision_attention(model)
        >>> sotto.remove_low_precision_attention(model)
        >>> torch.equal(model(x), exact)
        True
    """
    _check_model(model)
    modules = [module for module in model.modules() if settings_of(module)]
    if not modules:
        raise RuntimeError("model: has no low-precision attention to remove")
    for module in modules:
        del module.__dict__[_SETTINGS]
        if _CONFIG_BEFORE in module.__dict__:
            module.config = module.__dict__.pop(_CONFIG_BEFORE)
            continue
        before = module.__dict__.pop("forward").forward
        if module.forward != before:  # somebody else had put it there
            module.__dict__["forward"] = before


def settings_of(module: nn.Module) -> Settings | None:
    return module.__dict__.get(_SETTINGS)


def config_before(module: nn.Module) -> Any:
    """Of a module of transformers: its configuration before it was replaced."""
    return module.__dict__[_CONFIG_BEFORE]


def _check_model(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: must be a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, torch._dynamo.OptimizedModule) or any(
        module._compiled_call_impl is not None for module in model.modules()
    ):
        raise RuntimeError("model: is compiled: apply to or remove from the model before compiling")


def _check_recipe(argument: str, recipe: str | None, backend: str | None) -> None:
    if recipe is None:
        return
    if not isinstance(recipe, str):
        raise TypeError(f"{argument}: must be a str, got {type(recipe).__name__}")
    row = torch.zeros(1, 1, 1, 16)
    try:
        ops.explain_sdpa.default(row, row, row, recipe=recipe, backend=backend)
    except RuntimeError as error:
        raise ValueError(str(error).replace("recipe:", f"{argument}:", 1)) from None


def _find(model: nn.Module) -> dict[str, str]:
    """The attention modules' names, and why each cannot be replaced; empty: it can."""
    found: dict[str, str] = {}
    others = "computes attention in some other way"
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            found[name] = "torch.nn.MultiheadAttention computes inside of torch"
        elif _is_of_transformers(module):
            found[name] = _why_not_transformers(module.config._attn_implementation)
        elif _calls_torchs_attention(type(module)):
            found[name] = ""
        elif type(module).__name__.endswith("Attention"):
            found[name] = others
    # What only holds a module that was found is none itself.
    return {
        name: reason
        for name, reason in found.items()
        if reason != others or not any(inner.startswith(f"{name}.") for inner in found)
    }


def _why_not_transformers(implementation: str) -> str:
    """The model makes masks as its own implementation wants them."""
    if implementation in ("sdpa", "eager"):
        return ""
    return f"its attention is '{implementation}': call model.set_attn_implementation('sdpa') first"


def _is_of_transformers(module: nn.Module) -> bool:
    """Whether it looks its attention function up by a name in its configuration."""
    forward = inspect.unwrap(type(module).forward)
    return _uses(forward.__code__, "ALL_ATTENTION_FUNCTIONS") and hasattr(module, "config")


def _calls_torchs_attention(kind: type[nn.Module]) -> bool:
    """Whether a method of the class does."""
    bases = kind.__mro__[: kind.__mro__.index(nn.Module)]
    methods = (value for base in bases for value in vars(base).values() if callable(value))
    return any(
        _uses(method.__code__, "scaled_dot_product_attention")
        for method in map(inspect.unwrap, methods)
        if isinstance(method, FunctionType)
    )


def _uses(code: CodeType, name: str) -> bool:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return name in code.co_names or any(_uses(one, name) for one in inner)


def _name_of(key: int | str, able: list[str]) -> str:
    if isinstance(key, str) and key in able:
        return key
    if isinstance(key, int) and -len(able) <= key < len(able):
        return able[key]
    raise ValueError(
        f"layers: must name one of {len(able)} modules ({', '.join(able)}), got {key!r}"
    )


def _names(layers: Mapping[int | str, str | None], able: list[str]) -> set[str]:
    return {_name_of(key, able) for key in layers}


def _replace(module: nn.Module, settings: Settings) -> None:
    module.__dict__[_SETTINGS] = settings
    if _is_of_transformers(module):
        from . import transformers  # noqa: F401  registers the name

        module.__dict__[_CONFIG_BEFORE] = module.config
        config: Any = copy.copy(module.config)  # others share it
        config._attn_implementation_internal = "sotto"
        module.config = config
    else:
        module.__dict__["forward"] = _Forward(module)


class _Forward:
    """In place of a module's forward."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.forward = module.forward  # the class's, or what somebody else has put there

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        settings = settings_of(self.module)
        assert settings is not None
        with _Replacing(settings):
            return self.forward(*args, **kwargs)


class _Replacing(TorchFunctionMode):
    """Within it, and in its thread alone, torch's scaled_dot_product_attention is ours."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not scaled_dot_product_attention:
            return func(*args, **kwargs)
        return _attend(self.settings, *args, **kwargs)


def _attend(
    settings: Settings, query: torch.Tensor, key: torch.Tensor, *args: Any, **kwargs: Any
) -> torch.Tensor:
    recipe = settings.recipe_of(query, key)
    if recipe is None:
        return scaled_dot_product_attention(query, key, *args, **kwargs)
    return sdpa(query, key, *args, **kwargs, recipe=recipe, backend=settings.backend)
