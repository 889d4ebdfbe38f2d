from .configs import HumanConfig as HumanConfig
from .key import HumanStudy as HumanStudy
from .make import make_human_study as make_human_study
from .result import HumanScores as HumanScores
from .result import score_human_study as score_human_study
