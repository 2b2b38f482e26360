"""TransAVS (arXiv 2305.07223), a file for each box of its figure."""
