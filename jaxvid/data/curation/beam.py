"""Runs jobs as a pipeline of Apache Beam: on Dataflow, Flink, Spark, or processes of this machine.

Its own options choose the runner and the workers, which must see the input and output folders at
the same paths, as those of a bucket are, and have jaxvid installed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from jaxvid.errors import InputError


def make_pipeline(options: Sequence[str]) -> beam.Pipeline:
    """An empty pipeline with options such as "--runner=DirectRunner".

    Raises InputError for a runner that Beam does not know.
    """
    try:
        return beam.Pipeline(options=PipelineOptions(list(options)))
    except ValueError as error:
        raise InputError(f"--beam: {error}") from error


def run(pipeline: beam.Pipeline, function: Callable[[Any], Any], jobs: Sequence[Any]) -> None:
    """Calls `function` with each job, and waits for the end; results are what it writes.

    Args:
      pipeline: of `make_pipeline`.
      function: importable by the workers.
      jobs: are pickled.

    Raises:
      RuntimeError: the pipeline failed.
    """
    with pipeline:
        # Without it, a runner may keep all jobs on one worker.
        spread = pipeline | beam.Create(jobs) | beam.Reshuffle()
        spread | beam.Map(function) | beam.Map(_nothing)


def _nothing(_: Any) -> None:
    """What is known of a shard need not travel: it is written beside it."""
