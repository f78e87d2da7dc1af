"""The only place that knows the insides of transformers: loading, prompts, and pruning inside a model's forward."""
