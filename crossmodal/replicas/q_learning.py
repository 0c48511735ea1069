"""A policy for Homogeneous Learning that is learned: deep Q-learning, as in the paper, and with what was found since.

Mnih et al. 2015 (DQN); van Hasselt et al. 2016 (double, arXiv 1509.06461); Wang et al. 2016 (duelling, arXiv
1511.06581); Schaul et al. 2016 (prioritised replay, arXiv 1511.05952).

Legend: B transitions, K nodes, F features of a node, T transitions in memory.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN = (500, 200)


@dataclass(frozen=True)
class Settings:
    """How is learned. The defaults are the paper's, with what its authors' code adds: 128 transitions after an episode.

    Args:
        gamma: What a reward is worth a round later.
        capacity: Transitions that are remembered.
        batch_size: B.
        lr: Of Adam.
        decay: Of exploration, which begins at 1, by the episode: e^(-decay * episode).
        steps: Of the optimizer after an episode; and a round as many, where `each_round`.
        each_round: Learn after each round, not after the episode.
        per_node: Score each node by its own features and the mean of all, with the same weights for all; else all
            features go into one network.
        double: The network that learns chooses the next action, the one that is behind says what it is worth.
        duelling: What a state is worth apart from what an action adds.
        priority: How much more often is learned what was wrong: a power of the error; 0 for all alike.
        rounds: That rewards are summed over before the rest is estimated.
        behind: Share by which the network that is behind comes after, at each step; 1 for none behind.
    """

    gamma: float = 0.9
    capacity: int = 50_000
    batch_size: int = 16
    lr: float = 1e-3
    decay: float = 0.02
    steps: int = 8
    each_round: bool = False
    per_node: bool = False
    double: bool = False
    duelling: bool = False
    priority: float = 0.0
    rounds: int = 1
    behind: float = 1.0


BETTER = Settings(
    decay=0.05,  # it has learned what it can after some forty episodes
    batch_size=64,
    steps=4,
    each_round=True,
    per_node=True,
    double=True,
    duelling=True,
    priority=0.6,
    rounds=3,
    behind=0.02,
)


class FlatScores(nn.Module):
    """Scores nodes by all features at once, as the paper does.

    Args:
        nodes: K.
        features: F.
    """

    def __init__(self, nodes: int, features: int) -> None:
        super().__init__()
        widths = (nodes * features, *HIDDEN)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(HIDDEN[-1], nodes))

    def forward(self, observed_BKF: Tensor) -> Tensor:
        """Return scores, (B, K)."""
        scores_BK: Tensor = self.layers(observed_BKF.flatten(1))
        return scores_BK


class NodeScores(nn.Module):
    """Scores each node by its features and by the mean of all: what is learned of one node is known of all.

    Args:
        features: F.
        duelling: See `Settings`.
        width: Of the hidden layers.
    """

    def __init__(self, features: int, *, duelling: bool, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(features, width), nn.ReLU())
        self.advantage = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 1))
        self.value = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)) if duelling else None

    def forward(self, observed_BKF: Tensor) -> Tensor:
        """Return scores, (B, K)."""
        nodes_BKD: Tensor = self.embed(observed_BKF)
        mean_BD = nodes_BKD.mean(1)
        all_BKD = mean_BD.unsqueeze(1).expand_as(nodes_BKD)
        scores_BK: Tensor = self.advantage(torch.cat([nodes_BKD, all_BKD], -1)).squeeze(-1)
        if self.value is None:
            return scores_BK
        return self.value(mean_BD) + scores_BK - scores_BK.mean(1, keepdim=True)  # type: ignore[no-any-return]


class QLearning:
    """Learns which node trains next.

    Args:
        nodes: K.
        features: F.
        settings: How.
        seed: Of the networks, of exploration and of what is learned from.
    """

    def __init__(self, nodes: int, features: int, settings: Settings, *, seed: int) -> None:
        self.settings = settings
        self.nodes = nodes
        self.features = features
        self.episode = 0
        self._draw = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self._network, self._behind = self._made(), self._made()
        self._behind.load_state_dict(self._network.state_dict())
        self._optimizer = torch.optim.Adam(self._network.parameters(), lr=settings.lr)
        self._memory: dict[str, Tensor] = {}
        self._waiting: list[dict[str, Tensor]] = []  # whose rewards of the next rounds are not known

    def _made(self) -> nn.Module:
        if self.settings.per_node:
            return NodeScores(self.features, duelling=self.settings.duelling)
        return FlatScores(self.nodes, self.features)

    @property
    def exploration(self) -> float:
        """How likely a node is drawn, in this episode."""
        return math.exp(-self.settings.decay * self.episode)

    def choose(self, observed: Any, *, explores: bool = True) -> int:
        """Return a node: the best, or with exploration perhaps any.

        Args:
            observed: As the environment gives it.
            explores: Whether it may be any.
        """
        if explores and float(torch.rand((), generator=self._draw)) < self.exploration:
            return int(torch.randint(self.nodes, (), generator=self._draw))
        with torch.inference_mode():
            return int(self._network(self._shaped(observed).unsqueeze(0)).argmax())

    def _shaped(self, observed: Any) -> Tensor:
        return torch.as_tensor(observed, dtype=torch.float32).view(self.nodes, self.features)

    def remember(self, observed: Any, node: int, reward: float, then: Any, *, ended: bool, is_over: bool) -> None:
        """Remember a round, and learn where that is done each round.

        Args:
            observed: Before it.
            node: That was chosen.
            reward: Of it.
            then: What is observed after it.
            ended: The goal is reached: there is nothing to come.
            is_over: The episode is, be it at the goal or cut off.
        """
        settings = self.settings
        for one in self._waiting:
            one["reward"] = one["reward"] + one["discount"] * reward
            one["discount"] = one["discount"] * settings.gamma
            one["then_KF"] = self._shaped(then)
        self._waiting.append(
            {
                "observed_KF": self._shaped(observed),
                "node": torch.tensor(node),
                "reward": torch.tensor(float(reward)),
                "discount": torch.tensor(settings.gamma),  # of what is estimated after the rewards that are known
                "then_KF": self._shaped(then),
                "priority": self._memory["priority"].max() if self._memory else torch.tensor(1.0),
            }
        )
        ready = self._waiting if is_over else self._waiting[: len(self._waiting) - settings.rounds + 1]
        self._waiting = [] if is_over else self._waiting[len(ready) :]
        for one in ready:
            whole = {**one, "goes_on": torch.tensor(0.0 if ended else 1.0)}
            self._memory = {
                name: torch.cat([self._memory[name], value.unsqueeze(0)])[-settings.capacity :]
                if self._memory
                else value.unsqueeze(0)
                for name, value in whole.items()
            }
        if settings.each_round:
            self._learn(settings.steps)
        if is_over:
            if not settings.each_round:
                self._learn(settings.steps)
            self.episode += 1

    def _learn(self, steps: int) -> None:
        settings, memory = self.settings, self._memory
        if not memory or len(memory["reward"]) < settings.batch_size:
            return
        for _ in range(steps):
            share_T = memory["priority"].pow(settings.priority)
            share_T = share_T / share_T.sum()
            chosen_B = torch.multinomial(share_T, settings.batch_size, replacement=True, generator=self._draw)
            one = {name: values[chosen_B] for name, values in memory.items()}
            with torch.no_grad():
                behind_BK = self._behind(one["then_KF"])
                best_B = (self._network(one["then_KF"]) if settings.double else behind_BK).argmax(1, keepdim=True)
                rest_B = behind_BK.gather(1, best_B).squeeze(1)
                target_B = one["reward"] + one["discount"] * one["goes_on"] * rest_B
            said_B = self._network(one["observed_KF"]).gather(1, one["node"].unsqueeze(1)).squeeze(1)
            # what is learned from more often counts less each time
            weight_B = (len(share_T) * share_T[chosen_B]).pow(-1.0 if settings.priority else 0.0)
            loss = (weight_B / weight_B.max() * F.smooth_l1_loss(said_B, target_B, reduction="none")).mean()
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            memory["priority"][chosen_B] = (said_B.detach() - target_B).abs() + 1e-3
            with torch.no_grad():
                for behind, ahead in zip(self._behind.parameters(), self._network.parameters(), strict=True):
                    behind.lerp_(ahead, settings.behind)

    def state_dict(self) -> dict[str, Any]:
        """Return all that learning goes on from, to the last bit: networks, optimizer, memory, random state."""
        return {
            "network": self._network.state_dict(),
            "behind": self._behind.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "memory": dict(self._memory),
            "waiting": [dict(one) for one in self._waiting],
            "draw": self._draw.get_state(),
            "episode": self.episode,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._network.load_state_dict(state_dict["network"])
        self._behind.load_state_dict(state_dict["behind"])
        self._optimizer.load_state_dict(state_dict["optimizer"])
        self._memory = {name: value.clone() for name, value in state_dict["memory"].items()}
        self._waiting = [dict(one) for one in state_dict["waiting"]]
        self._draw.set_state(state_dict["draw"])
        self.episode = state_dict["episode"]
