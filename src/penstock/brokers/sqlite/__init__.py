"""The queue in a file of SQLite, for the processes of one machine. It needs no extra."""
