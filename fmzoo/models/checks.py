"""What configs ask of their fields; each refuses with the field, its value and what is accepted."""

from fmzoo.errors import InputError


def check(true: bool, sentence: str) -> None:
    """Refuses with the sentence unless it is true.

    Raises:
      InputError: it is not.
    """
    if not true:
        raise InputError(sentence)


def check_positive(config: object, *fields: str) -> None:
    """Refuses a field that is neither None nor above 0; a tuple is checked number by number."""
    for field in fields:
        value = getattr(config, field)
        numbers = value if isinstance(value, tuple) else (value,)
        check(all(n is None or n > 0 for n in numbers), f"{field} is {value}; a number above 0 is needed")


def check_seed(config: object, field: str = "seed") -> None:
    """Refuses a seed that is no whole number of 32 bits."""
    value = getattr(config, field)
    check(0 <= value < 2**32, f"{field} is {value}; a whole number from 0 to {2**32 - 1} is needed")


def check_options(config: object, **options: tuple[str, ...]) -> None:
    """Refuses a field that has none of the named values."""
    for field, names in options.items():
        value = getattr(config, field)
        check(value in names, f"{field} is {value!r}; one of {', '.join(names)} is needed")
