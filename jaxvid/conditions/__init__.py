"""What a clip can be asked to be: one file each."""
