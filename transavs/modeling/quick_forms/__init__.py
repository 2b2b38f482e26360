"""Convolutions in fewer multiplications, equal to the plain ones to rounding: for inference in float32 on a CPU."""
