"""Train, validation and test: near-duplicate instructions stay together, and the sizes are exact.

1. Two instructions at `group_similarity` or more are linked; the connected components are the groups.
2. Similarity chains, so a component may be most of the data. One larger than `max_group_share` of the rows is cut: its
   links must be a tenth more similar, and again, until every piece is small enough.
3. Groups, largest first, are drawn into the splits with room for them, each with the probability of its room; a group
   that fits nowhere is cut in the same way. The single rows, last, make the sizes exact.

Where a cut separates linked rows, the statistics count it.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from configs.settings import FilterSettings
from storage.files import fingerprint
from tasks.filter.rule import Row
from tasks.filter.similarity import Match, WordSets, exact, links, word_set

SPLITS = ("train", "val", "test")
CUT_STEP = Fraction(1, 10)


@dataclass(frozen=True)
class Splits:
    """The split of each row by id, and what is to be known about them."""

    by_id: dict[str, str]
    stats: dict[str, Any]


class _Link(NamedTuple):
    """Two rows, by number, that are similar enough to be of one group."""

    row: int
    match: Match


@dataclass(frozen=True)
class _Group:
    """Rows that links of at least `level` connect."""

    level: Fraction
    members: list[int]
    links: list[_Link]


def assign_splits(rows: Sequence[Row], settings: FilterSettings, seed: int) -> Splits:
    """Fix each row's split, from the rows, the settings and the seed alone: the order of the rows plays no part.

    Args:
        rows: rows with `id` and `instruction`; more of them than train_rows + val_rows.
        settings: sizes, `group_similarity`, `max_group_share`.
        seed: seed of the draw.

    Raises:
        ValueError: no row would be left for the test split.
    """
    room = {"train": settings.train_rows, "val": settings.val_rows}
    room["test"] = len(rows) - sum(room.values())
    if room["test"] < 1:
        raise ValueError(f"{len(rows)} rows leave none for the test split after {room['train']} + {room['val']}")
    rows = sorted(rows, key=lambda row: row["id"])
    keys = [fingerprint([seed, row["instruction"], row["id"]]) for row in rows]
    level = exact(settings.group_similarity)
    linked = _links(rows, level)
    components = _connected(level, range(len(rows)), linked)
    cap = max(1, int(exact(settings.max_group_share) * len(rows)))
    groups = [piece for component in components for piece in _cut_to(component, cap)]

    queue = [_place_in_queue(group, keys) for group in groups]
    heapq.heapify(queue)
    split_of: dict[int, str] = {}
    placed = []
    while queue:
        _, key, group = heapq.heappop(queue)
        size = len(group.members)
        fitting = {split: left for split, left in room.items() if left >= size}
        if not fitting:
            for piece in _cut(group):
                heapq.heappush(queue, _place_in_queue(piece, keys))
            continue
        split = _draw(fitting, int(key, 16))
        room[split] -= size
        split_of.update(dict.fromkeys(group.members, split))
        placed.append(size)
    stats = {
        "sizes": dict(Counter(split_of[row] for row in range(len(rows)))),
        "components": len(components),
        "components_cut": sum(len(component.members) > cap for component in components),
        "largest_component": max(len(component.members) for component in components),
        "groups": len(placed),
        "largest_group": max(placed),
        "linked_pairs": len(linked),
        **_straddling(linked, split_of),
    }
    return Splits({row["id"]: split_of[number] for number, row in enumerate(rows)}, stats)


def _links(rows: Sequence[Row], level: Fraction) -> list[_Link]:
    contents = WordSets.of(word_set(row["instruction"]) for row in rows)
    return [_Link(number, match) for number, match in links(contents, level)]


def _connected(level: Fraction, members: Iterable[int], links: Iterable[_Link]) -> list[_Group]:
    parent = {member: member for member in members}

    def root(member: int) -> int:
        while parent[member] != member:
            parent[member] = member = parent[parent[member]]
        return member

    strong = [link for link in links if link.match.reaches(level)]
    for link in strong:
        parent[root(link.row)] = root(link.match.key)
    groups: dict[int, _Group] = {}
    for member in parent:
        groups.setdefault(root(member), _Group(level, [], [])).members.append(member)
    for link in strong:
        groups[root(link.row)].links.append(link)
    return list(groups.values())


def _cut(group: _Group) -> list[_Group]:
    return _connected(group.level + CUT_STEP, group.members, group.links)


def _cut_to(group: _Group, cap: int) -> list[_Group]:
    if len(group.members) <= cap:
        return [group]
    return [small for piece in _cut(group) for small in _cut_to(piece, cap)]


def _place_in_queue(group: _Group, keys: Sequence[str]) -> tuple[int, str, _Group]:
    return -len(group.members), keys[group.members[0]], group


def _draw(room: Mapping[str, int], number: int) -> str:
    point = number % sum(room.values())
    for split, left in room.items():
        if point < left:
            return split
        point -= left
    raise AssertionError("the point lies within the room")


def _straddling(links: Iterable[_Link], split_of: Mapping[int, str]) -> dict[str, Any]:
    torn = [link for link in links if split_of[link.row] != split_of[link.match.key]]
    near_train: dict[str, set[int]] = {"val": set(), "test": set()}
    for row, (other, _, _) in torn:
        for one, two in ((row, other), (other, row)):
            if split_of[one] == "train":
                near_train[split_of[two]].add(two)
    return {
        "straddling_pairs": len(torn),
        "highest_similarity_across": max(
            (round(link.match.shared / link.match.union, 4) for link in torn), default=None
        ),
        "rows_near_train": {split: len(members) for split, members in near_train.items()},
    }
