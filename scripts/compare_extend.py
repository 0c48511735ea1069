"""A modality that joins a trained model against a model of all three that is trained from the start.

The model of configs/easy_vqa.yaml (pictures and texts) learns to listen (configs/extend/listen.yaml), with 1, 10 and
100 % of the answered spoken questions: by an expert that knows no text expert, and by one that was aligned to it, which
begins where the texts stand and needs none. Then image, question and speech are trained together from the start, with
all of them; each row lacks the text at a rate of 0.4 and the recording at a rate of 0.4, so that the model can do
without either. All are measured on the test split's questions, spoken by voices that nothing was trained with, and
written.

    python scripts/compare_extend.py --expert runs/experts/speech --aligned runs/experts/speech_to_question \
        [--model runs/easy_vqa/0] [--quick]

Without --model the base is trained first. `--quick` takes one epoch of each.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from commands import Done, crossmodal, markdown

from datamodules.spoken_vqa import SpokenVQA

CONFIGS = Path(__file__).parent.parent / "configs"
HEAR, LISTEN = (CONFIGS / "extend" / f"{name}.yaml" for name in ("hear", "listen"))
LENGTHS = {0.01: (64, 200), 0.1: (64, 50), 1.0: (512, 40)}  # rows a batch and epochs: some 1,000 steps, or 2,700


def main() -> None:
    """Compare, print a table, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--expert", type=Path, required=True)
    parser.add_argument("--aligned", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()

    def length(epochs: int) -> tuple[object, ...]:
        return ("--trainer.max_epochs", 1 if options.quick else epochs)

    base = options.model or crossmodal("fit", "--config", CONFIGS / "easy_vqa.yaml", *length(14)).run
    found = []
    for way, like, expert in (("", (), options.expert), ("aligned first, ", ("--like", "question"), options.aligned)):
        extend = ("extend", "--model", base, "--expert", f"speech={expert}", *like)
        name = f"compare_extend/{expert.name}"
        if like:
            done = crossmodal(*extend, "--config", HEAR, "--name", f"{name}/0%")
            found.append(measured(f"{way}extended", done, 0.0))
        for share, (batch_size, epochs) in LENGTHS.items():
            done = crossmodal(
                *(*extend, "--config", LISTEN, "--name", f"{name}/{share:.0%}", *length(epochs)),
                *("--data.init_args.train_share", share, "--data.init_args.batch_size", batch_size),
            )
            found.append(measured(f"{way}extended", done, share))
    speech = {"class_path": "experts.saved.SavedExpert", "init_args": {"pretrained": str(options.expert)}}
    done = crossmodal(
        *("fit", "--config", base / "config.yaml", "--config", LISTEN, "--name", "compare_extend/whole"),
        *("--experts.speech", json.dumps(speech), "--data.init_args.questions", "both"),
        *("--model.modality_dropout", json.dumps({"question": 0.4, "speech": 0.4}), *length(14)),
    )
    found.append(measured("whole, from the start", done, 1.0))
    header = [
        "model",
        "spoken questions with answers",
        "spoken",
        "written",
        "parameters that train",
        "seconds",
        "old answers",
    ]
    print(markdown(header, [cells(row) for row in found]))
    print(json.dumps(found))


def measured(name: str, done: Done, share: float) -> dict[str, Any]:
    """Return a run's figures, with its accuracy on spoken and on written questions."""
    rows = SpokenVQA(questions="written", train_share=share or 1.0).load("train")
    assert rows is not None
    accuracy = {}
    for questions in ("spoken", "written"):
        best = done.run / "checkpoints" / ("best.ckpt" if share else "last.ckpt")
        wanted = ("--data.init_args.questions", questions)
        crossmodal("test", "--config", done.run / "config.yaml", "--ckpt_path", best, *wanted)
        accuracy[questions] = json.loads((done.run / "test.json").read_text())["test/accuracy"]
    trained, everything = (done.figures[f"parameters/{which}"] for which in ("trained", "all"))
    return {
        **{"model": name, "rows": len(rows) if share else 0, **accuracy},
        **{"trained": trained if share else 0, "of": everything},
        "seconds": done.figures["seconds/fit"],
        "unchanged": next((line for line in done.told.splitlines() if line.startswith("unchanged")), None),
    }


def cells(row: dict[str, Any]) -> list[str]:
    """Return a table's line."""
    trained = f"{row['trained']:,} ({row['trained'] / row['of']:.2%})"
    old = "bit for bit" if row["unchanged"] else ""
    accuracy = [f"{row[questions]:.4f}" for questions in ("spoken", "written")]
    return [row["model"], f"{row['rows']:,}", *accuracy, trained, f"{row['seconds']:.0f}", old]


if __name__ == "__main__":
    main()
