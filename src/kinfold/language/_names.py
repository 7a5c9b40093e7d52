"""The names of groups: what is said of them, and how words are given to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kinfold.language._groups import Groups
from kinfold.language._senses import SenseChooser, as_key
from kinfold.language._words import Words, reached_by_chance

_EMPTY = "it has no images"
_NO_DIRECTION = "its images have no common direction"
_ALONE = "there is no other group to tell it from"
_TOO_FEW = "it or its neighbours have too few images to tell a fitting word from chance"
_TAKEN = "every word that fits it names another group better"


@dataclass(frozen=True)
class Name:
    """A word for a group.

    Attributes
    ----------
    noun : str
        The word.
    score : float
        log p(noun | group) + log p(group | noun, among the group and its rivals); at most 0.
    similarity : float
        Cosine of the word and the group's centre.
    separation : float
        Probability that an image of the group lies closer to the word than one of its rivals; ½ is chance.
    synset : str or None
        WordNet's id of what is meant; None for words that WordNet doesn't have.
    path : tuple of str
        Names from this synset up to ``entity``.
    """

    noun: str
    score: float
    similarity: float
    separation: float
    synset: str | None = None
    path: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClusterName:
    """What a group may be called.

    Attributes
    ----------
    cluster : int
        Its number.
    names : tuple of Name
        The first one is the group's name, which no other group has; further words by falling score. Empty
        where no word fits.
    reason : str
        Why no word fits; empty where one does.
    """

    cluster: int
    names: tuple[Name, ...] = ()
    reason: str = ""

    @property
    def noun(self) -> str | None:
        """The name, or None."""
        return self.names[0].noun if self.names else None


@dataclass(frozen=True)
class ClusterNames(Mapping[int, ClusterName]):
    """The names of all groups, by their numbers.

    Attributes
    ----------
    clusters : tuple of ClusterName
        Of group 0, 1, … K − 1.
    parameters : Mapping
        What they were found with, defaults too.
    """

    clusters: tuple[ClusterName, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, cluster: int) -> ClusterName:
        if not 0 <= cluster < len(self.clusters):
            raise KeyError(cluster)
        return self.clusters[cluster]

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.clusters)))

    def __len__(self) -> int:
        return len(self.clusters)

    @property
    def nouns(self) -> tuple[str | None, ...]:
        """The name of each group, None where no word fits."""
        return tuple(one.noun for one in self.clusters)


def choose_names(
    groups: Groups, found: Words, chooser: SenseChooser, n_names: int, min_separation: float
) -> tuple[ClusterName, ...]:
    """Return the names of all groups."""
    place_of = {int(group): place for place, group in enumerate(found.groups)}
    reasons: dict[int, str] = {}
    fitting: dict[int, list[int]] = {}  # place → which of its candidates fit, the best first
    for cluster, size in enumerate(groups.sizes):
        if cluster not in place_of:
            reasons[cluster] = _NO_DIRECTION if size else _EMPTY
            continue
        place = place_of[cluster]
        fitting[place], reasons[cluster] = _fitting(groups, found, place, chooser.nouns, min_separation)
    firsts = _give_away(found, fitting, chooser.nouns)
    named = []
    for cluster in range(len(groups.sizes)):
        first = firsts.get(place_of.get(cluster, -1))
        if first is None:
            named.append(ClusterName(cluster, reason=reasons[cluster] or _TAKEN))
            continue
        place = place_of[cluster]
        order = [first, *(one for one in fitting[place] if one != first)][:n_names]
        senses = chooser.choose([int(found.nouns[place, one]) for one in order], groups.centres[cluster])
        named.append(
            ClusterName(
                cluster,
                tuple(
                    Name(
                        sense.noun,
                        float(found.scores[place, one]),
                        float(found.similarities[place, one]),
                        float(found.separations[place, one]),
                        sense.synset,
                        sense.path,
                    )
                    for one, sense in zip(order, senses, strict=True)
                ),
            )
        )
    return tuple(named)


def _fitting(
    groups: Groups, found: Words, place: int, nouns: Sequence[str], min_separation: float
) -> tuple[list[int], str]:
    """Return which candidates of a group fit, best first and each word once, or none and the reason."""
    scores, separations = found.scores[place], found.separations[place]
    needed = _needed(groups, found, place, min_separation)
    order = np.lexsort((found.nouns[place], -found.similarities[place], -scores))
    fits = {
        as_key(nouns[found.nouns[place, one]]): int(one) for one in order[::-1] if separations[one] >= needed
    }
    kept = sorted(fits.values(), key=order.tolist().index)
    if kept:
        return kept, ""
    if not found.rivals.shape[1]:
        return [], _ALONE
    if needed > 1:
        return [], _TOO_FEW
    return [], (
        f"no word tells it from the groups beside it: the best reaches a separation of "
        f"{separations.max():.2f}, {needed:.2f} is needed"
    )


def _needed(groups: Groups, found: Words, place: int, min_separation: float) -> float:
    """Return the separation that a word of a group needs."""
    if min_separation == 0:
        return 0.0
    sizes = [len(groups.samples[group]) for group in (found.groups[place], *found.rivals[place])]
    return max(min_separation, reached_by_chance(sizes[0], sizes[1:], found.nouns.shape[1]))


def _give_away(found: Words, fitting: Mapping[int, Sequence[int]], nouns: Sequence[str]) -> dict[int, int]:
    """Return the first name of each group, as one of its candidates, so that no two have the same.

    Every group asks for its best word. Of several that want one word the one with the highest score keeps it,
    and the others ask for their next: nobody has a word that a group with a higher score would rather have.
    """
    holder: dict[str, int] = {}
    asked = dict.fromkeys(fitting, 0)
    waiting = sorted(fitting, reverse=True)
    while waiting:
        place = waiting.pop()
        if asked[place] == len(fitting[place]):
            continue
        one = fitting[place][asked[place]]
        word = as_key(nouns[found.nouns[place, one]])
        other = holder.get(word)
        if other is not None:
            theirs = fitting[other][asked[other]]
            keeps = found.scores[other, theirs] >= found.scores[place, one]
            place, other = (other, place) if keeps else (place, other)
            asked[other] += 1
            waiting.append(other)
        holder[word] = place
    return {place: fitting[place][asked[place]] for place in holder.values()}
