"""The figures that tools/visualize.py and the ablation study draw."""
