"""Is it right, how fast is it, and next to whom? `python -m benchmarks.run engine`."""
