"""Files of rows, as tables that Arrow keeps."""

from datamodules.tables.table import Table, open_table

__all__ = ["Table", "open_table"]
