"""Train on games, whose player's actions are known: what comes next is then a matter of the keys.

    python -m jaxvid.prepare --games=craftax --clips=2000 --output=DIR --size=36
    python -m jaxvid.train --config=configs/games.py:DIR

Size, frame rate, length, games and actions are taken from DIR; of several games, the network learns
which one a clip shows (sample --label). Most clips continue a few frames by their actions.
Clips are not changed, because the actions of a mirrored or faster one would be false.

To play, begin with frames of a held-out game, and give a file with a row per frame, from the first
on, each with a 1 at the action made there; the next frame shows what it does. manifest.json in DIR
has the names of the actions, in order. In Craftax, 2 is "right":

    python -c "import numpy; numpy.savetxt('right.csv', numpy.eye(17)[[2] * 64], '%d', ',')"
    python -m jaxvid.sample --workdir=runs/games-DIR --task=predict --observed=4 --frames=64
        --actions=right.csv --num=4

Without --actions each video has those of its game, as far as its clip goes.

Needs: two CPU cores and 2 GiB of memory for a first look, or an accelerator.
Measured on 200 games of Craftax, 2,000 clips (--clips=2000), on one core of an Intel Xeon at 2.50
GHz beside other programs, 2026-11-27: 95 minutes, loss 0.24 at step 100 to 0.027. It follows the
actions: of eight held-out games, each continued by four frames of "left", "right", "up" and "down",
the ground moves by a tile in 72 of 128 steps, always in the right direction, and stands still in
the others; in recorded games it moves in 287 of 484 such steps. New ground at the edges is of its
own making, and what surrounds the player may change its kind.
"""

from ml_collections import ConfigDict

from configs import videos
from jaxvid.data import manifest
from jaxvid.errors import InputError
from jaxvid.files import to_path


def get_config(arg: str = "") -> ConfigDict:
    """The config for the folder `arg`; raises InputError if it was not prepared from games."""
    c = videos.get_config(arg)
    # An action tells of the next frame only, and not of one further on.
    c.data.update(frames=min(8, c.data.frames), strides=(1,), augment=())
    c.steps, c.batch_size = 6000, 8
    c.model.update(width=96, heads=3)
    c.diffusion.noise_mean = 1.5  # what follows from an action is learned from noisy frames
    c.tasks.update(generate=0.1, predict=0.8, interpolate=0.0, random=0.1)
    if arg:
        made = manifest.read(to_path(arg, "the folder"))
        if not made.get("actions"):
            raise InputError(
                f"configs/games.py:{arg}: its clips have no actions: prepare it from games, or "
                f"train with configs/videos.py:{arg}"
            )
        c.conditions.action.dim = len(made["actions"])
        c.conditions.label.classes = len(made["labels"]) if len(made["labels"]) > 1 else 0
    return c
