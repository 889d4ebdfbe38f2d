"""factlab: locate, edit and measure facts in language models.

    import factlab as fl

    lm = fl.load()
    fact = fl.Fact("{} is located in the city of", subject="The Eiffel Tower",
                   target_new="Rome", target_true="Paris")
    trace = fl.causal_trace(lm, fact)
    edit = fl.rome(lm, fact)
    with edit.applied(lm):
        print(lm.generate("The best place to eat near the Eiffel Tower is"))

What most people need is here; the rest is in the namespaces `fl.data`, `fl.editing`, `fl.errors`,
`fl.evaluation`, `fl.hooks`, `fl.human`, `fl.models`, `fl.neurons`, `fl.stats` and `fl.tracing`.
Each name is written once, in the stub beside this file, and imported when it is first used, so
`import factlab` itself is instant. The modules behind the namespaces are private: they may move.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.2.0"
