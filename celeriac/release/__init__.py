"""Register a model, check it in a process of its own, promote it, roll it back."""

from celeriac.release.checking import check
from celeriac.release.promotion import assign, promote, rollback, unassign
from celeriac.release.registering import format_of, register

__all__ = ["assign", "check", "format_of", "promote", "register", "rollback", "unassign"]
