"""ukd: label-free distillation of self-supervised vision teachers into small students."""

__version__ = "0.1.0"
