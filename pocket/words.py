"""The words of the small world: who there is, and what can be true of them."""

from typing import NamedTuple


def listed(words: str) -> tuple[str, ...]:
    """Return words that are written with spaces between them."""
    return tuple(words.split())


class Attribute(NamedTuple):
    """One kind of fact: "The {noun} of Mira is {value}."."""

    noun: str
    values: tuple[str, ...]


NAMES: tuple[str, ...] = listed(
    """Mira Tom Ada Ben Clara David Elena Felix Greta Hugo Ines Jonas Karin Leo Maya Nils Olga
    Paul Rosa Simon Tara Umar Vera Walter Yusuf Zoe Anton Bruno Carla Dora Emil Frida Georg Hanna
    Ivan Julia Kofi Lena Marco Nora Oscar Petra Ravi Sofia Theo Ursula Viktor Wanda Yara Zeno Alice
    Boris Celia Dario Edith Fatima Gustav Helga Igor Jasper Kenji Laura Milan Nadia Otto Priya
    Quentin Rita Stefan Thea Uma Vince Wilma Xenia Yoko Zara Akira Bela Chen Diego"""
)

ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute(
        "city",
        listed(
            """Oslo Rome Paris Lima Cairo Berlin Tokyo Madrid Dublin Prague Vienna Lisbon Athens
            Delhi Seoul Nairobi Quito Havana Boston Geneva Turin Lagos Hanoi Zurich Riga Porto
            Krakow Malmo Perth Denver Dakar Lyon"""
        ),
    ),
    Attribute(
        "job",
        listed(
            """baker teacher doctor lawyer farmer pilot nurse painter plumber writer singer tailor
            gardener driver sailor judge banker dentist florist potter barber butcher miner guard
            waiter clerk"""
        ),
    ),
    Attribute(
        "pet",
        listed(
            """cat dog parrot rabbit horse goat hamster turtle lizard snake pony donkey duck goose
            ferret canary llama mouse spider frog"""
        ),
    ),
    Attribute(
        "colour",
        listed("red blue green yellow purple orange black white brown pink grey violet"),
    ),
    Attribute(
        "food",
        listed(
            """soup rice bread pasta salad cheese beans fish pizza noodles curry honey apples
            plums grapes lentils pears nuts corn stew"""
        ),
    ),
    Attribute(
        "instrument",
        listed(
            """violin piano flute guitar drums cello harp trumpet organ banjo clarinet tuba lute
            oboe fiddle bassoon"""
        ),
    ),
)
