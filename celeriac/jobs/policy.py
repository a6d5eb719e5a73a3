"""What happens to a chunk that raised: pure decisions."""

from __future__ import annotations

from celeriac import errors
from celeriac.jobs.slices import MOST_ALONE

_LASTING = (
    errors.DatasetError, errors.ModelCorrupt, errors.UntrustedModel, errors.RuntimeMissing,
    errors.RequestError, errors.ConfigError, errors.JobFailed, errors.JobNotFound,
)
_OF_ALL_CHUNKS = (errors.StorageError, errors.RegistryError)
"""What may pass, and spares no chunk while it lasts."""

SLICE_BYTES = 4_000_000
SLICE_ROWS = (1_024, 32_768)
"""At least and at most, as long as memory is not short."""
LEAST_SLICE_ROWS = 2 * MOST_ALONE
"""Pieces of a chunk have so many, too: more than may fail alone before it is not the rows."""


def ends_job(error: Exception, attempt: int, max_attempts: int) -> bool:
    """True for what no other chunk would be spared: a changed file, a damaged model.

    An output that cannot be written (a full disk, say) or a registry that is away may heal, so it
    ends the job at the last attempt only. A file that cannot be read costs its own chunks: it is
    one of many, or comes back.
    """
    if isinstance(error, _LASTING):
        return not isinstance(error, errors.UnreadableFile)
    return isinstance(error, _OF_ALL_CHUNKS) and attempt >= max_attempts


def slice_rows(short: int, row_bytes: int, rows: int = 0) -> int:
    """Rows that the model is given at once, after ``short`` attempts that lacked memory.

    As many as stay in a processor's cache: large enough for whole-array speed (a forest of 30 trees
    needs a third more time with 4,096 rows than with 20,000), small enough for memory, and for a
    cancellation to be noticed. An eighth after each attempt that lacked memory. ``rows``: so many
    there are; a quarter more than that at once is better than a small rest.
    """
    fewest, most = SLICE_ROWS
    wanted = min(most, max(fewest, SLICE_BYTES // max(1, row_bytes)))
    if not short:
        return rows if wanted < rows <= wanted + wanted // 4 else wanted
    return max(wanted >> 3 * min(short, 8), LEAST_SLICE_ROWS)


def retry_delay_s(attempt: int) -> float:
    """Seconds until the attempt after ``attempt``, which failed by something that may heal."""
    return float(min(2**attempt, 60))


def reason(error: Exception, chunk: int, attempt: int, max_attempts: int) -> str:
    """Why a chunk failed, for its job's status."""
    text = error.message if isinstance(error, errors.CeleriacError) else repr(error)
    return f"chunk {chunk} failed at attempt {attempt} of {max_attempts}: {text}"[:2_000]
