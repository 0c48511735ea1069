from __future__ import annotations

from pathlib import Path

from crossmodal.media import MediaLog
from crossmodal.report.replicas import replicas
from crossmodal.run_folder import RunFolder

NODES = ["node 0", "node 1", "node 2"]


def test_one_model_has_no_replicas(tmp_path: Path) -> None:
    assert replicas(RunFolder(tmp_path)) is None


def test_the_last_of_each_picture_is_shown(tmp_path: Path) -> None:
    log = MediaLog(tmp_path)
    titles = {"row_title": "node", "column_title": "rows of"}
    log.add(
        *("replicas/partition", "matrix"),
        step=0,
        epoch=0,
        rows=NODES,
        columns=["yes", "no"],
        values=[[1, 2], [3, 4], [0, 9]],
        **titles,
    )
    weights = [[0.6, 0.4, 0.0], [0.4, 0.3, 0.3], [0.0, 0.3, 0.7]]
    log.add("replicas/topology", "matrix", step=0, epoch=0, rows=NODES, columns=NODES, values=weights, **titles)
    for rounds in (1, 2):
        log.add(
            *("replicas/path", "matrix"),
            step=rounds,
            epoch=rounds,
            rows=NODES,
            columns=[str(number) for number in range(rounds)],
            values=[[1] * rounds] * 3,
            **titles,
        )
    found = replicas(RunFolder(tmp_path))
    assert found is not None
    partition, path, graph = found.plots
    assert partition.rows[1] == ["node 1", "3", "4"]
    assert path.header == ["node \\ rows of", "0", "1"]
    assert graph.alt == "A graph of 3 nodes and 2 edges."
    assert graph.rows == [["node 1, node 0", "0.400"], ["node 2, node 1", "0.300"]]
