"""Legend: B rows, U distinct targets, D width."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.context import ForkServerContext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from crossmodal.alignment import Alignment, Alignments, Contrastive, InfoNCE, Regression, SigLIP
from datamodules.batch import PairedBatch
from experts.base import ExpertTokens

WIDTH = 6
WIDTHS = {"speech": WIDTH, "text": WIDTH, "image": 3}
KINDS = [InfoNCE, SigLIP, Regression]


def tokens_of(vectors: Tensor) -> ExpertTokens:
    """Two tokens whose mean is the vector, and one that is masked."""
    tokens = torch.stack([vectors - 1, vectors + 1, torch.full_like(vectors, 99)], dim=1)
    return ExpertTokens(tokens, torch.tensor([True, True, False]).expand(len(vectors), 3))


def batch_of(speech: list[int], text: list[int], positions: list[int]) -> PairedBatch:
    index = {"speech": torch.tensor(speech), "text": torch.tensor(text)}
    return PairedBatch(
        inputs={},
        index=index,
        targets={},
        ids=[str(row) for row in range(len(speech))],
        positions={"text": torch.tensor(positions)},
    )


def vectors(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


# six rows: one lacks its sound, one its text, two share a text
BATCH = batch_of([0, 1, -1, 2, 3, 4], [0, 1, 0, -1, 1, 2], [40, 41, 42])
TOKENS = {"speech": tokens_of(vectors(5)), "text": tokens_of(vectors(3, seed=1))}
SOUNDS, OWN = vectors(5)[[0, 1, 3, 4]], torch.tensor([0, 1, 1, 2])
TEXTS = vectors(3, seed=1)


def cosines() -> Tensor:
    return F.normalize(SOUNDS, dim=1) @ F.normalize(TEXTS, dim=1).T


def loss(alignment: Alignment) -> float:
    (value,) = alignment(TOKENS, BATCH).values()
    return float(value)


def test_infonce_is_the_mean_of_two_cross_entropies() -> None:
    logits = cosines() / 0.1
    forth = -logits.log_softmax(1)[range(4), OWN].mean()
    shares = logits.T.log_softmax(1)
    back = -torch.stack([shares[0, 0], (shares[1, 1] + shares[1, 2]) / 2, shares[2, 3]]).mean()
    found = loss(InfoNCE(WIDTHS, source="speech", target="text", temperature=0.1))
    assert found == pytest.approx(float(forth + back) / 2, rel=1e-5)


def test_siglip_judges_every_pair() -> None:
    logits = cosines() / 0.1 - 10
    signs = 2.0 * F.one_hot(OWN, 3) - 1
    expected = -F.logsigmoid(signs * logits).sum(1).mean()
    assert loss(SigLIP(WIDTHS, source="speech", target="text")) == pytest.approx(float(expected), rel=1e-5)


def test_regression_is_a_share_of_the_targets_power() -> None:
    expected = (SOUNDS - TEXTS[OWN]).square().sum(1).mean() / TEXTS.square().sum(1).mean()
    assert loss(Regression(WIDTHS, source="speech", target="text")) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_to_align(kind: Callable[..., Alignment]) -> None:
    torch.manual_seed(0)
    alignments = Alignments([kind(WIDTHS, source="speech", target="text")])
    sounds = torch.nn.Parameter(vectors(5))
    optimizer = torch.optim.Adam([sounds, *alignments.parameters()], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        tokens = {"speech": tokens_of(sounds), "text": TOKENS["text"]}
        sum(alignments(tokens, BATCH).values(), torch.tensor(0.0)).backward()
        optimizer.step()
    tokens = {"speech": tokens_of(sounds.detach()), "text": TOKENS["text"]}
    alignments.measure(tokens, BATCH)
    assert alignments.figures()["speech-text/recall@1"] == 1
    assert not alignments.figures()  # it began anew


@pytest.mark.parametrize("temperature", [0.01, 0.011])
def test_the_temperature_is_still_learned_at_its_limit(temperature: float) -> None:
    alignment = InfoNCE(WIDTHS, source="speech", target="text", temperature=temperature).train()
    optimizer = torch.optim.SGD(alignment.parameters(), lr=0.1)
    for sign in (-1, -1, -1, 1, 1):  # beyond the limit, and back
        optimizer.zero_grad()
        (value,) = alignment(TOKENS, BATCH).values()
        assert alignment.scale() <= 100.001
        value.backward()
        assert alignment.log_scale.grad is not None
        assert alignment.log_scale.grad != 0
        alignment.log_scale.grad = torch.tensor(float(sign))
        optimizer.step()
    alignment(TOKENS, BATCH)
    assert alignment.scale() < 100


def test_one_alignment_stands_twice() -> None:
    with pytest.raises(ValueError, match=r"model.alignments: InfoNCE/speech-text stands twice"):
        Alignments(InfoNCE(WIDTHS, source="speech", target="text") for _ in range(2))


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_pairs_has_no_loss(kind: Callable[..., Alignment]) -> None:
    apart = batch_of([0, -1], [-1, 0], [5])
    alignments = Alignments([kind(WIDTHS, source="speech", target="text")])
    assert alignments(TOKENS, apart) == {}
    alignments.measure(TOKENS, apart)
    assert alignments.figures() == {}


@pytest.mark.parametrize("kind", [InfoNCE, SigLIP])
def test_targets_of_earlier_batches_are_candidates_but_never_twins(kind: Callable[..., Alignment]) -> None:
    queued = kind(WIDTHS, source="speech", target="text", queue=4).train()
    plain = loss(kind(WIDTHS, source="speech", target="text"))
    assert loss(queued) == pytest.approx(plain)  # nothing is queued yet
    assert queued.queue_ids_E.tolist() == [40, 41, 42, -1]
    assert loss(queued) == pytest.approx(plain)  # the same three texts: no row is told from its own
    assert queued.queue_ids_E.tolist() == [41, 42, 42, 40]
    queued.queue_ids_E += 100
    assert loss(queued.eval()) == pytest.approx(plain)  # evaluation does without: its ids are another split's
    assert queued.queue_ids_E.tolist() == [141, 142, 142, 140]
    assert loss(queued.train()) > plain
    assert queued.state_dict()["queue_ED"].norm(dim=1).tolist() == pytest.approx([1] * 4)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"source": "sound"}, "there is no expert for 'sound' to align; there are speech, text, image"),
        ({"target": "speech"}, "'speech' cannot be aligned to itself"),
        ({"target": "image"}, "put the expert for 'speech' into experts.adapters.ProjectedExpert with width: 3"),
        ({"temperature": 0.0}, "temperature must be at least 0.01"),
        ({"queue": -1}, "queue at least 0, not -1"),
    ],
)
def test_what_cannot_be_aligned(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        InfoNCE(WIDTHS, **{"source": "speech", "target": "text", **arguments})


Told = tuple[float, list[list[list[float]]]]  # a loss, and its gradients: of sounds, of texts, of all that it learns
DEVICES = 3
# by device which of the four rows that have both it has, and whether the target trains, too
SHARED: list[tuple[type[Contrastive], list[list[int]], bool]] = [
    *((SigLIP, [[0, 1], [], [2, 3]], both) for both in (True, False)),
    (SigLIP, [[0, 2], [1, 3], []], True),
    *((kind, [[0, 1, 2, 3], [], []], both) for kind in (SigLIP, InfoNCE) for both in (True, False)),
    *((kind, [[], [], []], True) for kind in (SigLIP, InfoNCE)),
]


def one_step(kind: type[Contrastive], rows: list[int], *, both_train: bool) -> Told:
    used, own = OWN[rows].unique(return_inverse=True)
    sounds, texts = SOUNDS.clone().requires_grad_(), TEXTS.clone().requires_grad_(both_train)
    if rows:
        tokens = {"speech": tokens_of(sounds[rows]), "text": tokens_of(texts[used])}
        batch = batch_of(list(range(len(rows))), own.tolist(), used.tolist())
    else:  # two sounds without a text
        batch, tokens = batch_of([0, 1], [-1, -1], [0]), {"speech": tokens_of(sounds[:2])}
    alignment = kind(WIDTHS, source="speech", target="text").train()
    with torch.no_grad():
        assert len(alignment(tokens, batch)) == bool(rows)  # a zero would only blur what is measured
    (loss,) = alignment(tokens, batch).values()
    loss.backward()
    return loss.item(), gradients(sounds, texts, alignment)


def gradients(sounds: Tensor, texts: Tensor, alignment: Alignment) -> list[list[list[float]]]:
    learned = torch.stack([one.grad for one in alignment.parameters() if one.grad is not None])
    assert len(learned) == len([*alignment.parameters()])
    return [
        [[]] if sounds.grad is None else sounds.grad.tolist(),
        [[]] if texts.grad is None else texts.grad.tolist(),
        [learned.tolist()],
    ]


def one_rank(rank: int, port: int, results: Any) -> None:
    torch.distributed.init_process_group(
        "gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=DEVICES, timeout=timedelta(seconds=60)
    )
    results.put((rank, [one_step(kind, rows[rank], both_train=both) for kind, rows, both in SHARED]))


@pytest.fixture(scope="module")
def told_devices(processes: ForkServerContext) -> list[tuple[Told, ...]]:
    results = processes.Queue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [processes.Process(target=one_rank, args=(rank, port, results)) for rank in range(DEVICES)]
    for process in started:
        process.start()
    told = [by_case for _, by_case in sorted(results.get(timeout=120) for _ in started)]
    for process in started:
        process.join()
    return list(zip(*told, strict=True))


@pytest.mark.parametrize("number", range(len(SHARED)))
def test_other_devices_have_candidates_too(told_devices: list[tuple[Told, ...]], number: int) -> None:
    """SigLIP sums over all targets: devices' mean is what one device says of all rows; some may have no rows."""
    kind, rows, both_train = SHARED[number]
    whole = kind(WIDTHS, source="speech", target="text")
    sounds, texts = SOUNDS.clone().requires_grad_(), TEXTS.clone().requires_grad_(both_train)
    batch = batch_of([0, 1, 2, 3], OWN.tolist(), [0, 1, 2])
    (expected,) = whole({"speech": tokens_of(sounds), "text": tokens_of(texts)}, batch).values()
    expected.backward()
    losses, found = zip(*told_devices[number], strict=True)
    num_with_rows = len(list(filter(None, rows)))
    assert math.fsum(losses) == pytest.approx(num_with_rows * expected.item(), rel=1e-4)
    assert all(loss == 0 for loss, own in zip(losses, rows, strict=True) if not own)
    for part, wanted in enumerate(gradients(sounds, texts, whole)):
        of_devices = [torch.tensor(one[part]) for one in found if one[part] != [[]]]
        if wanted != [[]] and num_with_rows:
            summed = torch.stack(of_devices).sum(0)
            torch.testing.assert_close(summed, num_with_rows * torch.tensor(wanted), rtol=1e-4, atol=1e-5)
        else:
            assert not any(one.any() for one in of_devices)
