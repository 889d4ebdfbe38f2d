"""Language models: loaded, checked, run from any layer and token, and changed."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
