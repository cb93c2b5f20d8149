"""Pictures of hyperparameters over time, for what is still to come.

:func:`polyak.plot` draws; :func:`future` gives the numbers. matplotlib and rich are
imported by the drawing alone.
"""

from .future import Curve, Future, future
from .show import plot

__all__ = ["Curve", "Future", "future", "plot"]
