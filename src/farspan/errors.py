"""Errors a user can act on.

Every error that a person's input can cause is a `FarspanError`. Its message is one line that says what was given,
what is allowed and what to do; the command line prints that line and exits with code 2.
"""


class FarspanError(ValueError):
    """Base of all errors that wrong input can cause."""


class ModelNotFound(FarspanError):
    """A model name or folder that cannot be loaded."""


class UnknownLever(FarspanError):
    """A lever name that is not in the table."""


class LeverConflict(FarspanError):
    """Two levers that cannot be switched on together."""


class LeverNotApplicable(FarspanError):
    """A lever that cannot work on this model, or at this target length."""


class RecipeError(FarspanError):
    """A recipe that cannot be read or built."""
