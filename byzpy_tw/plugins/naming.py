"""Names with parameters, as users write them: ``name`` or ``name:key=value,key=value``.

The same text stands on the command line, in TOML and in the trainer's messages to servers, so
it is read strictly: values are numbers and single words, never paths or code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from attrs import field, frozen

from byzpy_tw.errors import BadParameter
from byzpy_tw.text import clip

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
# A leading dot and every slash are refused: no value can be read as a path.
_VALUE = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]{0,63}|\.[0-9][0-9eE+-]{0,62}")
_MOST_PARAMETERS = 32

# Names here of classes of ByzFL and ByzPy, in lower case, where none of ours is near.
_PEER_CLASSES = {
    "alittleisenough": "alie",
    "average": "mean",
    "comparativegradientelimination": "cge",
    "coordinatewisemedian": "median",
    "coordinatewisetrimmedmean": "trimmed-mean",
    "empireattack": "empire",
    "infattack": "inf",
    "innerproductmanipulation": "ipm",
    "labelflipattack": "label-flip",
    "littleattack": "alie",
    "meanofmedians": "meamed",
    "mimicattack": "mimic",
    "minimumdiameteraveraging": "mda",
    "nearestneighbormixing": "nnm",
    "optimal_alittleisenough": "opt-alie",
    "optimal_innerproductmanipulation": "opt-ipm",
    "signflipattack": "sign-flip",
    "signflipping": "sign-flip",
    "trmean": "trimmed-mean",
}
# Losses in lower case without hyphens, and the tasks that have them.
_TASKS_OF_LOSSES = {
    "bcewithlogitsloss": "multi-label",
    "binarycrossentropy": "multi-label",
    "crossentropy": "classification",
    "crossentropyloss": "classification",
    "huber": "regression:loss=huber",
    "huberloss": "regression:loss=huber",
    "l1loss": "regression:loss=mae",
    "mae": "regression:loss=mae",
    "mse": "regression:loss=mse",
    "mseloss": "regression:loss=mse",
}


@frozen
class ParsedName:
    """A name and the parameters written after it, as text."""

    name: str
    parameters: Mapping[str, str] = field(factory=dict)

    @property
    def pairs(self) -> str:
        """The parameters alone, as they are written after the colon."""
        return ",".join(f"{key}={value}" for key, value in sorted(self.parameters.items()))

    @property
    def text(self) -> str:
        """The one spelling that two equal values share."""
        return f"{self.name}:{self.pairs}" if self.parameters else self.name


def parse(text: str) -> ParsedName:
    """Split `text`; raises `BadParameter`."""
    name, colon, rest = text.strip().partition(":")
    if not _NAME.fullmatch(name):
        path = ", and no path (a file of the data root is named, as in arrays:name=NAME)"
        raise BadParameter(
            f"{clip(text)!r} is not a name; write NAME or NAME:key=value,key=value"
            f"{path * ('/' in name)}"
        )
    parameters: dict[str, str] = {}
    for pair in rest.split(",") if colon else ():
        key, equals, value = (part.strip() for part in pair.partition("="))
        key = key.replace("-", "_")
        if not equals or not _KEY.fullmatch(key) or not _VALUE.fullmatch(value):
            raise BadParameter(
                f"in {clip(text)!r}: {clip(pair)!r} is not key=value "
                "(values are numbers and single words)"
            )
        if key in parameters:
            raise BadParameter(f"in {clip(text)!r}: {key!r} is given twice")
        parameters[key] = value
    if len(parameters) > _MOST_PARAMETERS:
        raise BadParameter(f"{name!r} with {len(parameters)} parameters: too many")
    return ParsedName(name, parameters)


def suggest_nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?``, or nothing where nothing is near."""
    words = list(known)
    low = word.lower()
    near = [w for w in words if w.lower() == low]
    near = near or [w for w in words if w == _PEER_CLASSES.get(low)]
    near = near or get_close_matches(word, words, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def suggest_task(loss: str) -> str:
    """``; did you mean 'x'?`` of the task that has the loss called `loss`, or nothing."""
    task = _TASKS_OF_LOSSES.get(loss.lower().replace("-", "").replace("_", ""))
    return f"; did you mean {task!r}?" if task else ""
