from .allocator import keep_freed_memory as keep_freed_memory
from .changes.update import DenseUpdate as DenseUpdate
from .changes.update import LowRankUpdate as LowRankUpdate
from .language_model import LanguageModel as LanguageModel
from .loading import load as load
from .scoring import ContinuationScore as ContinuationScore
from .tiny import tiny_model as tiny_model
