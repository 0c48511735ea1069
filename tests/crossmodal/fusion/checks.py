"""What holds for fusions that are checked against a slow reference.

Legend: B rows, N tokens, L workspace tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.testing import assert_close

from crossmodal.fusion import Fusion
from experts.base import ExpertTokens
from tests.crossmodal.fusion.test_fusion import changed, some_tokens

Make = Callable[[tuple[str, ...]], Fusion]
Row = dict[str, Tensor]


def shaken(fusion: Fusion) -> Fusion:
    """What begins as zero must not hide what depends on it."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return fusion.eval()


def drawn() -> dict[str, ExpertTokens]:
    """Tokens of four modalities, NaN where they are masked. The first row lacks all, the second none."""
    tokens = {**some_tokens(), "labs": some_tokens(seed=1)["question"]}
    for name, rows in {"image": [2, 3], "question": [4], "speech": [3], "labs": [2]}.items():
        tokens[name].mask_BN[rows] = False
    return changed(
        tokens,
        lambda one: (one.tokens_BND.masked_fill(~one.mask_BN.unsqueeze(-1), math.nan).requires_grad_(), one.mask_BN),
    )


def some(tokens: Mapping[str, ExpertTokens], *names: str) -> dict[str, ExpertTokens]:
    return {name: tokens[name] for name in names}


def gradients(fused_BLD: Tensor, fusion: Fusion, tokens: Mapping[str, ExpertTokens]) -> list[Tensor]:
    inputs = [*fusion.parameters(), *(one.tokens_BND for one in tokens.values())]
    return list(torch.autograd.grad((fused_BLD * fused_BLD.detach().cos()).sum(), inputs))


def assert_equals_reference(fusion: Fusion, reference: Callable[[Row], Tensor]) -> None:
    """The reference takes one row, the real tokens (N, D) of what it has, and returns (D,)."""
    fusion = shaken(fusion)
    tokens = some(drawn(), *fusion.modalities, *fusion.joined)
    rows = [
        {name: one.tokens_BND[row][one.mask_BN[row]] for name, one in tokens.items() if one.mask_BN[row].any()}
        for row in range(5)
    ]
    expected_B1D = torch.stack([reference(row) for row in rows]).unsqueeze(1)
    fused_B1D = fusion(tokens)
    assert_close(fused_B1D, expected_B1D, atol=1e-5, rtol=1e-5)
    for found, right in zip(gradients(fused_B1D, fusion, tokens), gradients(expected_B1D, fusion, tokens), strict=True):
        assert right.any()
        assert_close(found, right, atol=1e-5, rtol=1e-5)


def assert_compiles(make: Make) -> None:
    fusion = make(("image", "question"))
    fusion.join("speech")
    fusion = shaken(fusion)
    torch.compiler.reset()
    compiled = torch.compile(fusion, fullgraph=True, backend="aot_eager")
    for names in (("image", "question", "speech"), ("image", "question")):
        tokens = some(drawn(), *names)
        fused_BLD = fusion(tokens)
        assert_close(compiled(tokens), fused_BLD, atol=1e-6, rtol=1e-6)
        if "speech" in names:
            for found, right in zip(
                gradients(compiled(tokens), fusion, tokens), gradients(fused_BLD, fusion, tokens), strict=True
            ):
                assert_close(found, right, atol=1e-5, rtol=1e-5)


def assert_autocasts(make: Make) -> None:
    fusion = shaken(make(("image", "question", "speech")))
    tokens = some(drawn(), *fusion.modalities)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fused_BLD = fusion(tokens)
    exact_BLD = fusion(tokens)
    assert not torch.equal(fused_BLD.float(), exact_BLD)  # it did run in bfloat16
    assert_close(fused_BLD.float(), exact_BLD, atol=0.03, rtol=0.03)
    for found, right in zip(gradients(fused_BLD, fusion, tokens), gradients(exact_BLD, fusion, tokens), strict=True):
        assert (found - right).norm() < 0.05 * right.norm()


def assert_joins_without_a_trace(make: Make) -> None:
    """Without what joined, all is as before, to the bit; its parameters are its own and learn."""
    tokens = drawn()
    fusion = shaken(make(("image", "question")))
    before = dict(fusion.named_parameters())
    old_BLD = fusion(some(tokens, "image", "question"))
    for names in (("speech",), ("speech", "labs")):
        fusion.join(names[-1])
        with torch.no_grad():
            for name in fusion.joined[names[-1]]:
                fusion.get_parameter(name).add_(0.1 * torch.randn_like(fusion.get_parameter(name)))
        is_same = torch.equal(fusion(some(tokens, "image", "question")), old_BLD)
        assert is_same
        new_BLD = fusion(some(tokens, "image", "question", *names))
        has_new_B = torch.stack([tokens[name].mask_BN.any(1) for name in names]).any(0)
        moved_B = (new_BLD - old_BLD).abs().amax((1, 2)) > 1e-4
        assert torch.equal(moved_B, has_new_B)
    now = dict(fusion.named_parameters())
    assert before.keys() | fusion.joined["speech"] | fusion.joined["labs"] == now.keys()
    assert before.keys().isdisjoint(fusion.joined["speech"] | fusion.joined["labs"])
    assert all(gradient.any() for gradient in gradients(new_BLD, fusion, some(tokens, *fusion.modalities, *names)))


def assert_one_that_joined_can_go(make: Make) -> None:
    """What speech leaves behind is what there is if it never joined, also for labs, which joined after it."""
    fusion, without = make(("image", "question")), make(("image", "question"))
    for name in ("speech", "labs"):
        fusion.join(name)
    without.join("labs")
    shaken(fusion)
    kept = {name: value for name, value in fusion.state_dict().items() if name not in fusion.joined["speech"]}
    without.load_state_dict(kept)
    tokens = some(drawn(), "image", "question", "labs")
    is_same = torch.equal(without.eval()(tokens), fusion(tokens))
    assert is_same


def assert_imitates(make: Make, like: str) -> None:
    """A row is read alike whether it has the newcomer or, of the same tokens, the one that it is like."""
    fusion = make(("image", "question"))
    for name in ("speech", "labs"):
        fusion.join(name)
    shaken(fusion)
    tokens = some(drawn(), "image", "question", "speech")
    lacks = ExpertTokens(tokens[like].tokens_BND, torch.zeros_like(tokens[like].mask_BN))
    instead = {**tokens, like: lacks, "labs": tokens[like]}
    has_B = tokens[like].mask_BN.any(1)
    assert (fusion(instead) - fusion(tokens))[has_B].abs().amax((1, 2)).min() > 1e-3
    fusion.imitate("labs", like)
    assert_close(fusion(instead), fusion(tokens), atol=1e-5, rtol=1e-5)
