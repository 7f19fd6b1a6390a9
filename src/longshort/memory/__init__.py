"""The proof that it remembers."""
