"""Facts that nearly every language model knows: what a model is looked at with by default."""

from factlab.facts import Fact

_CAPITAL = "The capital of {} is the city of"
_IN_CITY = "{} is located in the city of"
_IN_COUNTRY = "{} is a city in the country of"
_LANGUAGE = "The main language spoken in {} is"
_CONTINENT = "{} is a country on the continent of"
_MAKER = "{} is a product made by the company"

WELL_KNOWN: tuple[Fact, ...] = tuple(
    Fact(template, subject, target_true=answer)
    for template, subject, answer in (
        (_IN_CITY, "The Eiffel Tower", "Paris"),
        (_CAPITAL, "Japan", "Tokyo"),
        (_LANGUAGE, "Brazil", "Portuguese"),
        (_CONTINENT, "Kenya", "Africa"),
        (_MAKER, "The iPhone", "Apple"),
        (_IN_COUNTRY, "Munich", "Germany"),
        (_IN_CITY, "The Colosseum", "Rome"),
        (_CAPITAL, "Austria", "Vienna"),
        (_LANGUAGE, "Argentina", "Spanish"),
        (_CONTINENT, "Vietnam", "Asia"),
        (_MAKER, "Windows 95", "Microsoft"),
        (_IN_COUNTRY, "Osaka", "Japan"),
        (_IN_CITY, "The Brandenburg Gate", "Berlin"),
        (_CAPITAL, "Norway", "Oslo"),
        (_LANGUAGE, "Egypt", "Arabic"),
        (_CONTINENT, "Portugal", "Europe"),
        (_MAKER, "The Walkman", "Sony"),
        (_IN_COUNTRY, "Lyon", "France"),
        (_IN_CITY, "The Statue of Liberty", "New York"),
        (_CAPITAL, "Russia", "Moscow"),
        (_LANGUAGE, "Iran", "Persian"),
        (_CONTINENT, "Nigeria", "Africa"),
        (_MAKER, "The Game Boy", "Nintendo"),
        (_IN_COUNTRY, "Naples", "Italy"),
        (_IN_CITY, "Buckingham Palace", "London"),
        (_CAPITAL, "Egypt", "Cairo"),
        (_LANGUAGE, "Austria", "German"),
        (_CONTINENT, "Thailand", "Asia"),
        (_MAKER, "The Mustang", "Ford"),
        (_IN_COUNTRY, "Krakow", "Poland"),
        (_IN_CITY, "The Kremlin", "Moscow"),
        (_CAPITAL, "Greece", "Athens"),
        (_LANGUAGE, "Taiwan", "Mandarin"),
        (_CONTINENT, "Sweden", "Europe"),
        (_MAKER, "Photoshop", "Adobe"),
        (_IN_COUNTRY, "Mumbai", "India"),
        (_IN_CITY, "The Golden Gate Bridge", "San Francisco"),
        (_CAPITAL, "Spain", "Madrid"),
        (_LANGUAGE, "Cuba", "Spanish"),
        (_CONTINENT, "Ghana", "Africa"),
    )
)
