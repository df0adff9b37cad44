"""How long work takes, told from what it took of late."""

FADES = 0.1  # weight of the newest pass; those before it fade by the rest


class Pace:
    """Seconds of a pass as a line over its units: some for every pass, and some for each unit.

    The line is that of least squares over the passes so far, the older the lighter. Where these were all alike, the
    seconds are laid to the units alone: what is larger than anything seen is then taken to be slower than it is.
    """

    def __init__(self) -> None:
        self._units = self._seconds = self._squares = self._products = 0.0  # faded means
        self._passes = 0

    @property
    def known(self) -> bool:
        """Whether a pass has been seen."""
        return self._passes > 0

    def learn(self, units: int, seconds: float) -> None:
        """Take in a pass."""
        self._passes += 1
        weight = max(FADES, 1 / self._passes)
        self._units += weight * (units - self._units)
        self._seconds += weight * (seconds - self._seconds)
        self._squares += weight * (units * units - self._squares)
        self._products += weight * (units * seconds - self._products)

    def seconds(self, units: float, passes: float) -> float:
        """What so many passes of so many units in all will take; 0 while no pass has been seen."""
        each = self._each
        return units * each + passes * (self._seconds - each * self._units)

    def units(self, seconds: float) -> float:
        """How many units make a pass that takes so long; any number while no pass has been seen."""
        each = self._each
        return max(0.0, seconds - (self._seconds - each * self._units)) / each if each else float("inf")

    @property
    def _each(self) -> float:
        """Seconds of a unit."""
        if not self._units:
            return 0.0
        most = self._seconds / self._units  # all of it laid to the units
        spread = self._squares - self._units**2
        if spread <= (0.1 * self._units) ** 2:
            return most
        return min(most, max(0.0, (self._products - self._units * self._seconds) / spread))
