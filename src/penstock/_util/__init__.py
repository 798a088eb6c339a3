"""What the rooms share: checks of arguments, lifecycles, waiting, signals, progress."""
