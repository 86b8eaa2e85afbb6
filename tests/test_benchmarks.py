import math
import os
import subprocess
import sys

import numpy as np
import pytest
from benchmarks.energy import VIEWS, energy_distance


@pytest.mark.parametrize("name", ["train_step", "architectures", "formulations", "layouts"])
def test_a_benchmark_reads_its_flags_as_the_commands_do(name):
    done = _benchmark(name, "--config.stepss=1")
    assert done.returncode == 1
    assert done.stderr == "error: config.stepss: there is no such key; did you mean config.steps?\n"


@pytest.mark.parametrize(
    ("name", "argument", "line"),
    [
        (
            "architectures",
            "--lines=time,text",
            "config.model.blocks: 'text' needs the condition 'text'",
        ),
        ("formulations", "--samplers=helm", "--samplers: 'helm' is not one of euler, ddim, ddpm"),
        ("formulations", "--evaluations=4,5", "--evaluations: '5' must be a positive multiple of"),
    ],
)
def test_what_cannot_be_compared_is_told_before_anything_runs(name, argument, line):
    done = _benchmark(name, argument)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {line}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("--levels=0,a", "--levels: 'a' is not a number"),
        ("--levels=0.9", "config.sampler.observed_noise=0.9 is at most"),
        ("--frames=3", "--frames=3: the network draws 4 at once"),
    ],
)
def test_rollouts_tells_what_cannot_be_drawn(tmp_path, config, argument, line):
    (tmp_path / "config.json").write_text(config.to_json())
    done = _run("rollouts", f"--workdir={tmp_path}", argument)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {line}")
    assert done.stderr.count("\n") == 1


def _benchmark(name: str, argument: str) -> subprocess.CompletedProcess[str]:
    return _run(name, "--config=tests/tiny.py", argument)


def _run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ)


def _between_gaussians(shift: float) -> float:
    """The energy distance of N(0, 1) and N(shift, 1): X - Y is N(shift, 2)."""
    apart = 2 / math.sqrt(math.pi) * math.exp(-(shift**2) / 4) + shift * math.erf(shift / 2)
    return 2 * apart - 4 / math.sqrt(math.pi)


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
def test_energy_distance_of_gaussians_is_the_known_one_and_its_error_the_spread(shift):
    rng = np.random.default_rng(0)
    draws = [
        energy_distance(rng.normal(size=(60, 1)), rng.normal(shift, 1, (90, 1))) for _ in range(300)
    ]
    values, errors = np.array(draws).T
    # Unbiased, so its mean has no error but chance; at 0 half of the estimates are below it.
    assert abs(values.mean() - _between_gaussians(shift)) < 4 * values.std() / math.sqrt(
        len(values)
    )
    ratio = np.sqrt((errors**2).mean()) / values.std()
    assert 0.9 < ratio < (2 if shift == 0 else 1.2)


def test_energy_distance_is_the_sum_over_pairs_and_its_error_the_jackknife():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(4, 2, 3)), rng.normal(0.3, 1, (5, 2, 3))

    def plain(x, y):
        def mean(a, b):
            d = [np.sqrt(((p - q) ** 2).mean()) for p in a for q in b]
            return sum(d) / (len(a) * (len(b) - (a is b)))

        return 2 * mean(x, y) - mean(x, x) - mean(y, y)

    without_x = np.array([plain(np.delete(x, i, 0), y) for i in range(4)])
    without_y = np.array([plain(x, np.delete(y, i, 0)) for i in range(5)])
    value, error = energy_distance(x, y)
    assert value == pytest.approx(plain(x, y))
    assert error**2 == pytest.approx(3 * without_x.var() + 4 * without_y.var())


def test_clips_under_noise_are_further_from_clean_ones_than_pale_clips_are():
    rng = np.random.default_rng(2)

    def clips(brightness=1.0, noise=0.0):
        smooth = brightness * rng.normal(size=(200, 1, 1, 1, 3)) + np.zeros((200, 4, 4, 4, 3))
        return smooth + noise * rng.normal(size=smooth.shape)

    real, pale, noisy = clips(), clips(0.5), clips(0.5, 0.5)
    assert energy_distance(noisy, real)[0] < energy_distance(pale, real)[0]
    assert energy_distance(noisy, real, VIEWS)[0] > 5 * energy_distance(pale, real, VIEWS)[0]
    separately = [energy_distance(view(noisy), view(real))[0] for view in VIEWS]
    assert energy_distance(noisy, real, VIEWS)[0] == pytest.approx(sum(separately))
