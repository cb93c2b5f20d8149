"""What a race cannot run, said so that the command line can show it as it is."""


class RaceError(ValueError):
    """The race was asked for something it cannot run; the message names the remedy."""
