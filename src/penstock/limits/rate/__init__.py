"""So many starts, or so much, in any window of so many seconds."""
