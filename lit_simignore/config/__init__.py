"""Configuration as data: typed dataclasses, YAML that overrides them, one-line errors, and help that writes itself."""
