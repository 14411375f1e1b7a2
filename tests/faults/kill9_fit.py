"""Kill ``si.fit`` at random moments, resume it with ``si.resume``'s code path, compare with an undisturbed fit.

    python tests/faults/kill9_fit.py FOLDER [--trials N] [--kills K] [--chance C] [--steps S]

After every kill, whatever lies in the folder must load: the model folder as a whole and the newest checkpoint. Children
are forked after the imports. The last line is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any


def digest(fitted: Any) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(fitted.model.state_dict().items()):
        found.update(name.encode() + tensor.contiguous().numpy().tobytes())
    history = fitted.history
    found.update(repr((fitted.status, history.steps, history.loss, history.validation, history.stopped)).encode())
    return found.hexdigest()


def fit_or_resume(folder: Path, steps: int) -> str:
    import torch

    from sciinfer import api
    from sciinfer.errors import StateError

    torch.set_num_threads(1)
    if folder.is_dir():
        try:
            return digest(api.resume(folder, progress="silent"))
        except StateError:  # the kill came after the end
            return digest(api.load(folder))
    data = api.open_dataset("oscillator_gappy").isel(series=[0, 1, 2])
    training = {"steps": steps, "checkpoint_every": 2, "validate_every": 5, "batch_size": 2}
    return digest(api.fit(data, training=training, options={"hidden": 8, "width": 8}, out=folder, progress="silent"))


def fork(folder: Path, steps: int) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        folder.with_suffix(".digest").write_text(fit_or_resume(folder, steps))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def finish(folder: Path, steps: int) -> str:
    _, status = os.waitpid(fork(folder, steps), 0)
    return folder.with_suffix(".digest").read_text() if status == 0 else f"exit status {status}"


def loads(folder: Path) -> bool:
    """Everything that is there can be read."""
    from sciinfer import api
    from sciinfer.labelled.storage import checkpoint_steps, load_checkpoint

    if not folder.is_dir():
        return True
    api.load(folder)
    checkpoints = folder / api.CHECKPOINTS
    if checkpoints.is_dir() and checkpoint_steps(checkpoints):
        load_checkpoint(checkpoints)
    return True


def main(folder: Path, trials: int, kills: int, chance: int, steps: int) -> dict[str, Any]:
    import sciinfer.api
    import sciinfer.models.latent_sde  # noqa: F401 - before the forks

    moments, begun = random.Random(chance), time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    undisturbed = finish(folder / "undisturbed", steps)
    seconds, hits, loaded, digests = time.monotonic() - begun, 0, 0, []
    for trial in range(trials):
        run = folder / f"trial{trial}"
        for _ in range(kills):
            child = fork(run, steps)
            time.sleep(moments.uniform(0, seconds))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            hits += os.WIFSIGNALED(status)
            loaded += loads(run)
        digests.append(finish(run, steps))
    return {"undisturbed": undisturbed, "digests": digests, "hits": hits, "loaded": loaded, "seconds": seconds}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--kills", type=int, default=1)
    parser.add_argument("--chance", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    sys.stdout.write(json.dumps(main(**vars(parser.parse_args()))) + "\n")
