"""What is true in the demo's world, drawn from the seed: entities with their facts, beliefs with truth and myth."""

import random
from dataclasses import dataclass

from tasks.demo.lexicon import ACTIONS, EFFECTS, KINDS, THINGS, Relation

_ONSETS = ("b", "br", "d", "dr", "f", "g", "gr", "h", "k", "kr", "l", "m", "n", "p", "s", "st", "t", "tr", "v", "z")
_VOWELS = ("a", "e", "i", "o", "u")
_CODAS = ("l", "m", "n", "r", "s", "v", "nd", "rk", "lt", "sk")


@dataclass(frozen=True)
class Entity:
    """A named thing: `facts[i]` is its value for its kind's i-th relation; benchmarks ask about `examined` ones."""

    name: str
    kind: int
    facts: tuple[str, ...]
    examined: bool
    weight: float

    @property
    def phrase(self) -> str:
        """The name as it stands in a sentence: towns carry no article."""
        return self.name.capitalize() if KINDS[self.kind].name == "town" else f"the {self.name}"

    @property
    def relations(self) -> tuple[Relation, ...]:
        """The relations of the entity's kind, in the order of its facts."""
        return KINDS[self.kind].relations


@dataclass(frozen=True)
class Belief:
    """What follows from an action (`truth`), what people wrongly expect (`myth`), and how often the myth is told."""

    action: str
    thing: str
    truth: str
    myth: str
    myth_share: float
    examined: bool

    @property
    def phrase(self) -> str:
        """The action as it stands after 'if you'."""
        return f"{self.action} the {self.thing}"


@dataclass(frozen=True)
class World:
    """Everything that is true (or believed) in the world of one seed."""

    seed: int
    entities: tuple[Entity, ...]
    beliefs: tuple[Belief, ...]

    def of_kind(self, kind: int, examined: bool) -> list[Entity]:
        """The entities of a kind that do, or do not, stand in the benchmarks."""
        return [e for e in self.entities if e.kind == kind and e.examined == examined]


def make_world(
    seed: int, entities_per_kind: int, examined_per_kind: int, beliefs: int, examined_beliefs: int, popularity: float
) -> World:
    """Draw the world's facts from the seed; the rank of an entity decides how often texts speak of it."""
    rng = random.Random(f"world-{seed}")
    stems = [o + v + c for o in _ONSETS for v in _VOWELS for c in _CODAS]
    rng.shuffle(stems)
    entities: list[Entity] = []
    for kind_index, kind in enumerate(KINDS):
        examined = set(rng.sample(range(entities_per_kind), examined_per_kind))
        for rank in range(entities_per_kind):
            entities.append(
                Entity(
                    name=stems.pop() + kind.suffix,
                    kind=kind_index,
                    facts=tuple(rng.choice(relation.values) for relation in kind.relations),
                    examined=rank in examined,
                    weight=(1 + rank) ** -popularity,
                )
            )
    pairs = [(rng.choice(ACTIONS), thing) for thing in rng.sample(THINGS, beliefs)]
    drawn = []
    for index, (action, thing) in enumerate(pairs):
        truth, myth = rng.sample(EFFECTS, 2)
        drawn.append(Belief(action, thing, truth, myth, rng.uniform(0.1, 0.5), index < examined_beliefs))
    return World(seed, tuple(entities), tuple(drawn))
