"""Attacks by some peers, and the delay that they add for others: `nox -s withstand`."""
