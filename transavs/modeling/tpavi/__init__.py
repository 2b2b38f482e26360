"""TPAVI (arXiv 2301.13190), the baseline of AVSBench."""
