"""Legend: Q queries, C candidates, D width."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from crossmodal.retrieval import Retrieval, ranks


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**31))
def test_ranks_are_those_of_sorting(num_queries: int, num_ids: int, chunk: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    ids_C = torch.cat([torch.arange(num_ids), torch.randint(num_ids, (3,), generator=generator)])
    ids_Q = torch.randint(num_ids, (num_queries,), generator=generator)
    queries, candidates = (torch.randn(count, 3, generator=generator) for count in (num_queries, len(ids_C)))
    found = ranks(queries, candidates, ids_Q, ids_C, chunk=chunk)
    for query, id_, rank in zip(queries, ids_Q, found, strict=True):
        order = torch.cosine_similarity(query, candidates).argsort(descending=True)
        others = [place for place, number in enumerate(order) if ids_C[number] == id_]
        assert rank == others[0] + 1


def test_what_is_the_same_for_all_finds_nothing() -> None:
    same = torch.ones(4, 3)
    assert ranks(same, same, torch.arange(4), torch.arange(4)).tolist() == [4, 4, 4, 4]


def test_what_is_no_number_finds_nothing() -> None:
    queries = torch.tensor([[torch.nan, 0.0], [0.0, 1.0]])
    assert ranks(queries, torch.eye(2), torch.arange(2), torch.arange(2)).tolist() == [2, 1]


def test_figures() -> None:
    """Three sounds of two texts: the last sound is nearer to the other text."""
    metric = Retrieval("speech", "text")
    texts = torch.eye(2)
    metric.update(torch.tensor([[1.0, 0.1], [0.1, 1.0]]), texts, torch.tensor([7, 3]))
    metric.update(torch.tensor([[0.1, 1.0]]), texts[:1], torch.tensor([7]))
    figures = {name: round(value.item(), 4) for name, value in metric.compute().items()}
    assert figures == {
        "speech-text/recall@1": round(2 / 3, 4),
        "speech-text/recall@5": 1,
        "speech-text/recall@10": 1,
        "speech-text/median_rank": 1,
        "text-speech/recall@1": 0.5,  # the second text's own sound ties with the wrong one
        "text-speech/recall@5": 1,
        "text-speech/recall@10": 1,
        "text-speech/median_rank": 1,
    }
