"""Write a page about a run, or compare several: curves, samples, scores, data, config and machine.

    python -m jaxvid.report runs/base
    python -m jaxvid.report runs/base runs/joint [--output=comparison.html]

A run writes its own page when it ends; this command also writes that of one that goes on. The page
needs no other file: it can be sent, and opens from a disk.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin(huge_pages=False)

from collections.abc import Sequence

from absl import flags

import jaxvid.build  # noqa: F401  declares all keys
from jaxvid import config as configs
from jaxvid import errors, files
from jaxvid.errors import InputError
from jaxvid.workdir.report import write_report

OUTPUT = flags.DEFINE_string(
    "output", None, "File; by default report.html in the run, or comparison.html here of several."
)


def main(argv: Sequence[str]) -> None:
    workdirs = [files.to_path(word, "work directory") for word in argv[1:]]
    if not workdirs:
        raise InputError("give the work directory of a run, or of several to compare: runs/base")
    usual = "comparison.html" if len(workdirs) > 1 else workdirs[0] / "report.html"
    output = files.to_path(OUTPUT.value or usual, "--output")
    write_report(output, workdirs)
    print(f"{output}: {files.size_of(output) / 1e6:.1f} MB")


if __name__ == "__main__":
    errors.run(main, configs.parse_flags, words=True)
