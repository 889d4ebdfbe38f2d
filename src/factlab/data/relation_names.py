"""What relations are called: the labels of Wikidata's properties, as a person would say them.

Those that CounterFact, ParaRel and the built-in records use. Other data sets may name relations as
they like; what is not here is shown as it is.
"""

from collections.abc import Mapping

RELATION_NAMES: Mapping[str, str] = {
    "P17": "country",
    "P19": "place of birth",
    "P20": "place of death",
    "P27": "citizenship",
    "P30": "continent",
    "P31": "instance of",
    "P36": "capital",
    "P37": "official language",
    "P38": "currency",
    "P39": "position held",
    "P47": "neighbouring country",
    "P50": "author",
    "P57": "director",
    "P86": "composer",
    "P101": "field of work",
    "P102": "political party",
    "P103": "native language",
    "P106": "occupation",
    "P108": "employer",
    "P127": "owner",
    "P131": "part of state or region",
    "P135": "artistic movement",
    "P136": "genre",
    "P138": "named after",
    "P140": "religion",
    "P159": "headquarters",
    "P170": "creator",
    "P171": "biological group",
    "P176": "manufacturer",
    "P178": "developer",
    "P190": "twin city",
    "P206": "river or lake beside it",
    "P264": "record label",
    "P276": "location",
    "P279": "kind of",
    "P361": "part of",
    "P364": "language of the film",
    "P397": "orbits",
    "P403": "flows into",
    "P407": "language of the work",
    "P413": "position in the team",
    "P449": "broadcaster",
    "P463": "member of",
    "P495": "country of origin",
    "P527": "consists of",
    "P530": "diplomatic relation",
    "P641": "sport",
    "P740": "founded in",
    "P937": "place of work",
    "P1001": "jurisdiction",
    "P1303": "instrument",
    "P1376": "capital of",
    "P1412": "language spoken",
}


def relation_label(relation_id: str) -> str:
    """Such as `capital (P36)`; the identifier alone where it has no name here."""
    name = RELATION_NAMES.get(relation_id)
    return relation_id if name is None else f"{name} ({relation_id})"
