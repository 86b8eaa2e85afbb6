"""Runs jobs as a pipeline of Apache Beam: on Dataflow, Flink, Spark, or processes of this machine.

Its own options choose the runner and the workers, which must see the input and output folders at
the same paths, and have jaxvid installed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions


def run(function: Callable[[Any], Any], jobs: Sequence[Any], options: Sequence[str]) -> None:
    """Calls `function` with each job, and waits for the end; results are what it writes.

    Args:
      function: importable by the workers.
      jobs: are pickled.
      options: such as "--runner=DirectRunner".

    Raises:
      RuntimeError: the pipeline failed.
    """
    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        # Without it, a runner may keep all jobs on one worker.
        spread = pipeline | beam.Create(jobs) | beam.Reshuffle()
        spread | beam.Map(function) | beam.Map(_nothing)


def _nothing(_: Any) -> None:
    """What is known of a shard need not travel: it is written beside it."""
