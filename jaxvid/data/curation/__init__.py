"""From a video to clips that are worth training on: plain functions of one video at a time."""
