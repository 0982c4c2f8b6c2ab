"""steep trains language models to think before they answer, and serves them with a dial for how long."""

__version__ = "0.1.0"
