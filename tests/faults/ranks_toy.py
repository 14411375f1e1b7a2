"""Train the toy on several ranks (gloo, CPU) and print what each of them saw.

    python tests/faults/ranks_toy.py FOLDER CASE:RANKS ...

Ranks are forked, so that the imports are paid once; each leaves ``FOLDER/CASERANKS/rankN.json``. Cases: ``plain`` (7
series, unequal shares), ``single`` (1 series, so that other ranks have none), ``batches`` (mini-batches of 3),
``lbfgs``, ``validation``, ``greedy`` (one rank has no memory), ``raises`` (the model of one rank has a bug), ``nan``
(one rank's loss breaks once), ``stop`` (one rank is interrupted).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parent))
from training_toys import Line, lines

from sciinfer.errors import SciInferError
from sciinfer.models.base import Loss
from sciinfer.training import TrainingConfig, train

OPTIONS = {
    "batches": {"batch_size": 3},
    "lbfgs": {"optimiser": "lbfgs"},
    "validation": {"validation": 0.2, "validate_every": 5},
}


class Faulty(Line):
    """Breaks on rank 1 at its fifth call."""

    def __init__(self, case: str, rank: int) -> None:
        super().__init__()
        self.case, self.rank, self.calls = case, rank, 0
        if rank:  # the ranks must start from the weights of the first
            with torch.no_grad():
                self.log_scale.fill_(0.3)

    def loss(self, batch, *, generator, progress=1.0):
        self.calls += 1
        found = super().loss(batch, generator=generator, progress=progress)
        if self.rank == 1 and self.calls >= 5:
            if self.case == "greedy":
                raise torch.OutOfMemoryError("out of memory")
            if self.case == "raises":
                raise ValueError("a bug")
            if self.case == "nan" and self.calls == 5:
                return Loss(found.value * float("nan"), found.terms)
        return found


def work(folder: Path, rank: int, case: str) -> dict[str, object]:
    model = Faulty(case, rank)
    data = lines(series=1 if case == "single" else 7)
    config = TrainingConfig(**{"steps": 20, "validation": 0.0, "device": "cpu", **OPTIONS.get(case, {})})

    def stop(done, total, metrics):
        if case == "stop" and done == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        history = train(model, data, config, seed=0, progress=stop, folder=folder / "run")
    except (SciInferError, ValueError) as err:
        return {"error": type(err).__name__, "text": str(err)}
    return {
        "loss": history.loss,
        "terms": history.terms,
        "validation": history.validation,
        "stopped": history.stopped,
        "notices": history.notices,
        "weights": {name: value.flatten().tolist() for name, value in model.state_dict().items()},
    }


def child(folder: Path, rank: int, size: int, case: str) -> None:
    torch.set_num_threads(1)
    if size > 1:
        store = f"file://{folder}/store-{case}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size, timeout=timedelta(seconds=60))
    found = work(folder, rank, case)
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    if size > 1:
        dist.destroy_process_group()


def main(folder: Path, size: int, case: str) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    children = []
    for rank in range(size):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                child(folder, rank, size, case)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        children.append(pid)
    return max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children)


if __name__ == "__main__":
    for job in sys.argv[2:]:
        name, _, ranks = job.partition(":")
        if main(Path(sys.argv[1]) / f"{name}{ranks}", int(ranks), name):
            raise SystemExit(f"case {job} failed")
