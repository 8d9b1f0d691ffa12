"""Tensors only. Every loss returns a sum; the loop divides once by the units of the whole global batch."""
