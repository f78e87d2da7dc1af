"""Sweeps: W&B's sweep files, run on one machine without a server, and one page over everything that was run."""
