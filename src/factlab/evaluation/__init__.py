"""Measure: CounterFact and zsRE, over many facts and methods.

The rooms follow what happens: `measuring` asks an edited model, `running` does that for many
records and keeps what was measured, `scoring` makes numbers of it, and `reporting` makes tables and
pictures of them; `sweeping` does all of it for many methods, settings or places. `harnessing` has
another package ask: lm_eval, for what a model is able to do in general. `judging` has another model
say which answers are right. `probing` asks what edits do beside what they are for.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
