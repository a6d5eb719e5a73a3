"""What happens to a chunk that raised: pure decisions."""

from __future__ import annotations

from celeriac import errors

_LASTING = (
    errors.DatasetError, errors.RegistryError, errors.RequestError, errors.ConfigError,
    errors.JobFailed, errors.JobNotFound,
)


def ends_job(error: Exception) -> bool:
    """True for what no other chunk would be spared: a changed file, a damaged model."""
    return isinstance(error, _LASTING)


def retry_delay_s(attempt: int) -> float:
    """Seconds until the attempt after ``attempt``, which failed by something that may heal."""
    return float(min(2**attempt, 60))


def reason(error: Exception, chunk: int, attempt: int, max_attempts: int) -> str:
    """Why a chunk failed, for its job's status."""
    text = error.message if isinstance(error, errors.CeleriacError) else repr(error)
    return f"chunk {chunk} failed at attempt {attempt} of {max_attempts}: {text}"[:2_000]
