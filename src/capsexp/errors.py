"""User errors in one line: the key, the rule, and the value received.

Every argument that comes from a configuration is checked by one of the functions below, where it is used.  A check
knows only the name of its argument (``c2``).  ``making``, which instantiates the configuration, adds the group
(``model.c2``).
"""

import errno
import math
from collections.abc import Collection
from numbers import Real
from typing import Self

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of the errors of a full disk."""


class ConfigError(ValueError):
    """A value that the user gave breaks a rule.

    Attributes:
        key: dotted name of the configuration key, as the user would override it.
        rule: what the value must be, continuing the sentence "<key> must ...".
        value: the value received.
    """

    def __init__(self, key: str, rule: str, value: object) -> None:
        super().__init__(key, rule, value)
        self.key, self.rule, self.value = key, rule, value
        self._whole = False

    def __str__(self) -> str:
        return f"{self.key} must {self.rule}, got {self.value!r}"

    def within(self, group: str, *, outermost: bool = False) -> Self:
        """The same error with ``group`` as prefix of the key: ``c2`` becomes ``model.c2``.

        Args:
            group: the config group that contains the key.
            outermost: whether ``group`` is a top-level group, so that no further prefix is added.
        """
        if self._whole:
            return self
        error = type(self)(f"{group}.{self.key}", self.rule, self.value)
        error._whole = outermost
        return error

    def as_it_is(self) -> Self:
        """The same error, whose key gets no prefix."""
        error = type(self)(self.key, self.rule, self.value)
        error._whole = True
        return error


class CommandError(Exception):
    """An error of a command, as one line for the user.

    Attributes:
        exit_code: the command's exit code; 2 for a user error.
    """

    exit_code = 2


class StartOver(Exception):  # noqa: N818 - no error, a reason to begin again
    """The checkpoint to resume from could not be used and is removed; the cell's work begins again."""


def config_error(error: BaseException) -> ConfigError | None:
    """The :class:`ConfigError` among an error's causes, such as those of a Hydra error; None if there is none."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, ConfigError):
        seen = seen.__cause__ or seen.__context__
    return seen


NO_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
"""Parts of the messages of torch's RuntimeErrors for a lack of memory."""


def ran_out_of_memory(error: BaseException) -> bool:
    """True if an error reports a lack of memory, on a GPU or on the CPU."""
    by_message = isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)
    by_name = type(error).__name__ == "OutOfMemoryError"  # torch's, which is not imported here
    return isinstance(error, MemoryError) or by_message or by_name


class StageBusy(Exception):  # noqa: N818 - no error, a reason to wait
    """Another cell computes a stage that this cell needs; the cell must be retried later."""


class LaunchError(RuntimeError):
    """A job of a sweep failed or was lost under another launcher or sweeper than capsexp's."""


class Diverged(Exception):  # noqa: N818 - the word that statuses use
    """The training loss is NaN or infinite, so that further training is useless.

    Attributes:
        step: the optimizer step of that loss, counted from 1 over all epochs.
    """

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step

    def __str__(self) -> str:
        return f"diverged at step {self.step}"


def require(condition: bool, key: str, rule: str, value: object) -> None:
    """Raise :class:`ConfigError` unless ``condition`` holds."""
    if not condition:
        raise ConfigError(key, rule, value)


def require_int(key: str, value: object, minimum: int, maximum: float = math.inf) -> int:
    """``value`` as an integer in [minimum, maximum]; booleans and floats are refused."""
    bound = f">= {minimum}" if maximum == math.inf else f"from {minimum} to {maximum}"
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        raise ConfigError(key, f"be a whole number {bound}", value)
    return value


def require_number(
    key: str, value: object, minimum: float = -math.inf, maximum: float = math.inf, *, open_ends: str = ""
) -> float:
    """``value`` as a finite number between the bounds.

    Args:
        key: the argument's name.
        value: what the user gave.
        minimum: the lower bound.
        maximum: the upper bound.
        open_ends: the bounds that are excluded: "" (none), "<" (lower), ">" (upper), "<>" (both).
    """
    lower, upper = "(" if "<" in open_ends else "[", ")" if ">" in open_ends else "]"
    rule = f"be a number in {lower}{minimum:g}, {maximum:g}{upper}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ConfigError(key, rule, value)
    number = float(value)
    above = number > minimum if "<" in open_ends else number >= minimum
    below = number < maximum if ">" in open_ends else number <= maximum
    if not (math.isfinite(number) and above and below):
        raise ConfigError(key, rule, value)
    return number


def require_choice(key: str, value: str, choices: Collection[str]) -> str:
    """``value`` if it is one of ``choices``."""
    if value not in choices:
        raise ConfigError(key, f"be one of {', '.join(choices)}", value)
    return value
