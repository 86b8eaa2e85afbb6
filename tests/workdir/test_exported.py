"""A model in one file."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from jaxvid.build import build
from jaxvid.errors import InputError
from jaxvid.trained import load
from jaxvid.workdir import exported
from jaxvid.workdir.checkpoint import start_from
from tests import tiny
from tests.commands import FAST, mistakes, run


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A file, and the config and parameters in it."""
    config = tiny.get_config()
    config.mesh.fsdp, config.mesh.data = 8, 1
    built = build(config)
    params = tiny.trained(built)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    exported.write(path, params, config)
    return path, config, params


def test_a_file_gives_back_the_config_and_the_bits_on_any_mesh(model):
    path, config, params = model
    assert exported.read_config(path).to_dict() == config.to_dict()
    for devices in (1, 8):
        config.mesh.fsdp = devices
        wanted = build(config, jax.devices()[:devices]).params
        found = exported.read(path, wanted)
        jax.tree.map(np.testing.assert_array_equal, found, params)
        assert jax.tree.leaves(found)[0].sharding == jax.tree.leaves(wanted)[0].sharding


def test_another_network_starts_from_what_fits(model):
    path, config, params = model
    config = config.copy_and_resolve_references()
    config.model.blocks = "space mlp"  # without time
    fresh = build(config).init().params
    found, taken = start_from(path, fresh)
    first = found["patches"]["kernel"]
    np.testing.assert_array_equal(first, params["patches"]["kernel"])
    assert taken.taken
    assert all("time" not in name for name in taken.taken)


def test_other_files_are_refused_in_one_line(model, tmp_path):
    path, config, _ = model
    wanted = build(config).params
    cut, other = tmp_path / "cut.safetensors", tmp_path / "other.safetensors"
    cut.write_bytes(path.read_bytes()[:-100])
    safetensors.numpy.save_file({"patches/kernel": np.zeros((2, 2))}, other)
    for file, reason in (
        (cut, "damaged"),
        (other, "has no config"),
        (tmp_path / "no", "not exist"),
    ):
        with pytest.raises(InputError, match=reason):
            exported.read_config(file)
    with pytest.raises(InputError, match="fits"):
        exported.read(other, wanted)


def test_a_run_in_a_file_draws_what_the_run_draws_and_another_starts_from_it(tmp_path):
    run("train", *FAST, f"--workdir={tmp_path}/run")
    file = tmp_path / "run.safetensors"
    assert "parameters and their config" in run(
        "export", f"--workdir={tmp_path}/run", f"--output={file}"
    )
    drawn = [load(path).draw(2, seed=3) for path in (tmp_path / "run", file)]
    np.testing.assert_array_equal(*drawn)
    run("sample", f"--workdir={file}", "--num=1", f"--output={tmp_path}/drawn")
    assert (tmp_path / "drawn/sheet.png").exists()
    run(
        "evaluate",
        f"--workdir={file}",
        "--num=12",
        "--metrics=energy",
        f"--output={tmp_path}/scores",
    )
    assert json.loads((tmp_path / "scores/scores.json").read_text())["scores"]
    said = run("train", *FAST, f"--workdir={tmp_path}/next", f"--config.init_from={file}")
    assert f"from {file}: took" in said
    mistakes(
        "sample",
        ([f"--workdir={file}"], "give --output=DIR"),
        ([f"--workdir={file}", "--weights=raw", "--output=x"], "one set of weights"),
    )
    mistakes(
        "export",
        ([f"--workdir={tmp_path}/run"], "--output=FILE.safetensors"),
        ([f"--workdir={tmp_path}/run", "--output=a.bin"], "must end with"),
    )
