"""Train until killed, resume until done, print a digest of everything a run leaves behind.

    python tests/faults/kill9_toy.py FOLDER [--factory FILE.py:function] [--pause SECONDS] [--seed N]

The factory returns ``(model, data, config)``. ``--pause`` sleeps after each step, so that a kill at a random moment
falls into training. The last line is ``digest HEX``: weights, losses, terms and validation, bit by bit.
:func:`run_with_kills` is the driver for tests: it kills the script, resumes, and returns the digest.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import random
import subprocess
import sys
import time
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


def train_once(folder: Path, factory: str, pause: float, seed: int) -> str:
    import torch

    from sciinfer.training import train

    torch.set_num_threads(1)
    model, data, config = load_factory(factory)()
    sys.stdout.write("started\n")
    sys.stdout.flush()

    def slow(done: int, total: int, metrics: Any) -> None:
        time.sleep(pause)

    history = train(model, data, config, seed=seed, folder=folder, resume=folder.is_dir(), progress=slow)
    return digest(model, history)


def run_with_kills(
    folder: Path, kills: int, *, seconds: float, factory: str = TOY, pause: float = 0.01, seed: int = 0, chance: int = 0
) -> tuple[str, int]:
    """Kill the script ``kills`` times, each at a random moment within ``seconds`` of the start of training, then let it
    finish. Returns the digest and how many kills fell before the end."""
    moments, hit = random.Random(chance), 0
    command = [sys.executable, str(HERE), str(folder), "--factory", factory, "--pause", str(pause), "--seed", str(seed)]
    for _ in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        if process.stdout is None:
            raise RuntimeError("no pipe")
        process.stdout.readline()
        time.sleep(moments.uniform(0, seconds))
        process.kill()
        process.stdout.close()
        hit += process.wait() == -9
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.split()[-1], hit


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--factory", default=TOY)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    found = train_once(chosen.folder, chosen.factory, chosen.pause, chosen.seed)
    sys.stdout.write(f"digest {found}\n")
