from __future__ import annotations

from crossmodal.subsets import few_subsets, subsets


def test_all_subsets_come_once_small_ones_first() -> None:
    found = list(subsets("abc"))
    assert len(found) == len(set(found)) == 8
    assert [len(some) for some in found] == [0, 1, 1, 1, 2, 2, 2, 3]
    assert list(subsets("")) == [frozenset()]


def test_of_few_modalities_all_and_of_many_each_alone_and_all_but_each() -> None:
    assert few_subsets("ab") == [frozenset("a"), frozenset("b"), frozenset("ab")]
    assert len(few_subsets("abc")) == 7
    found = few_subsets("abcde")
    assert len(found) == 11
    assert frozenset("a") in found
    assert frozenset("abcd") in found
    assert frozenset("ab") not in found
    assert found[-1] == frozenset("abcde")
    assert len(few_subsets("abcde", few=5)) == 31
