import time

import jax
import jax.numpy as jnp
import pytest

from jaxvid.training import goodput as module
from jaxvid.training.goodput import Goodput
from jaxvid.training.meter import Meter
from jaxvid.workdir.log import Log
from jaxvid.workdir.pictures import read_metrics


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def seconds(goodput):
    values = goodput.values()
    return {name: values[f"seconds/{name}"] for name in module.PARTS if values[f"seconds/{name}"]}


def test_every_second_is_in_one_part_and_the_shares_add_up_to_1(clock):
    goodput = Goodput(90.0)
    meter = Meter(0, 0, goodput=goodput)
    with goodput.on("actions"):  # of an earlier step, before the first of this start
        clock[0] += 2
    goodput.begin_steps()
    for wait, idle in ((1, True), (4, False)):  # the devices worked while the second batch came
        with meter.waiting_for_data(lambda idle=idle: idle):
            clock[0] += wait
        clock[0] += 5
    with goodput.on("checkpoint"):
        clock[0] += 3
    assert seconds(goodput) == {"steps": 14, "start": 10, "data": 1, "checkpoint": 3, "actions": 2}
    assert goodput.values()["goodput"] == pytest.approx(14 / 30)
    assert goodput.summary() == (
        "goodput of 0.5 min: steps 46.7%, start-up 33.3%, compiling 0.0%, data wait 3.3%, "
        "checkpoints 10.0%, actions 6.7%, lost steps 0.0%"
    )


def test_steps_that_are_repeated_are_lost_and_nothing_else_is(clock, tmp_path):
    def start(step, end, saves=()):
        """From `step` to a kill at `end`; a step takes a second, and a save another two."""
        goodput = Goodput(clock[0])
        clock[0] += 10
        if (curves := tmp_path / "metrics.jsonl").exists():
            goodput.add_earlier(step, read_metrics(curves))
        with Log(tmp_path, 9, step, goodput.values()) as log:
            goodput.begin_steps()
            for at in range(step + 1, end + 1):
                clock[0] += 1
                log.metrics(at, goodput.values())
                log.metrics(at, {"evals/energy": 1.0})
                with goodput.on("checkpoint"):
                    clock[0] += 2 * (at in saves)
        took = seconds(goodput)
        clock[0] += 1000  # until the next start
        return took

    start(0, 5, saves=[3])
    start(3, 3)  # killed before its first line
    assert start(3, 7, saves=[6]) == {"steps": 7, "start": 30, "checkpoint": 4, "lost": 2}
    # Nothing can be restored: all is lost.
    assert start(0, 1) == {"steps": 1, "start": 40, "checkpoint": 4, "lost": 9}


def test_compiling_is_counted_once_wherever_it_happens():
    def slow(x):
        time.sleep(0.2)  # while it is traced
        return jax.jit(lambda x: time.sleep(0.3) or jnp.sin(x))(x)  # and inside, while that is

    with Goodput(time.monotonic()) as goodput:
        goodput.begin_steps()
        with goodput.on("actions"):
            jax.jit(slow)(1.0)
            time.sleep(0.1)
        took = seconds(goodput)
        assert took["compile"] > 0.5
        assert took["actions"] == pytest.approx(0.1, abs=0.05)
    jax.jit(lambda x: time.sleep(0.1) or x)(1.0)  # the context has ended
    assert goodput.values()["seconds/compile"] == took["compile"]
