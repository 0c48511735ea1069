"""The contract between data and model: rows, and the distinct inputs that they share.

Legend: B rows of a batch, U distinct inputs of one modality that are in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

ABSENT = -1


@dataclass
class PairedBatch:
    """Rows of paired data. Each distinct input stands once, however many rows share it.

    Args:
        inputs: Per modality its U distinct inputs, transformed and collated (or already encoded by an
            expert). A modality that no row of the batch has is left out.
        index: Per modality an int64 vector of length B: which of the U inputs is the row's own, -1 where
            the row has none.
        targets: Per task a tensor whose first axis is B.
        ids: The names of the B rows, so that an error can name its row.
        positions: Per modality that the batch has, an int64 vector of length U: the place of each input among all of
            its split, by which it is known again in another batch.
        kinds: By name which rows are of a kind, bool of length B: figures are given of each kind, too.
    """

    inputs: dict[str, Any]
    index: dict[str, Tensor]
    targets: dict[str, Tensor]
    ids: Sequence[str]
    positions: dict[str, Tensor] = field(default_factory=dict)
    kinds: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for modality, index_B in self.index.items():
            if index_B.dtype != torch.int64 or index_B.shape != (len(self.ids),):
                raise ValueError(
                    f"index of {modality!r} must be int64 of shape ({len(self.ids)},), "
                    f"not {index_B.dtype} of shape {tuple(index_B.shape)}"
                )
        if extra := self.inputs.keys() - self.index.keys():
            raise ValueError(f"inputs without an index: {sorted(extra)}")
        for task, target in self.targets.items():
            if len(target) != len(self.ids):
                raise ValueError(f"targets of {task!r} have {len(target)} rows, the batch has {len(self.ids)}")

    def __len__(self) -> int:
        return len(self.ids)

    def present(self, modality: str) -> Tensor:
        """Return a bool vector of length B, true where the row has the modality."""
        return self.index[modality] >= 0

    def without(self, *modalities: str) -> PairedBatch:
        """Return the batch as if no row had these modalities."""
        return replace(
            self,
            inputs={name: value for name, value in self.inputs.items() if name not in modalities},
            positions={name: value for name, value in self.positions.items() if name not in modalities},
            index={
                name: torch.full_like(index_B, ABSENT) if name in modalities else index_B
                for name, index_B in self.index.items()
            },
        )

    def select(self, chosen_B: Tensor) -> PairedBatch:
        """Return some of the rows, over the same inputs: those where a bool vector of length B is true."""
        return replace(
            self,
            index={name: index_B[chosen_B] for name, index_B in self.index.items()},
            targets={task: target[chosen_B] for task, target in self.targets.items()},
            ids=list(compress(self.ids, chosen_B.tolist())),
            kinds={name: of_kind_B[chosen_B] for name, of_kind_B in self.kinds.items()},
        )

    def take(self, rows: Tensor) -> PairedBatch:
        """Return some of the rows by number, without the inputs that none of them has."""
        numbers = rows.tolist()
        some = replace(
            self,
            targets={task: target[rows] for task, target in self.targets.items()},
            ids=[self.ids[number] for number in numbers],
            index={name: index_B[rows] for name, index_B in self.index.items()},
            kinds={name: of_kind_B[rows] for name, of_kind_B in self.kinds.items()},
        )
        return some.keeping({name: some.present(name) for name in some.inputs})

    def keeping(self, chosen: Mapping[str, Tensor]) -> PairedBatch:
        """Return the batch as if only some rows had these modalities, without the inputs that none of them has.

        Args:
            chosen: By modality a bool vector of length B.
        """
        inputs, index, positions = dict(self.inputs), dict(self.index), dict(self.positions)
        for name, chosen_B in chosen.items():
            kept_B = torch.where(chosen_B, index[name], ABSENT)
            used_U, own_B = torch.unique(kept_B, return_inverse=True)
            if len(used_U) and used_U[0] == ABSENT:
                used_U, own_B = used_U[1:], own_B - 1
            index[name] = own_B
            if name not in inputs:
                continue
            of_these = {"inputs": inputs.pop(name), "positions": positions.pop(name, None)}
            if len(used_U):
                inputs[name] = take_inputs(of_these["inputs"], used_U)
                if of_these["positions"] is not None:
                    positions[name] = of_these["positions"][used_U.to(of_these["positions"].device)]
        return replace(self, inputs=inputs, index=index, positions=positions)

    def to(self, *args: Any, **kwargs: Any) -> PairedBatch:
        """Move all tensors, as ``nn.Module.to`` does: a dtype casts only what is floating point."""
        device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)

        def move(value: Any) -> Any:
            is_integer = isinstance(value, Tensor) and not value.is_floating_point()
            return value.to(device=device, dtype=None if is_integer else dtype, non_blocking=non_blocking)

        return self._map(move)

    def pin_memory(self) -> PairedBatch:
        """Pin all tensors, as a DataLoader with ``pin_memory`` asks of a batch of one's own type."""
        return self._map(lambda value: value.pin_memory())

    def _map(self, function: Callable[[Any], Any]) -> PairedBatch:
        def apply(value: Any) -> Any:
            return function(value) if hasattr(value, "pin_memory") and hasattr(value, "to") else value

        return replace(
            self,
            inputs=tree_map(apply, self.inputs),
            index=tree_map(apply, self.index),
            targets=tree_map(apply, self.targets),
            positions=tree_map(apply, self.positions),
            kinds=tree_map(apply, self.kinds),
        )


def take_inputs(inputs: Any, used_U: Tensor) -> Any:
    """Return some of collated inputs.

    Args:
        inputs: Tensors whose first axis is that of the inputs, lists of one item an input, what has a method `take` (by
            numbers) or, for inputs within inputs, `take_nested` (by numbers and this function), or dictionaries of
            these.
        used_U: Their numbers.

    Raises:
        TypeError: They are something else.
    """

    def pick(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[used_U.to(value.device)]
        if isinstance(value, list):
            return [value[number] for number in used_U.tolist()]
        if hasattr(value, "take_nested"):
            return value.take_nested(used_U, take_inputs)
        if hasattr(value, "take"):
            return value.take(used_U)
        raise TypeError(f"collated inputs may be tensors, lists and dictionaries of them, not {type(value).__name__}")

    def is_picked(value: Any) -> bool:
        return isinstance(value, list) or hasattr(value, "take_nested")

    return tree_map(pick, inputs, is_leaf=is_picked)


def gather_rows(values_U: Tensor, index_B: Tensor) -> Tensor:
    """Give each row the value of its own input, zeros where it has none.

    Args:
        values_U: One value for each distinct input, shape (U, ...).
        index_B: int64, the input of each row, -1 where it has none.

    Returns:
        Shape (B, ...). Gradients reach only inputs that some row has.
    """
    absent_B = index_B < 0
    if len(values_U) == 0:
        return values_U.new_zeros((len(index_B), *values_U.shape[1:]))
    rows_B = values_U.index_select(0, index_B.clamp_min(0))
    return rows_B.masked_fill(absent_B.view(-1, *(1,) * (rows_B.dim() - 1)), 0)


def scatter_rows(rows_B: Tensor, index_B: Tensor, num_inputs: int) -> Tensor:
    """Give each distinct input the value of a row that has it: the inverse of ``gather_rows``.

    Args:
        rows_B: Shape (B, ...), equal in all rows that share an input.
        index_B: int64, the input of each row, -1 where it has none.
        num_inputs: U.

    Returns:
        Shape (U, ...), zeros for an input that no row has.
    """
    present_B = index_B >= 0
    values_U = rows_B.new_zeros((num_inputs, *rows_B.shape[1:]))
    return values_U.index_copy(0, *_first_row_of_each_input(rows_B[present_B], index_B[present_B]))


def _first_row_of_each_input(rows_B: Tensor, index_B: Tensor) -> tuple[Tensor, Tensor]:
    # index_copy with a repeated index is not deterministic, so each input is written once
    inputs_U, inverse_B = torch.unique(index_B, return_inverse=True)
    order_B = torch.arange(len(index_B), device=index_B.device)
    first_U = torch.full_like(inputs_U, len(index_B)).scatter_reduce(0, inverse_B, order_B, "amin")
    return inputs_U, rows_B.index_select(0, first_U)
