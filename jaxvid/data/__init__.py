"""The data pipeline, from videos to batches of `uint8` clips on the devices."""
