"""The bundled model: a LLaVA small enough to train from scratch on a CPU, on the generated world of ``shapes``."""
