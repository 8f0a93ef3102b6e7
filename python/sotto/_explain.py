"""explain(): what every backend says to what a call would run."""

import html
from collections.abc import Callable
from typing import Any, NamedTuple

from torch.utils._python_dispatch import TorchDispatchMode

from . import _fake
from ._library import ops


class Answer(NamedTuple):
    """What one backend says to a request."""

    backend: str
    """Its name."""
    priority: int
    """Higher is preferred."""
    chosen: bool
    """Whether it would run the request."""
    reasons: tuple[str, ...]
    """Why not, each with what to do instead; empty: able."""


class Explanation(NamedTuple):
    """What every backend says to a request; prints as a table, in notebooks as HTML."""

    request: str
    """One line."""
    answers: tuple[Answer, ...]
    """Of every backend, highest priority first."""
    text: str
    """The table."""

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(answer.backend)}</td><td>{answer.priority}</td>"
            f"<td>{_verdict(answer)}</td>"
            f"<td>{'<br>'.join(map(html.escape, answer.reasons))}</td></tr>"
            for answer in self.answers
        )
        head = "".join(f"<th>{name}</th>" for name in ("backend", "priority", "", "reasons"))
        return f"<table><caption>{html.escape(self.request)}</caption><tr>{head}</tr>{rows}</table>"


class Explanations(tuple[Explanation, ...]):
    """One for each different request of a call, in order; prints as their tables."""

    def __str__(self) -> str:
        return "\n".join(map(str, self))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return "".join(explanation._repr_html_() for explanation in self)


def explain(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Explanations:
    """Says which backend would run each request of ``function(*args, **kwargs)``, and why not the
    others. Sotto's ops are not run: they return uninitialised tensors.

    Args:
        function: one of this package's, or anything that calls them, such as a model.
        args: its positional arguments.
        kwargs: its other arguments.

    Returns:
        The explanations, in the order of the requests, equal ones once.

    Raises:
        RuntimeError: an argument is wrong whatever the backend.

    Example:
        >>> import torch, sotto
        >>> q = torch.randn(1, 8, 128, 64)
        >>> print(sotto.explain(sotto.sdpa, q, q, q, dropout_p=0.1))  # doctest: +ELLIPSIS
        sdpa by int8qk, attention on cpu: batch 1, len 128/128, heads 8/8, dim 64/64, ...
          ...cpu          10  no      has no dropout (dropout_p > 0): use dropout_p = 0, ...
        <BLANKLINE>
    """
    mode = _Explaining()
    with mode:
        function(*args, **kwargs)
    return Explanations(dict.fromkeys(mode.explanations))


def _verdict(answer: Answer) -> str:
    if answer.chosen:
        return "chosen"
    return "no" if answer.reasons else "able"


class _Explaining(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Asks in place of running."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.explanations: list[Explanation] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is ops.check_attention.default:
            return None  # the attention that follows says the same
        kernel = _fake.KERNELS.get(func)
        if kernel is None:
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        explained = getattr(getattr(ops, f"explain_{name}"), func._overloadname)
        self.explanations.append(_explanation(*explained(*args, **kwargs)))
        return kernel(*args, **kwargs)


def _explanation(
    text: str,
    request: str,
    backends: list[str],
    priorities: list[int],
    chosen: str,
    reasons: list[str],
) -> Explanation:
    answers = tuple(
        Answer(name, priority, name == chosen, tuple(lines.splitlines()))
        for name, priority, lines in zip(backends, priorities, reasons, strict=True)
    )
    return Explanation(request, answers, text)
