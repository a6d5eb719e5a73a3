"""What happens to a chunk that raised: pure decisions."""

from __future__ import annotations

from celeriac import errors

MAX_ATTEMPTS = 3
_LASTING = (
    errors.DatasetError, errors.RegistryError, errors.RequestError, errors.ConfigError,
    errors.JobFailed, errors.JobNotFound,
)


def retry_delay_s(error: Exception, attempt: int) -> float | None:
    """Seconds until the next attempt; None if there is none.

    A changed file or a damaged model will be no better in a moment; other errors may be.
    """
    if isinstance(error, _LASTING) or attempt >= MAX_ATTEMPTS:
        return None
    return float(2**attempt)


def reason(error: Exception, chunk: int, attempt: int) -> str:
    """Why the job fails, for its status."""
    text = error.message if isinstance(error, errors.CeleriacError) else repr(error)
    return f"chunk {chunk} failed at attempt {attempt} of {MAX_ATTEMPTS}: {text}"[:2_000]
