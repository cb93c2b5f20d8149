"""How many steps an optimizer has done, and left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .engine.triton.skips import DeviceSkips

__all__ = ["Counts"]


class Counts:
    """The counts of steps; a base of :class:`~polyak.Optimizer`.

    A device that decides by itself whether a step is left out counts such steps too.
    It is asked when somebody reads the counts, and not before.
    """

    _done: int = 0  # as far as the host knows
    _skipped: int = 0
    _device_skips: DeviceSkips | None = None
    _counts: bool = True  # the step that is being done

    @property
    def steps(self) -> int:
        """How many steps this object has done; replays of a CUDA graph are not known.

        Waits for the device where that decides whether a step is left out.
        """
        skips = self._device_skips
        return self._done - (0 if skips is None else skips.read().launched)

    @steps.setter
    def steps(self, count: int) -> None:
        self._done += count - self.steps

    @property
    def skipped_steps(self) -> int:
        """How many it has left out, since a gradient was not finite.

        Those of CUDA graphs too. Waits for the device where that decides.
        """
        skips = self._device_skips
        return self._skipped + (0 if skips is None else sum(skips.read()))

    @skipped_steps.setter
    def skipped_steps(self, count: int) -> None:
        self._skipped += count - self.skipped_steps
