"""What is damage and what is not: a run may only be set back by what is proven."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.errors import InputError
from jaxvid.workdir import migrations, reading
from jaxvid.workdir.agree import Damaged
from jaxvid.workdir.checkpoint import Checkpoints, start_from

PARAMS = {"condition": {"label": {"embedding": jnp.arange(3.0)}}, "out": jnp.arange(4.0)}
TODAY = {"label": {"classes": PARAMS["condition"]["label"]}, "out": PARAMS["out"]}


def parts(params, step):
    opt_state = ({"mu": params}, jnp.array(step, jnp.int32))
    return {"ema": params, "train": {"params": params, "opt_state": opt_state}}


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture
def saved(tmp_path):
    """The work directory of a run with checkpoints 1 and 2."""
    for step in (1, 2):
        with Checkpoints(tmp_path, keep=2) as checkpoints:
            checkpoints.save(step, parts(PARAMS, step))
    return tmp_path


def restore(workdir, wanted):
    with Checkpoints(workdir, keep=2) as checkpoints:
        return checkpoints.restore(wanted)


def is_untouched(workdir):
    return sorted(p.name for p in workdir.iterdir()) == ["checkpoints"] and sorted(
        p.name for p in (workdir / "checkpoints").iterdir()
    ) == ["1", "2"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p | {"out": jnp.ones(5)}, r"out \(saved float32\[4\], needed float32\[5\]\)"),
        (lambda p: p | {"out": jnp.ones(4, int)}, r"out \(saved float32\[4\], needed int32\[4\]\)"),
        (lambda p: p | {f"new_{i}": jnp.ones(2) for i in range(6)}, "6 missing: new_0, .*, …"),
        (lambda p: {"out": p["out"]}, "1 unknown: condition/label/embedding"),
    ],
)
def test_other_arrays_are_named_and_nothing_is_moved(saved, change, said):
    with pytest.raises(InputError, match=said):
        restore(saved, abstract({"ema": change(PARAMS)}))
    assert is_untouched(saved)


@pytest.mark.parametrize("error", [MemoryError(), OSError(5, "Input/output error")])
def test_memory_and_file_systems_that_fail_are_no_damage(saved, monkeypatch, error):
    def fail(*_):
        raise ValueError("failed to load") from error

    monkeypatch.setattr(reading.ocp, "load_checkpointables", fail)
    with pytest.raises(InputError, match="2 cannot be read") as raised:
        restore(saved, abstract(parts(PARAMS, 0)))
    assert not isinstance(raised.value, Damaged)
    assert is_untouched(saved)


@pytest.mark.parametrize("name", ["", "2", "2/train", "2/train/_METADATA"])
def test_what_may_not_be_read_is_no_damage(saved, name):
    wanted = abstract(parts(PARAMS, 0))
    restore(saved, wanted)  # imports what root alone may read, before root's rights are given up
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(saved, folder, dirs_exist_ok=True)
        os.chmod(folder, 0o755)
        closed = Path(folder, "checkpoints", name)
        mode = closed.stat().st_mode
        closed.chmod(0)
        is_root = os.geteuid() == 0
        try:
            if is_root:
                os.seteuid(65534)
            with pytest.raises(InputError, match="cannot be read") as raised:
                restore(Path(folder), wanted)
        finally:
            if is_root:
                os.seteuid(0)
            closed.chmod(mode)
        assert not isinstance(raised.value, Damaged)
        assert is_untouched(Path(folder))


def test_where_none_is_left_a_run_does_not_start_anew(saved, capsys):
    wanted = abstract(parts(PARAMS, 0))
    for metadata in saved.rglob("_METADATA"):
        metadata.write_text(metadata.read_text()[:100])
    for _ in range(2):  # the second time they are all in checkpoints-damaged
        with pytest.raises(InputError, match="A new run does not replace an old one"):
            restore(saved, wanted)
    newest, oldest = capsys.readouterr().err.splitlines()
    assert "step 2 is damaged" in newest
    assert newest.endswith("that of step 1 is used")
    assert "step 1 is damaged" in oldest
    assert "is used" not in oldest
    assert len(list((saved / "checkpoints-damaged").iterdir())) == 2


@pytest.mark.parametrize("names", [PARAMS, TODAY])
def test_arrays_are_found_under_todays_names_and_under_former_ones(tmp_path, names):
    """Also in the copies inside the optimizer's state, and where both are wanted and there."""
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, parts(names, 1))
    same(restore(tmp_path, abstract(parts(TODAY, 0))), parts(TODAY, 1))
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.restore_part("train/params", abstract(TODAY), step=1)
        same(found, TODAY)
        with pytest.raises(InputError, match="no checkpoint of step 7; it has 1"):
            checkpoints.restore_part("ema", abstract(TODAY), step=7)


def test_every_renamed_parameter_is_found():
    for old, new in migrations.RENAMED_PARAMETERS[2].items():
        name = f"opt_state/1/mu/{new}/kernel"
        former = f"opt_state/1/mu/{old}/kernel"
        assert migrations.saved_name(name, {former}) == former
        assert migrations.saved_name(name, {former, name}) == name
        assert migrations.saved_name(new, {old}) == old
    assert migrations.saved_name("text/null", {"condition/text/null"}) == "text/null"


@pytest.mark.parametrize("part", ["ema", "train/params"])
def test_a_new_run_takes_what_fits_and_says_what_it_leaves(saved, part):
    label = {"classes": {"embedding": jnp.zeros(3)}}
    own = {"label": label, "out": jnp.zeros(5), "more": jnp.zeros(2)}
    for path in (saved, saved / "checkpoints/1"):
        params, taken = start_from(path, own, part)
        same(params, own | {"label": TODAY["label"]})
        left = "2 keep their initial values: more (not saved), out (saved (4,), needed (5,))"
        assert str(taken) == f"took 1 of 3 arrays; {left}"
    with pytest.raises(InputError, match="none of its arrays fits"):
        start_from(saved, {"other": jnp.zeros(2)})
    with pytest.raises(InputError, match="there is no checkpoint to start from"):
        start_from(saved / "nothing", own)
    assert is_untouched(saved)


TWO_PROCESSES = """
    import sys
    from pathlib import Path

    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec as P

    from jaxvid.errors import InputError
    from jaxvid.workdir.checkpoint import Checkpoints

    workdir, address, rank = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    jax.distributed.initialize(address, 2, rank)
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, P("x"))
    numbers = jnp.arange(65536.0)  # so many that each process writes a file of its own
    x = jax.make_array_from_callback(numbers.shape, sharding, lambda i: numbers[i])
    wanted = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    for step in (1, 2):
        with Checkpoints(workdir, keep=2) as checkpoints:
            checkpoints.save(step, {"ema": {"x": x + step}})

    def attempt(names):
        try:
            with Checkpoints(workdir, keep=2) as checkpoints:
                found = checkpoints.restore({"ema": dict.fromkeys(names, wanted)})
            print(int(np.asarray(found["ema"]["x"].addressable_shards[0].data)[0]))
        except InputError as error:
            print("refused", "1 missing: y" in str(error), "A new run" in str(error))

    jax.set_mesh(mesh)
    attempt("xy")
    for step, kind in (2, "ocdbt.process_1/d/*"), (1, "_METADATA"):
        if rank == 1:  # with half of the array, which process 0 does not read
            for file in (workdir / f"checkpoints/{step}/ema").glob(kind):
                file.write_bytes(b"")
        attempt("x")
"""


def test_two_processes_decide_alike(tmp_path):
    """Where one of them alone finds damage, and where both find arrays that they do not want."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1"),
    }
    code = textwrap.dedent(TWO_PROCESSES)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), address, str(rank)],
            cwd=Path(__file__).parents[2], env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=120) for process in processes]
    for (out, _), half in zip(said, ("1", "32769"), strict=True):
        assert out.splitlines()[1:] == ["refused True False", half, "refused False True"], said
    assert "step 2 is damaged" in said[0][1]
    assert "is damaged" not in said[1][1]
