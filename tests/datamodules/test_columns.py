"""Cells as numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.columns import coded
from datamodules.tables import Table

KINDS = {
    pa.string(): st.sampled_from(["a", "b", ""]),
    pa.dictionary(pa.int8(), pa.string()): st.sampled_from(["a", "b", ""]),
    pa.float64(): st.sampled_from([0.5, -0.0, 0.0, math.nan, math.inf]),
    pa.bool_(): st.booleans(),
    pa.list_(pa.int64()): st.lists(st.none() | st.integers(0, 1), max_size=2),
}


def is_nothing(cell: Any) -> bool:
    return cell is None or cell != cell


@pytest.mark.parametrize("kind", KINDS, ids=str)
@given(data=st.data())
def test_a_code_stands_for_the_cell(data: st.DataObject, kind: pa.DataType) -> None:
    parts = data.draw(st.lists(st.lists(st.none() | KINDS[kind]), max_size=3))
    table = Table("rows.parquet", pa.table({"kind": pa.chunked_array([pa.array(part, kind) for part in parts], kind)}))
    rows = np.array(data.draw(st.lists(st.integers(0, len(table) - 1))) if len(table) else [], np.int64)
    codes_R, cells = coded(table, "kind", rows)
    wanted = [table.cell("kind", int(row)) for row in rows]
    assert [code == -1 for code in codes_R] == [is_nothing(cell) for cell in wanted]
    found = [list(cells[code]) if isinstance(cells[code], tuple) else cells[code] for code in codes_R if code >= 0]
    assert found == [cell for cell in wanted if not is_nothing(cell)]
    assert len(set(cells)) == len(cells)
