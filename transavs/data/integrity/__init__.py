"""The data doctor: what is wrong with a copy of AVSBench."""
