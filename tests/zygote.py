"""Forks `crossmodal` commands from a process that has the heavy imports behind it.

Reads requests, one JSON object a line, from standard input, and answers each with one line. `start` runs a
command in a process of its own, which may be killed like any other; `wait` gives its exit status.
"""

import importlib
import json
import os
import sys
import traceback

from crossmodal.cli import main


def run(request: dict) -> None:
    os.setsid()
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["crossmodal", *request["arguments"]]
    try:
        status = main()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


HEAVY = (
    "wandb.wandb_run",
    "transformers.models.bert.modeling_bert",  # what loading it takes is most of a small command's time
    "crossmodal.training_cli",
    "crossmodal.fusion.workspace",
    "datamodules.easy_vqa",
    "datamodules.manifest",
    "datamodules.synthetic",
    "experts.audio.spectrogram",
    "experts.image",
    "experts.text",
)
if __name__ == "__main__":  # processes that a command begins import this anew
    for name in HEAVY:
        importlib.import_module(name)
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "start":
            pid = os.fork()
            if pid == 0:
                run(request)
            print(pid, flush=True)
        else:
            _, status = os.waitpid(request["pid"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
