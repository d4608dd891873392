"""What `python -m training` refuses, each said in one line; any other exception is a fault of the program."""


class ConfigError(ValueError):
    """A configuration file that cannot be used, with every fault found in it."""


class DataError(ValueError):
    """Data that cannot be used; the message names the file, the value and what was expected."""


class FetchError(RuntimeError):
    """Data sets that no route could bring; the message says why each failed."""


class RunError(ValueError):
    """A run that cannot start, resume, go on or be exported as it is."""
