"""What the launch scripts share. They need no package, and run where jaxvid is not installed."""

import argparse
import math
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

TRAIN = "python", "-m", "jaxvid.train"
JOIN = {"jaxvid.train", "jaxvid.sample", "jaxvid.evaluate"}  # these take --distributed
STOPPED = 143  # the exit code of a run that a signal stopped, after it saved


class Failed(Exception):
    """A command ended with an error."""


def refuse(line: str) -> NoReturn:
    """Ends with exit code 2: nothing was done."""
    print(f"error: {line}", file=sys.stderr)
    sys.exit(2)


class Shell:
    """Runs commands. With `dry_run` it prints them instead, as one would type them."""

    def __init__(self, dry_run: bool):
        self.dry_run = dry_run

    def say(self, *words: str) -> None:
        """Prints a line, which is no command."""
        if not self.dry_run:
            print(*words, flush=True)

    def need(self, tool: str, remedy: str) -> None:
        """Refuses if a program is not installed."""
        if not self.dry_run and not shutil.which(tool):
            refuse(f"{tool} is not installed: {remedy}")

    def check(self, remedy: str, *words: str) -> None:
        """Refuses if a command fails, such as one that asks for credentials."""
        try:
            self.ask(*words)
        except Failed as error:
            refuse(f"{error}; {remedy}")

    def run(self, *words: str, stdin: str | None = None) -> None:
        """Runs a command; raises Failed."""
        print(*["+"] * (not self.dry_run), shlex.join(words), flush=True)
        if self.dry_run:
            print(stdin or "", end="")
        elif code := subprocess.run(words, input=stdin, text=True).returncode:
            raise Failed(f"{shlex.join(words[:5])} ended with exit code {code}")

    def ask(self, *words: str, assume: str = "", missing: str | None = None) -> str:
        """What a command says; raises Failed.

        Args:
          words: a command that changes nothing.
          assume: its answer in a dry run.
          missing: an error with this text is the answer "".
        """
        if self.dry_run:
            print(shlex.join(words))
            return assume
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if not done.returncode:
            return done.stdout.strip()
        if missing and missing in done.stderr:
            return ""
        reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise Failed(f"{shlex.join(words[:5])}: {reason}")


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments of a script, and the command after them.

    The command follows `--`. Without a program, its words are flags of jaxvid.train, and --config=
    may then begin them without `--`; a --dry-run among those is the script's.
    """
    words = list(arguments)
    starts = [i for i, word in enumerate(words) if word == "--" or word.startswith("--config=")]
    own, command = (words[: starts[0]], words[starts[0] :]) if starts else (words, [])
    if command[:1] == ["--"]:
        command = command[1:]
    elif "--dry-run" in command:
        command.remove("--dry-run")
        own.append("--dry-run")
    if command and command[0].startswith("-"):
        command = [*TRAIN, *command]
    return own, command


def joined(command: Sequence[str], how: str) -> list[str]:
    """The command with `--distributed`, if it takes that and does not have it."""
    given = any(word.startswith("--distributed") for word in command)
    return [*command, *[f"--distributed={how}"] * (not given and not JOIN.isdisjoint(command))]


def name(text: str) -> str:
    """A name that Google Cloud and Kubernetes accept, also with what they append to it."""
    if not re.fullmatch("[a-z]([-a-z0-9]{0,38}[a-z0-9])?", text):
        raise argparse.ArgumentTypeError(
            f"{text!r}: lower-case letters, digits and hyphens, a letter first, at most 40"
        )
    return text


class Tpu(NamedTuple):
    """A slice of TPU chips."""

    kind: str
    topology: str  # such as 4x4
    chips: int
    hosts: int
    accelerator_type: str  # of Cloud TPU; v4 and v5p count cores, two to a chip
    runtime: str  # of Cloud TPU
    node: str  # the accelerator of GKE's nodes


# The prefix of accelerator types, cores per chip in them, sides, runtime, GKE's accelerator.
KINDS = {
    "v4": ("v4", 2, 3, "tpu-ubuntu2204-base", "tpu-v4-podslice"),
    "v5e": ("v5litepod", 1, 2, "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice"),
    "v5p": ("v5p", 2, 3, "v2-alpha-tpuv5", "tpu-v5p-slice"),
    "v6e": ("v6e", 1, 2, "v2-alpha-tpuv6e", "tpu-v6e-slice"),
}


def tpu(text: str) -> Tpu:
    """Parses "v5e:4x4". A host of a slice has four chips."""
    kind, _, topology = text.partition(":")
    prefix, cores, sides, runtime, node = KINDS.get(kind, ("", 0, 0, "", ""))
    if not sides or not re.fullmatch(rf"[1-9]\d*(x[1-9]\d*){{{sides - 1}}}", topology):
        raise argparse.ArgumentTypeError(f"{text!r}: such as v5e:4x4, v5p:4x4x8 or v6e:16x16")
    chips = math.prod(map(int, topology.split("x")))
    if chips != 1 and chips % 4:
        raise argparse.ArgumentTypeError(f"{text!r}: {chips} chips are no whole hosts of four")
    hosts = max(1, chips // 4)
    return Tpu(kind, topology, chips, hosts, f"{prefix}-{chips * cores}", runtime, node)


def at_least(least: int):
    """A parser of integers for argparse."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}: an integer of at least {least}")
        return int(text)

    return parse


def parser(doc: str) -> argparse.ArgumentParser:
    """A parser whose help is the docstring of a script."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")
    return parser
