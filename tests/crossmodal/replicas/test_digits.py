from __future__ import annotations

import numpy as np
import pytest
import torch

from crossmodal.replicas.digits import DigitLearner, DigitNetwork
from crossmodal.replicas.partition import main_class


@pytest.fixture(scope="module")
def learner() -> DigitLearner:
    """Pictures of ten kinds, each with a patch at its own place."""
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 60)
    images = draw.integers(0, 60, (600, 28, 28)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 4)
        image[8 * row + 2 : 8 * row + 8, 7 * column : 7 * column + 6] = 250
    nodes = main_class(labels[::2], main=20, others=10)
    return DigitLearner(images[::2], labels[::2], nodes, (images[1::2], labels[1::2]), epochs=2)


def test_nodes_teach_what_they_have(learner: DigitLearner) -> None:
    state = learner.begin(0)
    before = learner.accuracy(state)
    for number in range(20):
        state = learner.train(state, number % 10, number)
    assert before < 0.3
    assert learner.accuracy(state) > 0.9
    assert learner.right(state).shape == (300,)
    told = learner.accuracies(learner.train(learner.begin(0), 3, 0))
    assert np.argmax(told) == 3  # it has seen little else
    assert np.mean(told) == pytest.approx(learner.accuracy(learner.train(learner.begin(0), 3, 0)), abs=0.02)


def test_what_comes_of_it_depends_on_state_node_and_seed_alone(learner: DigitLearner) -> None:
    state = learner.begin(3)
    kept = {name: value.clone() for name, value in state.items()}
    first = learner.train(state, 2, 5)
    learner.train(first, 4, 9)
    torch.manual_seed(1)
    again = learner.train(state, 2, 5)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(state[name], kept[name]) for name in state)  # what was given is as it was
    for node, seed in ((3, 5), (2, 6)):
        other = learner.train(state, node, seed)
        assert not all(torch.equal(first[name], other[name]) for name in first)
    assert not torch.equal(learner.begin(3)["out.weight"], learner.begin(4)["out.weight"])


def test_the_network_is_the_paper_s() -> None:
    shapes = {name: tuple(value.shape) for name, value in DigitNetwork().named_parameters() if name.endswith("weight")}
    assert shapes == {
        "first.weight": (20, 1, 5, 5),
        "second.weight": (50, 20, 5, 5),
        "dense.weight": (500, 800),
        "out.weight": (10, 500),
    }


def test_nodes_side_by_side_learn_what_each_would_alone(learner: DigitLearner) -> None:
    states = [learner.begin(number) for number in range(3)]
    alone = [learner.train(state, number, number + 5) for number, state in enumerate(states)]
    together = learner.train_together(states, range(3), range(5, 8))
    for one, other in zip(alone, together, strict=True):
        # Adam makes of a difference by rounding, where a gradient is nearly nothing, one of a step
        torch.testing.assert_close(dict(one), dict(other), atol=2e-3, rtol=0.0)
