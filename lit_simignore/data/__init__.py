"""Samples on their way to a model: exact shards, batches that do not change, images that may be broken."""
