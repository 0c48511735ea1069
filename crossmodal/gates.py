"""The novelty gates of a run, in its folder: `gates/MODALITY.safetensors`, each made for one expert.

Legend: U inputs, D width.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from crossmodal.encoder import encode_in_batches
from crossmodal.encoding import Encoded, StoredReader, store_tokens
from crossmodal.module import CrossModalModule
from crossmodal.novelty import MOST_INPUTS, Autoencoder, fit_autoencoder
from crossmodal.run_folder import RunFolder
from crossmodal.whole_files import temporary_name
from datamodules.paired import PairedDataModule, Split
from datamodules.sources import Reader
from experts.base import Expert

MOST_ENCODED = 2_000  # inputs whose tokens are in no store
VERSION = "1"  # of the file's layout


def write_gate(path: Path, autoencoder: Autoencoder, expert: Expert) -> None:
    """Write a gate, whole or not at all.

    Args:
        path: Of the file.
        autoencoder: Fitted to the expert's tokens.
        expert: That it goes with.
    """
    about = {"version": VERSION, "expert": expert.identity(), "label": expert.label()}
    path.parent.mkdir(exist_ok=True)
    temporary = temporary_name(path.parent)
    try:
        with temporary.open("wb") as file:
            # one text: several would stand in another order each time
            file.write(save(autoencoder.state_dict(), {"gate": json.dumps(about)}))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_gate(path: Path, expert: Expert) -> Autoencoder:
    """Read an expert's gate.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It cannot be read, or was made for another expert.
    """
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["gate"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
        autoencoder = Autoencoder(len(state["mean_D"]), code=len(state["encoder.2.bias"]))
        autoencoder.load_state_dict(state)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such gate") from None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        said = (str(error) or repr(error)).splitlines()[0]
        raise ValueError(f"{path} cannot be read as a gate: {said}") from error
    if about.get("version") != VERSION:
        raise ValueError(f"{path} is of layout {about.get('version')}; this release reads {VERSION}")
    if about.get("expert") != expert.identity() or autoencoder.width != expert.width:
        raise ValueError(
            f"{path} was made for another expert ({about.get('label')}): its weights, transform or settings differ "
            f"from those of this {expert.label()}"
        )
    return autoencoder.requires_grad_(False).eval()


def copy_gates(before: RunFolder, after: RunFolder, modalities: Iterable[str]) -> None:
    """Copy the gates of modalities, where there are any."""
    for modality in modalities:
        source, target = before.gate(modality), after.gate(modality)
        if source.is_file():
            target.parent.mkdir(exist_ok=True)
            temporary = temporary_name(target.parent)
            shutil.copyfile(source, temporary)
            temporary.replace(target)


def fit_missing(run: RunFolder, module: CrossModalModule, data: PairedDataModule) -> None:
    """Fit the gates that a run lacks, or that are of other experts, to its training data.

    Args:
        run: Whose gates they are.
        module: With the run's weights.
        data: Of the run, of whose training split nothing was read yet.
    """
    missing = [modality for modality, expert in module.experts.items() if not _has_gate(run, modality, expert)]
    if not missing:
        return
    try:
        data.limit_inputs("train", missing, MOST_INPUTS)
        store_split(module, missing, data, "train")
    except (ValueError, OSError) as error:  # such as data that are there no more: the gates are not the run
        print(f"no gate for {', '.join(missing)}: {error}", flush=True)
        return
    fit_gates(run, module, data, missing)


def store_split(module: CrossModalModule, modalities: Iterable[str], data: PairedDataModule, split: Split) -> None:
    """Let data give the tokens of a model that no trainer runs, where they can be stored; what lacks is encoded."""
    store_tokens(
        {modality: module.experts[modality] for modality in modalities},
        data,
        module.feature_store,
        (split,),
        batch_size=module.encode_batch_size,
        device=torch.device("cpu"),
        report=_report,
        show_progress=False,
        num_workers=module.encode_workers,
    )


def fit_gates(run: RunFolder, module: CrossModalModule, data: PairedDataModule, modalities: Iterable[str]) -> None:
    """Fit modalities' gates to the training split, and write them; print a line for each.

    Args:
        run: Whose gates they are.
        module: With the run's weights.
        data: With the modalities; it may read from the feature store.
        modalities: Those to fit.
    """
    for modality in modalities:
        expert, began = module.experts[modality], time.perf_counter()
        try:
            tokens_UD = mean_tokens(expert, data, modality, batch_size=module.encode_batch_size)
            write_gate(run.gate(modality), fit_autoencoder(tokens_UD), expert)
        except (ValueError, OSError) as error:
            print(f"no gate for {modality}: {error}", flush=True)
            continue
        seconds = time.perf_counter() - began
        print(f"gate of {modality}: fitted to {len(tokens_UD):,} training inputs in {seconds:.1f} s", flush=True)


def mean_tokens(expert: Expert, data: PairedDataModule, modality: str, *, batch_size: int) -> Tensor:
    """Return mean tokens of the training split's inputs, shape (U, D); of very many inputs, some that are drawn.

    Raises:
        ValueError: No row has one that can be read.
    """
    rows = data.rows("train")
    if rows is None or not len(used := rows.used(modality)):
        raise ValueError(f"no row of the training split of {type(data).__name__} has this input")
    reader: Reader = data.readers("train")[modality]
    most = MOST_INPUTS
    if not isinstance(reader, StoredReader):
        reader, most = rows.sources[modality].reader(data.transforms[modality].for_evaluation), MOST_ENCODED
    drawn = np.sort(np.random.default_rng(data.seed).permutation(used)[:most])
    batches = encode_in_batches(
        expert.eval(),
        reader,
        drawn,
        batch_size=batch_size,
        device=torch.device("cpu"),
        leave_out=data.quarantine is not None,
    )
    found = [
        batch.tokens.to(torch.float32).mean()[batch.tokens.mask_BN.any(1)]
        for batch in batches
        if batch.tokens is not None
    ]
    if not sum(map(len, found)):
        raise ValueError(f"no input of the training split of {type(data).__name__} has tokens")
    return torch.cat(found)


def _has_gate(run: RunFolder, modality: str, expert: Expert) -> bool:
    try:
        read_gate(run.gate(modality), expert)
    except FileNotFoundError:
        return False
    except ValueError as error:
        print(f"{error}; it is fitted anew", flush=True)
        return False
    return True


def _report(encoded: Encoded) -> None:
    if encoded.encoded:
        print(encoded, flush=True)
