"""Runs a command by its name: `jaxvid train …` does what `python -m jaxvid.train …` does."""

import ast
import os
import runpy
import sys
from pathlib import Path

COMMANDS = "train", "sample", "evaluate", "prepare", "preview", "aot", "report", "export", "demo"


def main() -> None:
    """Runs the command in the first argument on the others; `--help` lists the commands.

    Raises SystemExit with one line if there is no such command.
    """
    name = (sys.argv[1:] or [""])[0]
    if name in ("--help", "-h"):
        print("jaxvid COMMAND [--OPTION=VALUE …]; `jaxvid COMMAND --help` lists the options\n")
        for command in COMMANDS:
            print(f"  {command:9} {_first_line(command)}")
    elif name in COMMANDS:
        del sys.argv[1]
        if not sys.flags.safe_path:
            sys.path[0] = os.getcwd()  # as `python -m` does; for a script it is the script's folder
        runpy.run_module(f"jaxvid.{name}", run_name="__main__", alter_sys=True)
    else:
        from jaxvid.errors import nearest  # not needed for a command, and slow

        wrong = f"{name!r} is not a command" if name else "give a command"
        sys.exit(f"error: {wrong}; {nearest(name, COMMANDS)}`jaxvid --help` lists them")


def _first_line(command: str) -> str:
    """Of its docstring, without its imports, which are slow."""
    tree = ast.parse(Path(__file__).with_name(f"{command}.py").read_bytes())
    return (ast.get_docstring(tree) or "").partition("\n")[0]


if __name__ == "__main__":
    main()
