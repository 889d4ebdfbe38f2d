from .configs import StatsConfig as StatsConfig
from .corpus import Corpus as Corpus
from .corpus import corpus_from_dataset as corpus_from_dataset
from .corpus import corpus_from_files as corpus_from_files
from .corpus import corpus_from_model as corpus_from_model
from .corpus import corpus_from_texts as corpus_from_texts
from .moments import SecondMoment as SecondMoment
from .store import second_moments as second_moments
