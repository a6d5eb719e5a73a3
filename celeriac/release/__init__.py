"""Register a model, check it in a process of its own, promote it, roll it back."""

from celeriac.release.checking import check
from celeriac.release.promotion import promote, rollback
from celeriac.release.registering import format_of, register

__all__ = ["check", "format_of", "promote", "register", "rollback"]
