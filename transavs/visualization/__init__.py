"""Figures of clips, queries, scores and runs."""
