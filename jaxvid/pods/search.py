"""Settings that fit a pod, found by compiling them."""

import collections
import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from jaxvid import errors, start
from jaxvid.build import Run
from jaxvid.errors import InputError
from jaxvid.parallel import rules
from jaxvid.parallel.chips import Chip, GiB
from jaxvid.pods.budget import Budget, checked, given, measure
from jaxvid.pods.layouts import Changes, changed, lighter, shapes, written


class Pod(NamedTuple):
    """What to compile for: devices of one kind of chip, and one of `budget.PROGRAMS`."""

    devices: list[jax.Device]
    chip: Chip
    program: str


class Found(NamedTuple):
    """Settings that have been compiled, as changes of the config, and what they take."""

    changes: Changes
    budget: Budget


class Sweep(NamedTuple):
    """What a sweep has found.

    Attributes:
      found: in the order in which they were compiled.
      refused: settings that cannot work, by the reason, which is that of the first of them.
      not_tried: those that were left when the tries were used up.
    """

    found: list[Found]
    refused: dict[str, list[Changes]]
    not_tried: list[Changes]

    @property
    def ranked(self) -> list[Found]:
        """Those that fit, by the least time per clip."""
        fit = [one for one in self.found if one.budget.fits]
        return sorted(fit, key=lambda one: one.budget.per_clip_s)


def nearest_that_fits(config: ConfigDict, budget: Budget, pod: Pod, tries: int) -> Iterator[Found]:
    """Compiles lighter settings of a training step until one fits, and yields each.

    Those for which there is no hope, by what the step needs as it is, do not count as tries.
    """
    run = checked(config, pod.devices, pod.program)
    more = budget.needs - sum(budget.memory.values())
    for changes in lighter(config, run.mesh.shape):
        try:
            other = checked(changed(config, changes), pod.devices, pod.program)
        except InputError as error:
            start.say(f"not tried: {written(changes)}: {error}")
            continue
        # In proportion to the clips at once; if all is computed again, a tenth is optimistic.
        share = _clips_at_once(other) / _clips_at_once(run)
        share /= 10 if "model.remat" in changes else 1
        hoped = sum(given(other, pod.program).values()) + share * more
        if hoped > 1.2 * budget.limit:
            start.say(f"not tried: {written(changes)}: needs about {hoped / GiB:.0f} GiB")
            continue
        yield (found := _compile(other, pod, changes))
        tries -= 1
        if found.budget.fits or not tries:
            return


def sweep(
    config: ConfigDict, pod: Pod, slices: int, batch_sizes: Sequence[int], tries: int
) -> Sweep:
    """Compiles all meshes with the first of `batch_sizes`, then the other batches.

    A larger batch is tried where a batch fits, and a smaller one where it does not.
    """
    first, *others = batch_sizes
    result, waiting = Sweep([], {}, []), collections.deque[tuple[Changes, Run, list[int]]]()

    def wait(changes: Changes, others: list[int]) -> None:
        with _refused(result, changes):
            run = checked(changed(config, changes), pod.devices, pod.program)
            waiting.append((changes, run, others))

    for mesh in shapes(len(pod.devices), slices):
        wait(mesh | ({"batch_size": first} if first != config.batch_size else {}), others)
    while waiting and len(result.found) < tries:
        changes, run, others = waiting.popleft()
        with _refused(result, changes):
            result.found.append(_compile(run, pod, changes))
            fits, now = result.found[-1].budget.fits, run.config.batch_size
            next_ones = sorted((n for n in others if (n > now) == fits), reverse=not fits)
            if next_ones:
                wait(changes | {"batch_size": next_ones[0]}, next_ones[1:])
    result.not_tried.extend(changes for changes, _, _ in waiting)
    return result


@contextlib.contextmanager
def _refused(result: Sweep, changes: Changes) -> Iterator[None]:
    """Notes why settings cannot work; whatever the compiler says of one, others are tried."""
    try:
        yield
    except Exception as error:
        text = str(error) if isinstance(error, InputError) else errors.one_line(error)[:200]
        alike = (known for known in result.refused if _same_but_numbers(known, text))
        result.refused.setdefault(next(alike, text), []).append(changes)


def _same_but_numbers(a: str, b: str) -> bool:
    return re.sub(r"\d+", "", a) == re.sub(r"\d+", "", b)


def _compile(run: Run, pod: Pod, changes: Changes) -> Found:
    start.say(f"compiling {written(changes)}")
    found = Found(changes, measure(run, pod.chip, pod.program))
    start.say(f"  {found.budget.fit}, {found.budget.compile_s:.0f} s to compile")
    return found


def _clips_at_once(run: Run) -> float:
    parts = rules.batch_parts(run.mesh) * run.config.optimizer.accumulate
    return run.config.batch_size / parts
