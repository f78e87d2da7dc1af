"""Running an evaluation: the loop, its durable records, and what is computed from them."""
