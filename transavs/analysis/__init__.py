"""Studies: comparing runs, and measuring time and memory."""
