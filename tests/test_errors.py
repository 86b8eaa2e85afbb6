import errno
import os

import pytest
from absl import app, flags

from jaxvid import errors


@pytest.fixture
def ends(monkeypatch):
    """Runs a command that raises an error; returns the line that it ends with."""
    monkeypatch.setattr(app, "run", lambda main, flags_parser: main(flags_parser(["command"])))
    monkeypatch.setattr("sys.unraisablehook", None)

    def run(error, argv=("command",)):
        def main(_):
            raise error

        with pytest.raises(SystemExit) as ended:
            errors.run(main, lambda _: list(argv))
        return ended.value.code

    return run


def test_what_the_user_got_wrong_is_one_line(ends):
    assert ends(errors.InputError("x: it must be y")) == "error: x: it must be y"
    assert ends(None, ["command", "dog"]).startswith("error: unexpected argument 'dog'")
    assert ends(KeyboardInterrupt()) == 130


def test_what_the_disk_refuses_is_one_line_however_libraries_wrap_it(ends):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/a/metrics.jsonl")
    line = "error: runs/a/metrics.jsonl: No space left on device; make room, and run the same"
    assert ends(full).startswith(line)
    wrapped = RuntimeError("the writer failed")
    wrapped.__cause__ = full
    assert ends(wrapped).startswith(line)
    native = ValueError(
        "RESOURCE_EXHAUSTED: Error writing\n  'runs/a/d/0': No space left on device"
    )
    assert ends(native).startswith("error: RESOURCE_EXHAUSTED: Error writing 'runs/a/d/0'")
    assert ends(PermissionError(errno.EACCES, "Permission denied", "/a")).startswith("error: /a: ")


def test_a_fault_of_the_program_keeps_its_traceback(ends):
    for error in (ValueError("shapes differ"), FileNotFoundError(errno.ENOENT, "No such file")):
        with pytest.raises(type(error)):
            ends(error)


def test_absls_messages_are_plain(ends, monkeypatch):
    values = flags.FlagValues()
    flags.DEFINE_integer("num", 1, "How many.", lower_bound=1, flag_values=values)
    flags.DEFINE_string("workdir", None, "A work directory.", flag_values=values, required=True)
    monkeypatch.setattr(flags, "FLAGS", values)

    def parse(*argv):
        with pytest.raises(SystemExit) as ended:
            errors.run(lambda _: None, lambda _: values(["command", *argv]))
        return ended.value.code

    assert parse("--num=0") == "error: --num=0: it must be a positive integer"
    assert parse("--nmu=1") == "error: --nmu: there is no such option; did you mean --num?"
    assert parse("--xyz=1") == "error: --xyz: there is no such option; --help lists all"
    assert parse("--num") == "error: --num needs a value: --num=…"
    assert parse() == "error: give --workdir=…: A work directory."
    assert parse("--config.steps=1") == "error: give --config=FILE.py before --config.steps"
