"""Shoal beside others: each in an environment of its own, asked the same, in turn."""
