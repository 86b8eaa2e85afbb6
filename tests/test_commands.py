"""What a user can get wrong with a command, run as the user runs it."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxvid import config as configs
from jaxvid import start
from tests.commands import ROOT, attempt

BASE = "--config=configs/base.py"


@pytest.fixture
def refused():
    """Checks that each command, the last of a case, ends with the one line that the case names."""

    def check(cases, cwd=ROOT):
        for line, command in cases:
            code, out, err = attempt(*command, cwd=cwd)
            assert code == 1, (command, out, err)
            assert err.startswith(f"error: {line}"), (command, err)
            assert err.count("\n") == 1, (command, err)

    return check


RETURNS = "from configs import base\n\n\ndef get_config():\n    c = base.get_config()\n"
FILES = {
    # What the file holds, and the line that the command ends with.
    "syntax": ("import os\n\ndef get_config(:\n", ":3: SyntaxError: invalid syntax"),
    "missing": (f"import torchless\n{RETURNS}", ":1: ModuleNotFoundError: No module named 'torchl"),
    "raises": (f"{RETURNS}    c.steps = 1 / 0\n    return c\n", ":6: ZeroDivisionError: division"),
    "value": (f"{RETURNS}    c.seed = int('x')\n", ":6: ValueError: invalid literal for int"),
    "opens": (f"{RETURNS}    open('/none')\n", ":6: FileNotFoundError: [Errno 2] No such file"),
    "reads": ("open('/none')\n", ":1: FileNotFoundError: [Errno 2] No such file"),
    "none": ("from configs import base\n", " has no get_config(): define one"),
    "empty": (RETURNS, ":4: get_config() returns nothing: end it with `return`"),
    "dict": ("def get_config():\n    return {}\n", ":1: get_config() returns a dict: end it with"),
}


def test_a_config_file_that_fails_is_named_with_its_line(refused, tmp_path):
    cases = []
    for name, (text, line) in FILES.items():
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        cases.append((f"{path}{line}", ["jaxvid.train", f"--config={path}"]))
    (tmp_path / "argument.py").write_text("def get_config(arg):\n    return arg\n")
    (tmp_path / "other.py").write_text(
        "import ml_collections\n\ndef get_config():\n    return ml_collections.ConfigDict()\n"
    )
    for config, line in [
        (f"{tmp_path}/argument.py", "its get_config() needs one argument"),
        ("configs/base.py:foo", "its get_config() takes no argument; leave out ':foo'"),
        ("configs/bsae.py", "there is no such file; did you mean configs/base.py?"),
        ("base.py", "there is no such file; did you mean configs/base.py?"),
    ]:
        cases.append((f"--config={config}: {line}", ["jaxvid.train", f"--config={config}"]))
    cases += [
        ("latte.py:M/2: give SIZE/PATCH", ["jaxvid.train", "--config=configs/latte.py:M/2"]),
        ("give --config=FILE.py, such", ["jaxvid.train"]),
        (
            "--config: the file's config lacks 'steps'",
            ["jaxvid.train", f"--config={tmp_path}/other.py", "--config.steps=3"],
        ),
    ]
    refused(cases)


def test_flags_keys_paths_and_processes_that_are_wrong_are_one_line(refused, tmp_path):
    file = tmp_path / "file"
    file.touch()
    train, sample = ["jaxvid.train", BASE], ["jaxvid.sample", f"--workdir={tmp_path}"]
    where = ["jaxvid.prepare", f"--input={tmp_path}"]
    refused(
        [
            ("config.stepss: there is no such key; did you mean", [*train, "--config.stepss=3"]),
            ("config.data.flp: there is no such key", [*train, "--noconfig.data.flp"]),
            ("config.steps=abc: it must be an integer", [*train, "--config.steps=abc"]),
            (
                "give --config=FILE.py before --config.st",
                ["jaxvid.train", "--config.steps=1", BASE],
            ),
            ("--wrkdir: there is no such option; did you", [*train, "--wrkdir=a"]),
            ("--steps: there is no such option; did you mean --config.st", [*train, "--steps=3"]),
            ("unexpected argument 'dog'", [*sample, "--caption=a", "dog"]),
            ("--num=0: it must be a positive integer", [*sample, "--num=0"]),
            ("give --workdir=DIR of a run, or --cascade=FILE.py", ["jaxvid.sample"]),
            ("--plugins=no_lab.mamba cannot be imported: Mo", [*train, "--plugins=no_lab.mamba"]),
            (f"{file} cannot be written (File exists)", [*train, f"--workdir={file}"]),
            (f"{file}/run cannot be written (Not a directory)", [*train, f"--workdir={file}/run"]),
            ("/proc/run cannot be written (No such file", [*train, "--workdir=/proc/run"]),
            ("--workdir=s3://b/run: object stores", [*train, "--workdir=s3://b/run"]),
            ("--workdir=s3://b/run: object stores", ["jaxvid.sample", "--workdir=s3://b/run"]),
            (f"--output={file}: it is a file", [*where, f"--output={file}"]),
            *[
                (
                    f"--distributed={text}: {line}",
                    [*train, f"--workdir={tmp_path}/run", f"--distributed={text}"],
                )
                for text, line in [
                    ("localhost:1234", "give 'auto' or HOST:PORT,COUNT,INDEX"),
                    ("localhost:1234,two,0", "give 'auto' or HOST:PORT,COUNT,INDEX"),
                    ("localhost:port,2,0", "give 'auto' or HOST:PORT,COUNT,INDEX"),
                    ("localhost:99999,2,0", "the port 99999 must be from 1 to 65535"),
                    ("localhost:1234,2,2", "the index 2 must be below the count 2"),
                    ("no such host:1234,2,1", "there is no host 'no such host'"),
                    ("auto", "this is not a TPU pod, Slurm job or Open MPI launch"),
                ]
            ],
        ]
    )


def test_help_lists_the_flags_and_the_keys_that_may_be_given_and_succeeds():
    free = {name for name, declared in configs.KEYS.items() if declared.free}
    taken = {"jaxvid.train": {*configs.KEYS}, "jaxvid.sample": free, "jaxvid.prepare": set()}
    for command in (*taken, "benchmarks.train_step"):
        code, out, err = attempt(command, "--help")
        assert (code, err) == (0, "")
        assert f"python -m {command}" in out
        assert re.search(r"^  --(workdir|output|repeats)=", out, re.MULTILINE)
        keys = set(re.findall(r"^  --config\.(\S+?)=", out, re.MULTILINE))
        assert keys == taken.get(command, {*configs.KEYS})


def test_jaxvid_lists_every_command_fast_and_runs_it(refused):
    lists = (
        "import sys; sys.argv[1:] = ['--help']; from jaxvid.__main__ import main; main(); "
        "print({'absl', 'jax', 'numpy'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", lists], cwd=ROOT, capture_output=True, text=True)
    listed = dict(re.findall(r"^  (\w+) +(.+)$", out.stdout, re.MULTILINE))
    files = {path.stem: path.read_text() for path in (ROOT / "jaxvid").glob("*.py")}
    begin = re.compile(r"^    start\.begin\(", re.MULTILINE)
    assert listed.keys() == {name for name, text in files.items() if begin.search(text)}
    assert all(files[name].startswith(f'"""{line}\n') for name, line in listed.items())
    assert out.stdout.endswith("\nset()\n")
    refused(
        [
            ("'trian' is not a command; did you mean 'train'? ", ["jaxvid", "trian"]),
            ("give a command; `jaxvid --help` lists them", ["jaxvid"]),
            ("config.stepss: there is no", ["jaxvid", "train", BASE, "--config.stepss=3"]),
        ]
    )
    assert attempt("jaxvid", "train", "--help") == attempt("jaxvid.train", "--help")


def test_the_shipped_configs_are_found_from_any_folder_after_its_own(refused, tmp_path):
    def case(line, config):
        return line, ["jaxvid.train", f"--config={config}", "--workdir=s3://b"]

    loaded = "--workdir=s3://b: object"  # which is refused after the config has been loaded
    (tmp_path / "configs").mkdir()
    for name in ("mine.py", "configs/mine.py"):
        (tmp_path / name).write_text(f"{RETURNS}    return c\n")
    names = ("configs/worlds.py:bodies", "mine.py", "configs/mine.py")
    refused([case(loaded, name) for name in names], cwd=tmp_path)
    missing = "--config=configs/bsae.py: there is no such file; did you mean configs/base.py?"
    refused([case(missing, "configs/bsae.py")], cwd=tmp_path)

    (tmp_path / "configs" / "base.py").write_text("raise ValueError('own')\n")
    names = ("configs/base.py", "mine.py", "configs/mine.py")
    refused([case(f"{name}:1: ValueError: own", name) for name in names], cwd=tmp_path)


def test_a_plugin_is_imported_before_the_config_file_is_read(refused, tmp_path):
    lab = tmp_path / "my_lab"
    lab.mkdir()
    (lab / "mamba.py").write_text(
        "from jaxvid.config import POSITIVE, declare, key\n"
        "from jaxvid.models.mixers import MIXERS\n\n"
        "MIXERS['mamba'] = MIXERS['mlp']\n"
        "declare('mamba', states=key(16, POSITIVE, 'numbers per channel that are remembered'))\n"
    )
    (lab / "broken.py").write_text("x = 1\ny = z\n")
    (tmp_path / "run.py").write_text(
        "from jaxvid.build import default_config\n\n\ndef get_config():\n"
        "    c = default_config()\n    c.mamba.states = 8\n"
        "    c.model.blocks = 'space mamba'\n    return c\n"
    )
    # What is wrong comes after the config file, with its outside key and word, has been checked.
    late = ["--config=run.py", "--config.mamba.states=4", "--workdir=s3://b"]
    refused(
        [
            ("--workdir=s3://b: object", ["jaxvid.train", "--plugins=my_lab.mamba", *late]),
            ("--workdir=s3://b: object", ["jaxvid.train", *late, "--plugins", "my_lab.mamba"]),
            ("config.mamba.states: there is no such key", ["jaxvid.train", *late]),
            (
                f"--plugins=my_lab.broken cannot be imported: {lab}/broken.py:2: NameError",
                ["jaxvid.train", "--plugins=my_lab.mamba,my_lab.broken", *late],
            ),
        ],
        cwd=tmp_path,
    )


def test_a_disk_that_fills_up_is_one_line_and_leaves_no_half_written_file(tmp_path):
    workdir = f"--workdir={tmp_path}"
    code, _, err = attempt("jaxvid.train", "--config=tests/tiny.py", workdir, file_size=1000)
    assert code == 1
    assert re.fullmatch("error: .*File too large.*\n", err)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize("module", ["train", "sample"])
def test_ctrl_c_while_importing_is_one_line(module, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", f"jaxvid.{module}", BASE, f"--workdir={tmp_path}"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while "jaxlib" not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "interrupted\n")
    assert process.returncode == 130


def test_huge_pages_are_on_by_default_once_and_can_be_turned_off(tmp_path):
    if not start.huge_pages_help(os.environ | {"JAXVID_HUGE_PAGES": "1"}):
        pytest.skip("this machine has none")

    def says(**environment):
        kept = {k: v for k, v in os.environ.items() if k != "JAXVID_HUGE_PAGES"}
        done = subprocess.run(
            [sys.executable, "-m", "jaxvid.train", BASE, f"--workdir={tmp_path}/file/run"],
            cwd=ROOT, env=kept | environment, capture_output=True, text=True,
        )  # fmt: skip
        return done.stderr.splitlines()[:-1]

    (tmp_path / "file").touch()
    on = ["huge pages: on (JAXVID_HUGE_PAGES=0 turns them off)"]
    assert says(GLIBC_TUNABLES="glibc.malloc.tcache_count=4") == on
    assert says(JAXVID_HUGE_PAGES="0") == []


def test_what_is_compiled_is_kept_for_the_next_start(tmp_path):
    def begins(home, then="", **environment):
        """Where it is kept, and what is said."""
        code = (
            f"from jaxvid import start; start.begin(huge_pages=False)\n{then}\n"
            "import os; print(os.environ.get('JAX_COMPILATION_CACHE_DIR'))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
            env={"XDG_CACHE_HOME": f"{tmp_path}/{home}", "JAX_PLATFORMS": "cpu", **environment},
        )  # fmt: skip
        return done.stdout.strip(), done.stderr

    compiles = "import jax; jax.jit(lambda x: x + 1)(0)"
    folder, said = begins("cache", compiles, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    assert said == ""
    assert folder.startswith(f"{tmp_path}/cache/jaxvid/compiled-")
    assert list(Path(folder).glob("jit__lambda-*-cache"))
    (tmp_path / "file").touch()
    folder, said = begins("file")
    assert folder == "None"
    assert re.fullmatch(f"note: {tmp_path}/file/jaxvid/compiled-.*: Not a directory; .*\n", said)
    assert begins("file", JAX_ENABLE_COMPILATION_CACHE="false") == ("None", "")
    assert begins("file", JAX_COMPILATION_CACHE_DIR="s3://bucket/a") == ("s3://bucket/a", "")


def test_programs_that_were_not_used_for_longest_are_dropped(tmp_path):
    for age, name in enumerate("abcd"):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    os.utime(tmp_path / "d", (2000, 900))  # read since
    start.drop_oldest(tmp_path, 25)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "d"}
