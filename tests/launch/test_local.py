"""launch/local.py with small commands in place of a training."""

import os
import shlex
import signal
import subprocess
import sys

from tests.commands import ROOT

LOCAL = [sys.executable, ROOT / "launch/local.py"]


def attempt(*words, **environment):
    done = subprocess.run(
        [*LOCAL, *words], capture_output=True, text=True, env=os.environ | environment
    )
    return done.returncode, sorted(done.stdout.splitlines()), done.stderr


def python(code):
    return "--", sys.executable, "-SEc", code


def test_each_process_has_its_devices_and_each_line_its_number():
    code = "import os, sys; print(os.environ['XLA_FLAGS']); print(*sys.argv[1:], file=sys.stderr)"
    words = "--processes=3", "--devices=2", *python(code), "it's", "a b"
    given = "--xla_force_host_platform_device_count=8 --xla_other=1"
    code, lines, _ = attempt(*words, XLA_FLAGS=given)
    flags = "--xla_other=1 --xla_force_host_platform_device_count=2"
    assert (code, lines) == (0, [f"[{i}] {line}" for i in range(3) for line in (flags, "it's a b")])


def test_a_dry_run_prints_commands_that_join_one_another():
    flags = "--config=tests/tiny.py", "--workdir=it's"
    code, lines, _ = attempt("--processes=2", *flags, "--dry-run", XLA_FLAGS="")
    assert code == 0
    for index, line in enumerate(lines):
        words = shlex.split(line)
        assert words[:2] == ["env", "JAX_PLATFORMS=cpu"]
        assert words[4:-1] == [sys.executable, "-m", "jaxvid.train", *flags]
        assert words[-1].startswith("--distributed=127.0.0.1:")
        assert words[-1].endswith(f",2,{index}")
    assert len({line.partition("--distributed=")[2].partition(",")[0] for line in lines}) == 1


def test_the_first_failure_ends_the_others_and_is_the_exit_code(tmp_path):
    script = f"""
import os, sys, time
try:
    os.mkdir({str(tmp_path / "first")!r})  # which one of them can
except FileExistsError:
    time.sleep(99)
sys.exit(5)
"""
    code, lines, _ = attempt("--processes=3", "--grace=0.1", *python(script))
    assert code == 5
    assert "0.1 s after the first failed, the others are killed" in lines
    ends = [line[4:] for line in lines if "ended" in line]
    assert sorted(ends) == ["ended with exit code -9"] * 2 + ["ended with exit code 5"]


def test_a_signal_goes_to_all():
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "print('ready', flush=True)\n"
        "signal.pause()"
    )
    process = subprocess.Popen(
        [*LOCAL, "--processes=2", *python(code)], stdout=subprocess.PIPE, text=True
    )
    assert {process.stdout.readline() for _ in range(2)} == {"[0] ready\n", "[1] ready\n"}
    process.send_signal(signal.SIGTERM)
    assert process.stdout.read().count("ended with exit code 143") == 2
    assert process.wait() == 143


def test_a_mistake_is_one_line():
    for words, line in [
        (["--processes=2"], "give a command after --"),
        (["--processes=0", "--", "true"], "'0': an integer of at least 1"),
        (["--", "no-such-program"], "no-such-program: No such file or directory"),
    ]:
        code, _, error = attempt(*words)
        assert (code, line in error.splitlines()[-1]) == (2, True), error
