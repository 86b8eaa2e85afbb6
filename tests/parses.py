"""`python -m tests.parses MODULE ARGUMENT…`: a command that only reads its arguments."""

import runpy
import sys

from absl import app

app.run = lambda main, flags_parser: flags_parser(sys.argv)
module = sys.argv.pop(1)
runpy.run_module(module, run_name="__main__", alter_sys=True)
