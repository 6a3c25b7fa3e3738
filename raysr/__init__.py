"""Equal-cost comparison of super-resolution architectures on Ray."""

__version__ = "0.1.0"
