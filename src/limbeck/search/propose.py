"""What to try next: Optuna's tree-structured Parzen estimator, asked anew for every trial.

The study lives for one question.  It is told all earlier trials from their files, and its random numbers come from the
search's seed and the trial's number: a search that was killed asks the same questions again.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from limbeck.errors import LimbeckError
from limbeck.phase import seed_for
from limbeck.search.judge import Trial
from limbeck.search.spec import Choices, Setting, Space

_ATTEMPTS = 20
_STARTUP = 10  # trials by chance alone, Optuna's own number
_MOST = 100_000  # combinations that are still gone through one by one


def optuna() -> ModuleType:
    """The package.

    Raises:
        LimbeckError: it is not installed.
    """
    try:
        import optuna as found
    except ModuleNotFoundError as error:
        raise LimbeckError(
            "limbeck search needs optuna, which is not installed: pip install 'limbeck[sweep]'"
        ) from error
    return found


def propose(
    space: Space, trials: Sequence[Trial], ranks: Sequence[float], *, seed: int, number: int
) -> dict[str, Any] | None:
    """Settings that no trial had yet; None where all have been tried.

    Args:
        space: what may vary.
        trials: the earlier ones.
        ranks: of each of them, lower is better.
        seed: of the search.
        number: of the trial to come.
    """
    tried = {_key(trial.settings) for trial in trials}
    combinations = math.prod(setting.count() for setting in space.values())
    if combinations <= len(tried):
        return None
    for attempt in range(_ATTEMPTS):
        found = _ask(space, trials, ranks, seed_for(seed, "search", number, attempt) % 2**32)
        if _key(found) not in tried:
            return found
    if combinations <= _MOST:
        return next((one for one in _every(space) if _key(one) not in tried), None)
    return None


def _key(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


def _every(space: Space) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*(setting.values() for setting in space.values())):
        yield dict(zip(space, values))


def _ask(space: Space, trials: Sequence[Trial], ranks: Sequence[float], seed: int) -> dict[str, Any]:
    package = optuna()
    distributions = {name: _distribution(package, setting) for name, setting in space.items()}
    with _silent(package):
        sampler = package.samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP)
        study = package.create_study(sampler=sampler, direction="minimize")
        for trial, rank in zip(trials, ranks, strict=True):
            params = {name: _told(setting, trial.settings[name]) for name, setting in space.items()}
            study.add_trial(package.trial.create_trial(value=rank, params=params, distributions=distributions))
        asked = study.ask(distributions).params
    return {name: _value(setting, asked[name]) for name, setting in space.items()}


def _distribution(package: ModuleType, setting: Setting) -> Any:
    if isinstance(setting, Choices):  # as texts: Optuna takes no lists and mappings
        return package.distributions.CategoricalDistribution([json.dumps(item) for item in setting.items])
    if setting.whole:
        return package.distributions.IntDistribution(int(setting.low), int(setting.high), log=setting.log)
    return package.distributions.FloatDistribution(float(setting.low), float(setting.high), log=setting.log)


def _told(setting: Setting, value: Any) -> Any:
    return json.dumps(value) if isinstance(setting, Choices) else value


def _value(setting: Setting, value: Any) -> Any:
    return json.loads(value) if isinstance(setting, Choices) else setting.read(value)


@contextmanager
def _silent(package: ModuleType) -> Iterator[None]:
    before = package.logging.get_verbosity()
    package.logging.set_verbosity(package.logging.WARNING)
    try:
        yield
    finally:
        package.logging.set_verbosity(before)
