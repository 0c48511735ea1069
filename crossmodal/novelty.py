"""Which expert knows an input: a small autoencoder for each tells what is like its training inputs from what is not.

After Remembering Transformer (Y. Sun and others, arXiv 2404.07518), where the reconstruction error of low-rank
autoencoders routes inputs.

Legend: U distinct inputs, D width, K code, M modalities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experts.base import ExpertTokens

MOST_INPUTS = 20_000  # that an autoencoder learns from; more would not change it
STEPS, BATCH, RATE = 400, 128, 3e-3
MOST_CODE = 32
CHECKED_EVERY = 20  # steps
HELD_OUT = 4  # each fourth input says what error is typical
QUANTILE, NORMAL = 0.99, 2.326  # and the number of deviations below which so much of a normal distribution lies
SMALLEST = 0.01  # share of the tokens' size that no deviation falls below
LEAST_ERROR, MOST_BEYOND = 1e-3, 10.0  # what is typical: at least, and at most as so many times the largest seen
LIMIT = 1.0  # above it an input is new


class Autoencoder(nn.Module):
    """Reconstructs an expert's mean tokens; the error says how unlike its training inputs an input is.

    Args:
        width: D.
        code: K, the numbers that a token is squeezed into.
    """

    def __init__(self, width: int, code: int) -> None:
        super().__init__()
        self.width, self.code = width, code
        self.encoder = nn.Sequential(nn.Linear(width, 2 * code), nn.GELU(), nn.Linear(2 * code, code))
        self.decoder = nn.Sequential(nn.Linear(code, 2 * code), nn.GELU(), nn.Linear(2 * code, width))
        self.mean_D: Tensor
        self.scale_D: Tensor
        self.typical: Tensor
        self.register_buffer("mean_D", torch.zeros(width))
        self.register_buffer("scale_D", torch.ones(width))
        self.register_buffer("typical", torch.ones(()))

    @torch.no_grad()
    def errors(self, tokens_UD: Tensor) -> Tensor:
        """Return errors of shape (U,): up to 1 as with 99 % of inputs like those of training, more where it is new."""
        errors_U = self._squares(self._standardized(tokens_UD)) / self.typical
        return errors_U.nan_to_num(torch.inf, torch.inf)

    def _standardized(self, tokens_UD: Tensor) -> Tensor:
        if tokens_UD.shape[-1] != self.width:
            raise ValueError(f"the gate knows tokens of width {self.width}, not {tokens_UD.shape[-1]}")
        standard_UD: Tensor = (tokens_UD.to(self.mean_D.dtype) - self.mean_D) / self.scale_D
        return standard_UD

    def _squares(self, standard_UD: Tensor) -> Tensor:
        squares_UD: Tensor = (self.decoder(self.encoder(standard_UD)) - standard_UD).square()
        return squares_UD.mean(1)


def fit_autoencoder(tokens_UD: Tensor, seed: int = 0) -> Autoencoder:
    """Fit an autoencoder to an expert's mean tokens; the same tokens and seed give the same one.

    Args:
        tokens_UD: Of training inputs; of very many, some are drawn.
        seed: Of the weights that it begins with, and of the order.

    Raises:
        ValueError: There is no token, or a number that is not finite.
    """
    if tokens_UD.dim() != 2 or not len(tokens_UD) or not tokens_UD.isfinite().all():
        raise ValueError(f"a gate needs finite tokens, at least one; found a tensor of shape {tuple(tokens_UD.shape)}")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(tokens_UD), generator=generator)[:MOST_INPUTS]
    tokens_UD = tokens_UD.detach().cpu()[drawn].float()
    held_out = len(tokens_UD) // HELD_OUT
    learned_UD, others_UD = tokens_UD[held_out:], tokens_UD[: held_out or None]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        smaller = min(learned_UD.shape)
        autoencoder = Autoencoder(tokens_UD.shape[1], code=min(MOST_CODE, max(1, smaller // 4)))
    autoencoder.mean_D.copy_(learned_UD.mean(0))
    # what never varied in training counts where it does, but not without end
    size = learned_UD.square().mean().sqrt()
    deviation_D = learned_UD.std(0, correction=0)
    floor = (0.1 * deviation_D.square().mean().sqrt()).clamp_min(SMALLEST * size)
    autoencoder.scale_D.copy_(torch.where(floor > 0, deviation_D.clamp_min(floor), 1))
    _train(autoencoder, autoencoder._standardized(learned_UD), autoencoder._standardized(others_UD), generator)
    autoencoder.typical.copy_(_bound(autoencoder.errors(others_UD).double().clamp_min(LEAST_ERROR)))
    return autoencoder.requires_grad_(False).eval()


def _bound(errors_U: Tensor) -> Tensor:
    """Return what 99 % of errors are below, as far as these few tell: of a handful even the largest says little."""
    quantile = errors_U.quantile(QUANTILE)
    if (freedom := len(errors_U) - 1) < 1:
        return quantile
    # Student's t, as a series: where the next of so many numbers lies whose logarithms are normal
    deviations = NORMAL + (NORMAL**3 + NORMAL) / (4 * freedom)
    deviations += (5 * NORMAL**5 + 16 * NORMAL**3 + 3 * NORMAL) / (96 * freedom**2)
    spread = errors_U.log().std() * (1 + 1 / len(errors_U)) ** 0.5
    bound: Tensor = (errors_U.log().mean() + deviations * spread).exp()
    return bound.minimum(MOST_BEYOND * errors_U.max()).maximum(quantile)


def _train(autoencoder: Autoencoder, learned_UD: Tensor, others_UD: Tensor, generator: torch.Generator) -> None:
    """Train, and keep what reconstructs the held-out tokens best."""
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    best, kept = float("inf"), autoencoder.state_dict()
    for step in range(STEPS):
        if step % CHECKED_EVERY == 0:
            best, kept = _better(autoencoder, others_UD, best, kept)
        batch_UD = learned_UD[torch.randint(len(learned_UD), (min(BATCH, len(learned_UD)),), generator=generator)]
        loss = F.mse_loss(autoencoder.decoder(autoencoder.encoder(batch_UD)), batch_UD)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    autoencoder.load_state_dict(_better(autoencoder, others_UD, best, kept)[1])


@torch.no_grad()
def _better(
    autoencoder: Autoencoder, others_UD: Tensor, best: float, kept: dict[str, Tensor]
) -> tuple[float, dict[str, Tensor]]:
    error = float(autoencoder._squares(others_UD).mean())
    if error < best:
        return error, {name: value.clone() for name, value in autoencoder.state_dict().items()}
    return best, kept


class NoveltyGate(nn.Module):
    """Routes inputs to the modality whose expert knows them.

    Args:
        autoencoders: By modality, each fitted to its expert's mean tokens.
        limit: An input whose error is above it for all is new.

    Example:
        >>> gate = NoveltyGate({"image": fit_autoencoder(days_UD), "thermal": fit_autoencoder(nights_UD)})
        >>> gate.route({"image": image_expert(pixels), "thermal": thermal_expert(pixels)})
        ['image', 'thermal', None]
    """

    def __init__(self, autoencoders: Mapping[str, Autoencoder], *, limit: float = LIMIT) -> None:
        super().__init__()
        self.autoencoders = nn.ModuleDict(autoencoders)
        self.limit = limit

    def errors(self, tokens: Mapping[str, ExpertTokens]) -> Tensor:
        """Return errors of shape (U, M), in the tokens' order: infinite where an expert has no token of an input.

        Args:
            tokens: By modality, of the same U inputs.

        Raises:
            ValueError: There is no gate for a modality.
        """
        if unknown := tokens.keys() - self.autoencoders.keys():
            raise ValueError(f"there is no gate for {min(unknown)!r}; there are {', '.join(self.autoencoders)}")
        return torch.stack([self._errors(modality, of_one) for modality, of_one in tokens.items()], dim=1)

    def _errors(self, modality: str, tokens: ExpertTokens) -> Tensor:
        autoencoder: Autoencoder = self.autoencoders[modality]  # type: ignore[assignment]
        errors_U = autoencoder.errors(tokens.to(torch.float32).mean())
        return errors_U.masked_fill(~tokens.mask_BN.any(1), torch.inf)

    def route(self, tokens: Mapping[str, ExpertTokens]) -> list[str | None]:
        """Return for each input the modality whose expert knows it, or None where it is new to all."""
        return self.choose(self.errors(tokens), list(tokens))

    def choose(self, errors_UM: Tensor, modalities: list[str]) -> list[str | None]:
        """Return for each input the modality of the least error, or None where that is above the limit."""
        least_U, which_U = errors_UM.min(1)
        return [
            modalities[which] if least <= self.limit and math.isfinite(least) else None
            for least, which in zip(least_U.tolist(), which_U.tolist(), strict=True)
        ]
