"""From noise to clips, and to long videos."""
