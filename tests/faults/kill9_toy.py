"""Kill training at random moments, resume it, and compare everything it leaves behind with an undisturbed run.

    python tests/faults/kill9_toy.py FOLDER [--factory FILE.py:function] [--trials N] [--kills K]
        [--chance C] [--pause S]

The factory returns ``(model, data, config)``. The script trains undisturbed once, then makes ``--trials`` runs, each
killed with SIGKILL ``--kills`` times at a uniformly random moment (seed ``--chance``) and resumed to its end. With
``--pause`` it sleeps after each step. Every training is a process of its own, forked before any work, so that the
imports are paid once. The last line is JSON: the undisturbed digest, one digest per trial, and how many kills fell
before the end.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
TOY = f"{HERE.parent / 'training_toys.py'}:noisy_line"


def load_factory(target: str) -> Any:
    path, _, name = target.rpartition(":")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"cannot import {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return getattr(module, name)


def digest(model: Any, history: Any) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    record = (history.steps, history.loss, sorted(history.terms.items()), history.validation, history.best_step)
    found.update(repr((record, history.stopped)).encode())
    return found.hexdigest()


def train_once(folder: Path, factory: str, pause: float) -> str:
    import torch

    from sciinfer.training import train

    torch.set_num_threads(1)
    model, data, config = load_factory(factory)()

    def slow(done: int, total: int, metrics: Any) -> None:
        time.sleep(pause)

    history = train(model, data, config, seed=0, folder=folder, resume=folder.is_dir(), progress=slow)
    return digest(model, history)


def fork(folder: Path, factory: str, pause: float) -> int:
    """Train in a child; its digest is left beside the folder."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        folder.with_suffix(".digest").write_text(train_once(folder, factory, pause))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def finish(folder: Path, factory: str, pause: float) -> str:
    """Train, or go on, to the end."""
    _, status = os.waitpid(fork(folder, factory, pause), 0)
    return folder.with_suffix(".digest").read_text() if status == 0 else f"exit status {status}"


def kill_and_resume(
    folder: Path, factory: str, pause: float, kills: int, seconds: float, moments: random.Random
) -> tuple[str, int]:
    hits = 0
    for _ in range(kills):
        child = fork(folder, factory, pause)
        time.sleep(moments.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        hits += os.WIFSIGNALED(status)
    return finish(folder, factory, pause), hits


def main(folder: Path, factory: str, pause: float, trials: int, kills: int, chance: int) -> dict[str, Any]:
    import sciinfer.training  # noqa: F401 - before the forks

    moments, begun = random.Random(chance), time.monotonic()
    undisturbed = finish(folder / "undisturbed", factory, pause)
    seconds = time.monotonic() - begun
    found = [kill_and_resume(folder / f"trial{i}", factory, pause, kills, seconds, moments) for i in range(trials)]
    return {
        "undisturbed": undisturbed,
        "digests": [digest for digest, _ in found],
        "hits": sum(hits for _, hits in found),
        "seconds": seconds,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--factory", default=TOY)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--kills", type=int, default=1)
    parser.add_argument("--chance", type=int, default=0)
    chosen = parser.parse_args()
    sys.stdout.write(json.dumps(main(**vars(chosen))) + "\n")
