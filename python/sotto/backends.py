"""The backends that can run a request, and which of them is to.

A request goes to the backend that it names, else to the activated one, else to that in the
environment variable ``SOTTO_BACKEND``, else to the able one of the highest priority.
``SOTTO_DISABLE=name,name`` takes backends out of the last step.
"""

import builtins
from typing import NamedTuple

from ._library import ops


class Backend(NamedTuple):
    """One implementation of the operations on some kind of device."""

    name: str
    """As functions take it for ``backend``."""
    description: str
    """One line."""
    priority: int
    """Higher is preferred."""
    unusable: tuple[str, ...]
    """Why it runs nothing on this machine; empty: it does."""


def list() -> builtins.list[Backend]:
    """All, highest priority first.

    >>> import sotto
    >>> [backend.name for backend in sotto.backends.list()][-2:]
    ['cpu', 'reference']
    """
    return [
        Backend(name, description, priority, tuple(reasons.splitlines()))
        for name, description, priority, reasons in zip(*ops.list_backends(), strict=True)
    ]


def current() -> str | None:
    """The activated backend, else that in ``SOTTO_BACKEND``, else None: chosen for each request."""
    return ops.current_backend() or None


def activate(name: str) -> None:
    """Sends every request that names no backend to this one, until :func:`restore`.

    Raises RuntimeError for an unknown name, with the known ones.

    >>> import sotto
    >>> sotto.backends.activate("reference")
    >>> sotto.backends.current()
    'reference'
    >>> sotto.backends.restore()
    """
    ops.activate_backend(name)


def restore() -> None:
    """Takes :func:`activate` back."""
    ops.restore_backend()
