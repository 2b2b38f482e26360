"""Generated clips with sound, in the layouts of AVSBench."""
