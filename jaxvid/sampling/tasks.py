"""Tasks: the choice of the observed frames of a clip.

Every task but the last ranks the T frames of a clip and observes those of rank below a count k:

    generate     none                                    k = 0
    predict      the first k                             k ~ U{1 .. T/2}
    interpolate  k at either end                         k ~ U{1 .. max(1, T/4)}
    random       k anywhere                              k ~ U{0 .. T-1}
    plan         what a call of a plan sees (`data.plans`)

"random" equals the following: draw p ~ U(0, 1) for the clip, observe each frame with probability p,
and repeat until not all are observed; the count is then uniform. At least one frame is always
unknown. In clips that are too short for its k, a task observes fewer frames, and at T = 1 every
task is "generate".
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key
from ml_collections import ConfigDict

from jaxvid.config import NOT_BELOW_0, declare, key, requirement
from jaxvid.errors import InputError, nearest

TASKS = ("generate", "predict", "interpolate", "random")
IN_TRAINING = (*TASKS, "plan")


declare(
    "tasks",
    generate=key(1.0, NOT_BELOW_0, "share of the training clips without observed frames"),
    predict=key(0.0, NOT_BELOW_0, "share of clips whose first frames are observed"),
    interpolate=key(0.0, NOT_BELOW_0, "share of clips whose first and last frames are observed"),
    random=key(0.0, NOT_BELOW_0, "share of clips with randomly chosen observed frames"),
    plan=key(0.0, NOT_BELOW_0, "share of clips that observe what a call of `data.plans` sees"),
)


def sample_observed(
    key: Key[Array, ""],
    shares: Mapping[str, float | int],
    batch: int,
    frames: int,
    planned: Bool[Array, "{batch} {frames}"] | None = None,
    order: Int[Array, "{batch} {frames}"] | None = None,
) -> Bool[Array, "{batch} {frames}"]:
    """Draws a task for each clip in proportion to `shares`, and the frames that it observes.

    A task that is not in `shares` has share 0. The task "plan" observes the `planned` frames.
    `order` has the place of each frame in time, if frames are not in order.

    Raises InputError for an unknown task, and for shares that are negative or all 0.
    """
    for task in shares:
        _check_task(task, IN_TRAINING)
    weights = np.array([shares.get(task, 0.0) for task in IN_TRAINING], np.float32)
    if weights.min() < 0 or not 0 < weights.sum() < np.inf:
        raise InputError(f"task shares {dict(shares)}: none may be negative, one must be above 0")

    most = np.array([0, frames // 2, min(max(1, frames // 4), (frames - 1) // 2), frames - 1, 0])
    least = np.minimum([0, 1, 1, 0, 0], most)
    task_key, count_key, order_key = jax.random.split(key, 3)
    task = jax.random.choice(task_key, len(IN_TRAINING), (batch, 1), p=weights / weights.sum())
    count = jax.random.randint(
        count_key, (batch, 1), jnp.asarray(least)[task], jnp.asarray(most)[task] + 1
    )

    index = jnp.arange(frames) if order is None else order
    shuffled = jnp.argsort(jax.random.uniform(order_key, (batch, frames)))
    rank = jnp.select(
        [task == TASKS.index("interpolate"), task == TASKS.index("random")],
        [jnp.minimum(index, frames - 1 - index), shuffled],
        index,
    )
    observed = rank < count
    return (
        observed
        if planned is None
        else jnp.where(task == IN_TRAINING.index("plan"), planned, observed)
    )


def observed_frames(task: str, frames: int, count: int) -> Bool[np.ndarray, " {frames}"]:
    """The frames that `task` observes when a clip is sampled.

    "predict" observes the first `count` frames, "interpolate" `count` at either end, and "random"
    `count` evenly spaced frames from the first on. "generate" observes none and ignores `count`.
    Raises InputError for an unknown task, and for a count that observes no frame or all frames.
    """
    _check_task(task, TASKS)
    index = np.arange(frames)
    if task == "generate":
        return np.zeros(frames, bool)
    if count < 1:
        raise InputError(f"task {task!r} with {count} observed frames: observe at least 1")
    match task:
        case "predict":
            observed = index < count
        case "interpolate":
            observed = np.minimum(index, index[::-1]) < count
        case "random":
            observed = np.isin(index, np.arange(count) * frames // count)
    if observed.all():
        ends = " at either end" if task == "interpolate" else ""
        raise InputError(
            f"task {task!r} with {count} observed frames{ends} leaves none of the clip's "
            f"{frames} unknown: observe fewer"
        )
    return observed


def _check_task(task: str, among: Sequence[str]) -> None:
    if task not in among:
        hint = nearest(task, among)
        raise InputError(f"unknown task {task!r}: {hint}choose one of {', '.join(among)}")


@requirement
def _check_shares(config: ConfigDict) -> None:
    if not any(config.tasks.values()):
        raise InputError("config.tasks: every share is 0; give one task a share above 0")
    if config.data.frames == 1 and not config.tasks.generate:
        raise InputError("config.data.frames=1 leaves only tasks.generate: give it a share above 0")
