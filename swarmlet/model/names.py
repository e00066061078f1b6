"""Names for services whose user gave none, in Docker's manner: an adjective and a surname."""

from typing import Final

_ADJECTIVES: Final = (
    "agile amber bold brave bright brisk calm careful cheerful clear clever cosy curious daring "
    "deft eager early fair fearless fine fond frank friendly gentle glad golden happy hardy honest "
    "humble jolly keen kind lively loyal lucid lucky merry mild modest neat nimble noble patient "
    "placid plucky polite proud quick quiet ready serene sharp silent sincere steady sunny swift "
    "tender thorough tidy trusty vivid wise witty"
)
_SURNAMES: Final = (
    "babbage bell blackwell bohr boole cerf curie darwin dijkstra einstein elion euclid euler "
    "faraday fermat fermi feynman franklin galileo gauss germain goodall hamilton hawking hertz "
    "hopper hypatia jemison joliot kepler knuth kovalevskaya lamarr lamport leavitt liskov "
    "lovelace mccarthy meitner mendel mirzakhani moser newton nobel noether pascal pasteur perlman "
    "planck ptolemy ramanujan ride rubin shannon sutherland tesla thompson torvalds turing volta "
    "wing wozniak wright wu"
)
_BASE: Final = 36


def made_up_name(object_id: str) -> str:
    """The name for the object with this random id: the same id gives the same name."""
    adjectives, surnames = _ADJECTIVES.split(), _SURNAMES.split()
    number, adjective = divmod(int(object_id, _BASE), len(adjectives))
    return f"{adjectives[adjective]}_{surnames[number % len(surnames)]}"
