"""Edit: change what a model says about a fact.

An `Edit` is a change of a few weights as a thing of its own. The rooms are the crafts that make
one: `closed_form` (ROME, MEMIT, EMMET, AlphaEdit, UltraEdit), `fine_tuning` (FT, FT+L, AttnEdit),
`knowledge_neurons` (KN) and `trained` (KE, MEND); and `shipping`, which saves and exports it. No
craft imports another.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
