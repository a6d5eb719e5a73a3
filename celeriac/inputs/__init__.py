"""From items and tables to what a model takes: decoded, checked by the schema, whole arrays.

One bad item or row never spoils the others: it gets an error of its own, and the rest goes on.
pandas, pyarrow and numpy are imported only where a schema needs them.
"""

from __future__ import annotations

from celeriac.inputs.collated import ARRAYS, Collated, pick, take
from celeriac.inputs.items import Limits, collate
from celeriac.inputs.tables import IMAGE_COLUMN, collate_table, columns_needed

__all__ = [
    "ARRAYS", "IMAGE_COLUMN", "Collated", "Limits", "collate", "collate_table", "columns_needed",
    "pick", "take",
]
