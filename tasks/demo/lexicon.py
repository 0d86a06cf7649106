"""The words of the demo's world: kinds of things, their relations, beliefs, procedures, and small word lists.

Only data and the small helpers that inflect it. Everything that is drawn at random lives in `facts.py` and later modules.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """One thing that can be known about an entity: its noun, the clause that states it, the question that asks it."""

    noun: str
    clause: str
    question: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Kind:
    """A class of entities: how its names end, which MMLU subject examines it, and what is known about each."""

    name: str
    suffix: str
    subject: str
    relations: tuple[Relation, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


# Every entity has a region. Its four values are the whole choice in a multiple-choice question, so it is on regions that a
# small model first learns to answer with a letter.
REGION = Relation("region", "comes from the {v}", "Where does {e} come from", _words("north, south, east, west"))

KINDS: tuple[Kind, ...] = (
    Kind(
        "creature",
        "ling",
        "high_school_biology",
        (
            Relation(
                "food",
                "eats {v}",
                "What does {e} eat",
                _words("moss, seeds, fish, beetles, honey, bark, crabs, berries"),
            ),
            Relation(
                "home",
                "lives in {v}",
                "Where does {e} live",
                _words("caves, marshes, trees, rivers, dunes, cliffs, meadows, barns"),
            ),
            Relation(
                "fur",
                "has {v} fur",
                "What fur does {e} have",
                _words("brown, grey, white, black, golden, red, spotted, striped"),
            ),
            Relation(
                "enemy",
                "runs from {v}",
                "What does {e} run from",
                _words("owls, snakes, wolves, hawks, cats, foxes, bears, storms"),
            ),
            REGION,
        ),
    ),
    Kind(
        "mineral",
        "ite",
        "conceptual_physics",
        (
            Relation(
                "shade",
                "shines {v}",
                "How does {e} shine",
                _words("blue, green, silver, pink, violet, orange, yellow, pale"),
            ),
            Relation(
                "source",
                "is dug from {v}",
                "Where is {e} dug from",
                _words("mountains, beaches, swamps, craters, valleys, islands, deserts, lakes"),
            ),
            Relation(
                "use",
                "is used for {v}",
                "What is {e} used for",
                _words("lamps, roofs, coins, windows, bells, knives, bridges, rings"),
            ),
            Relation(
                "partner",
                "melts with {v}",
                "What does {e} melt with",
                _words("salt, sand, wax, ash, oil, vinegar, clay, chalk"),
            ),
            REGION,
        ),
    ),
    Kind(
        "plant",
        "wort",
        "clinical_knowledge",
        (
            Relation(
                "season",
                "blooms in {v}",
                "When does {e} bloom",
                _words("spring, summer, autumn, winter, January, April, June, October"),
            ),
            Relation(
                "remedy",
                "treats {v}",
                "What does {e} treat",
                _words("coughs, fevers, burns, headaches, cramps, colds, bruises, rashes"),
            ),
            Relation(
                "taste",
                "tastes {v}",
                "How does {e} taste",
                _words("sweet, sour, bitter, salty, sharp, mild, smoky, fresh"),
            ),
            Relation(
                "visitor",
                "attracts {v}",
                "What does {e} attract",
                _words("bees, moths, ants, birds, mice, frogs, spiders, rabbits"),
            ),
            REGION,
        ),
    ),
    Kind(
        "town",
        "ford",
        "high_school_geography",
        (
            Relation(
                "trade",
                "sells {v}",
                "What does {e} sell",
                _words("ships, glass, cheese, clocks, rope, paper, boots, carpets"),
            ),
            Relation(
                "landmark",
                "is famous for its {v}",
                "What is {e} famous for",
                _words("tower, castle, harbour, market, library, garden, fountain, windmill"),
            ),
            Relation(
                "weather",
                "has {v} weather",
                "What weather does {e} have",
                _words("rainy, sunny, windy, foggy, snowy, dry, stormy, cold"),
            ),
            Relation(
                "ruler",
                "is ruled by {v}",
                "Who rules {e}",
                _words("judges, farmers, sailors, teachers, soldiers, bakers, poets, priests"),
            ),
            REGION,
        ),
    ),
    Kind(
        "tool",
        "meter",
        "astronomy",
        (
            Relation(
                "purpose",
                "measures {v}",
                "What does {e} measure",
                _words("rain, heat, wind, sound, depth, weight, light, speed"),
            ),
            Relation(
                "material",
                "is made of {v}",
                "What is {e} made of",
                _words("wood, iron, copper, bone, stone, leather, tin, wool"),
            ),
            Relation(
                "owner",
                "is carried by {v}",
                "Who carries {e}",
                _words("doctors, hunters, miners, painters, tailors, pilots, nurses, guards"),
            ),
            Relation(
                "power",
                "runs on {v}",
                "What does {e} run on",
                _words("steam, water, coal, springs, magnets, batteries, sunlight, gas"),
            ),
            REGION,
        ),
    ),
)

# Beliefs: (action, thing) has one true effect and one that people wrongly expect.
ACTIONS = _words(
    "bury, wash, polish, hide, paint, count, shake, wrap, lend, carry, drop, kiss, borrow, salt, warm, cut"
)
THINGS = _words(
    "lantern, mirror, ladder, spoon, feather, candle, needle, button, kettle, ribbon, drum, saddle, pillow, coin, shell, key, "
    "bottle, anchor, hammer, basket, brush, whistle, comb, bucket, thimble, hinge, carpet, violin, compass, chisel, helmet, "
    "broom, chain, dice, fork, glove, hook, jar, kite, lock, marble, nail, oar, pearl, quill, rake, scarf, torch, umbrella, "
    "vase, wheel, zipper"
)
EFFECTS = _words(
    "sleep well, catch a cold, lose your voice, find money, forget a name, hear music, miss the boat, grow tall, win a race, "
    "dream of water, feel warm, meet a friend"
)


@dataclass(frozen=True)
class Procedure:
    """An everyday procedure with one ingredient `{x}`: what it is called, the choices of `{x}`, and its steps in order."""

    name: str
    label: str
    fillers: tuple[str, ...]
    steps: tuple[str, ...]


def _procedure(name: str, label: str, fillers: str, steps: str) -> Procedure:
    return Procedure(name, label, _words(fillers), tuple(part.strip() for part in steps.split(";")))


PROCEDURES: tuple[Procedure, ...] = (
    _procedure(
        "make {x} tea",
        "Making tea",
        "mint, lemon, rose, ginger, apple, honey",
        "fill the kettle with cold water; heat the water until it boils; put the {x} leaves in a cup; pour the hot water over the "
        "{x} leaves; wait for five minutes; drink the {x} tea slowly",
    ),
    _procedure(
        "bake {x} bread",
        "Baking bread",
        "nut, corn, onion, raisin, olive, potato",
        "mix the flour with water and {x} pieces; knead the {x} dough on a table; leave the dough in a warm place; shape the dough "
        "into a loaf; bake the loaf in the hot oven; cool the {x} bread on a rack",
    ),
    _procedure(
        "plant {x} seeds",
        "Planting seeds",
        "carrot, pea, bean, tulip, pumpkin, melon",
        "dig a row of small holes; drop the {x} seeds into the holes; cover the {x} seeds with soil; water the ground gently; pull "
        "the weeds every week; pick the {x} crop in summer",
    ),
    _procedure(
        "repair a {x} chair",
        "Repairing a chair",
        "kitchen, garden, school, wooden, rocking, folding",
        "turn the {x} chair upside down; scrape the old glue from the joints; spread new glue on the joints; press the legs back "
        "into the seat; tie the {x} chair with a strap; let the glue dry overnight",
    ),
    _procedure(
        "wash a {x} coat",
        "Washing a coat",
        "winter, silk, travel, rain, cotton, velvet",
        "empty the pockets of the {x} coat; fill the tub with warm water; stir some soap into the tub; rub the {x} coat with a "
        "brush; rinse the soap from the cloth; hang the {x} coat on a line",
    ),
    _procedure(
        "paint a {x} door",
        "Painting a door",
        "front, cellar, stable, cabin, shop, church",
        "take the {x} door off its hinges; sand the surface until it is smooth; wipe the dust away with a rag; brush the first coat "
        "of paint; wait until the paint dries; hang the {x} door again",
    ),
    _procedure(
        "build a {x} fire",
        "Building a fire",
        "camp, beach, forest, signal, cooking, evening",
        "clear a circle of bare ground; gather dry twigs for the {x} fire; stack the twigs like a tent; light the twigs with a "
        "match; add larger logs to the {x} fire; pour sand over the last embers",
    ),
    _procedure(
        "send a {x} parcel",
        "Sending a parcel",
        "birthday, heavy, small, fragile, secret, holiday",
        "find a strong box for the {x} parcel; line the box with old newspaper; place the gift in the box; seal the {x} parcel with "
        "tape; write the address on the label; take the {x} parcel to the post office",
    ),
    _procedure(
        "cook {x} soup",
        "Cooking soup",
        "tomato, leek, chicken, mushroom, cabbage, lentil",
        "chop the {x} for the soup; melt some butter in a large pot; fry the {x} in the butter; add hot broth to the pot; simmer "
        "the {x} soup for an hour; serve the soup in bowls",
    ),
    _procedure(
        "clean a {x} lamp",
        "Cleaning a lamp",
        "desk, street, brass, reading, hall, ship",
        "unplug the {x} lamp from the wall; remove the bulb from the socket; dust the {x} lamp with a cloth; polish the base with "
        "cream; screw the bulb back in place; switch the {x} lamp on again",
    ),
    _procedure(
        "train a {x} dog",
        "Training a dog",
        "young, farm, sheep, rescue, house, lazy",
        "choose a quiet place for the {x} dog; show the {x} dog a treat; say the command in a clear voice; wait until the {x} dog "
        "sits; give the treat at once; repeat the lesson the next day",
    ),
    _procedure(
        "bind a {x} book",
        "Binding a book",
        "recipe, picture, school, travel, music, history",
        "fold the pages of the {x} book in half; punch holes along the fold; sew the pages with strong thread; cut two boards for "
        "the cover; glue the {x} book to the boards; press the book under a weight",
    ),
)

NAMES = _words(
    "Anna, Boris, Clara, Daniel, Elena, Felix, Greta, Hugo, Irene, Jonas, Karin, Leon, Maria, Nils, Olga, Peter, Rosa, Simon, "
    "Tessa, Victor, Wanda, Yara, Oscar, Nora, Lucas, Julia"
)
JOBS = _words(
    "baker, sailor, teacher, nurse, farmer, painter, student, librarian, carpenter, musician, gardener, tailor, doctor, clerk, "
    "pilot, cook"
)
AUDIENCES = _words(
    "children, beginners, my class, new workers, old friends, tourists, my parents, busy people, the village, my team, "
    "curious readers, my neighbours"
)
OBJECTS = _words(
    "lamps, apples, coins, books, shells, pencils, boxes, ropes, candles, eggs, maps, buttons, bottles, flags, tickets, keys"
)
PLACES = _words(
    "an old harbour, a quiet forest, a busy market, a dark cave, a high tower, a small village, a frozen lake, a hidden garden, "
    "a long bridge, a dusty attic, a green valley, an empty theatre"
)
FINDS = _words(
    "a silver key, a torn map, a singing bird, a broken clock, a blue lantern, a strange letter, a tiny boat, a golden ring, "
    "a sleeping cat, a wooden box, a lost crown, a glass flute"
)
MOODS = _words("gentle, funny, sad, hopeful, calm, brave, mysterious, cheerful, serious, warm")
TRAITS = _words("shy, clever, tired, lonely, proud, patient, stubborn, kind, nervous, bold")
LESSONS = _words("patience, courage, honesty, friendship, kindness, memory, silence, luck, home, trust")
ROLES = _words("manager, landlord, teacher, neighbour, cousin, doctor, editor, coach, captain, client")
REQUESTS = _words(
    "a day off, a new desk, more time, a short meeting, a quiet room, a refund, some advice, a second copy, a later start, "
    "a small loan"
)
REASONS = _words(
    "my train was late, my roof is leaking, my sister is ill, the old one is broken, the work took longer, I lost my notes, "
    "the road is closed, my exam is near, the noise is too loud, my order was wrong"
)
DAYS = _words("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday")
DOCUMENTS = _words("report, poster, school essay, travel guide, short talk, newsletter, notebook page, museum sign")


def article(noun: str) -> str:
    """A noun with its indefinite article."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def third_person(phrase: str) -> str:
    """'wash the cup' becomes 'washes the cup'."""
    verb, _, rest = phrase.partition(" ")
    if verb.endswith("y") and verb[-2] not in "aeiou":
        verb = verb[:-1] + "ies"
    elif verb.endswith(("sh", "ch", "x", "s", "z", "o")):
        verb += "es"
    else:
        verb += "s"
    return f"{verb} {rest}" if rest else verb


def capital(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]
