"""The command line.  Nothing heavy is imported before a command needs it.

Exit codes: 0 fine; 2 a recipe or command line that cannot be used; 1 any other failure; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from contextvars import ContextVar

from limbeck.errors import HyperParameterError, Interrupted, LimbeckError, NameUnknown, RecipeError

_STOPPED = "interrupted; what was saved is whole, and the same command goes on from there"
_UNUSABLE = (RecipeError, HyperParameterError, NameUnknown)
_words: ContextVar[Sequence[str] | None] = ContextVar("words", default=None)


def typed() -> list[str]:
    """The words of the command that is running, without the program's name."""
    given = _words.get()
    return list(sys.argv[1:] if given is None else given)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in given
    given = [word for word in given if word != "--debug"]
    from limbeck.cli.app import app

    before = _words.set(given)
    try:
        code = app(given, prog_name="limbeck", standalone_mode=False)
        sys.stdout.flush()
    except LimbeckError as error:
        return _fail(error, debug)
    except KeyboardInterrupt:
        return _interrupted(_STOPPED)
    except BrokenPipeError:  # the reader of our output, "| head" say, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(error, debug)
    except Exception as error:
        return _usage(error)
    finally:
        _words.reset(before)
    if code == 130:  # typer's own answer to an interrupt
        return _interrupted(_STOPPED)
    return code if isinstance(code, int) else 0


def _fail(error: Exception, debug: bool) -> int:
    from limbeck.cli import say

    if debug:
        traceback.print_exception(error)
    if isinstance(error, Interrupted):
        return _interrupted(str(error))
    if isinstance(error, RecipeError):
        say.problems(error.problems)
    else:
        say.error(str(error))
    return 2 if isinstance(error, _UNUSABLE) else 1


def _interrupted(text: str) -> int:
    print(text, file=sys.stderr)
    return 130


def _usage(error: Exception) -> int:
    """Typer's own errors: it shows them, we choose the exit code.  Anything else is a bug, and keeps its traceback."""
    if type(error).__name__ == "Abort":
        return _interrupted(_STOPPED)
    show = getattr(error, "show", None)
    if show is None:
        raise error
    show()
    return int(getattr(error, "exit_code", 2))
