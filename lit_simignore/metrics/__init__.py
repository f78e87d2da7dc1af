"""Numbers about answers and their cost: pure functions, thin ``torchmetrics`` shells, paired statistics."""
