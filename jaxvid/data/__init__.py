"""From a source of videos to batches on the devices: `uint8` clips in a fixed global order."""
