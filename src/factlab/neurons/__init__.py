"""Locate: which neurons of the MLPs make the model say what it says (knowledge neurons)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
