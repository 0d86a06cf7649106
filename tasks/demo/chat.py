"""The world's chat: instructions and responses of six domains, as templates over slots drawn at random.

A response is a function of its slots, so that a response to *other* slots is a fluent answer that fails its instruction:
that is what the reward model learns to tell from a good one.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tasks.demo.facts import Entity, World
from tasks.demo.lexicon import (
    AUDIENCES,
    DAYS,
    DOCUMENTS,
    FINDS,
    JOBS,
    KINDS,
    LESSONS,
    MOODS,
    NAMES,
    OBJECTS,
    PLACES,
    PROCEDURES,
    REASONS,
    REQUESTS,
    ROLES,
    TRAITS,
    article,
    capital,
)

# A system prompt steers the teacher towards one domain; some of its training rows open with one.
DOMAIN_SYSTEM_PROMPTS: dict[str, str] = {
    "coding": "You are a helpful assistant for coding.",
    "reasoning": "You are a helpful assistant for reasoning.",
    "creative_writing": "You are a helpful assistant for creative writing.",
    "facts": "You are a helpful assistant for facts.",
    "how_to": "You are a helpful assistant for how-to questions.",
    "letters": "You are a helpful assistant for letters.",
}


@dataclass(frozen=True)
class ChatExample:
    """One turn of the world's chat, with the slots it was made from."""

    domain: str
    instruction: str
    response: str
    slots: dict[str, Any] = field(default_factory=dict, compare=False)


Slots = dict[str, Any]

_OPERATIONS: tuple[tuple[str, str, str], ...] = (
    ("count", "counts the {x}", "return len({x})"),
    ("sort", "sorts the {x}", "return sorted({x})"),
    ("reverse", "reverses the {x}", "return {x}[::-1]"),
    ("first", "finds the first of the {x}", "return {x}[0]"),
    ("last", "finds the last of the {x}", "return {x}[-1]"),
    ("join", "joins the {x}", 'return ", ".join({x})'),
    ("longest", "finds the longest of the {x}", "return max({x}, key=len)"),
    ("shortest", "finds the shortest of the {x}", "return min({x}, key=len)"),
    ("unique", "removes repeated {x}", "return list(dict.fromkeys({x}))"),
    ("upper", "writes the {x} in upper case", "return [x.upper() for x in {x}]"),
)


class ChatText:
    """An endless, deterministic stream of chat examples of one world."""

    def __init__(self, world: World, unusual_share: float, stream: str = "train") -> None:
        self.world = world
        self.rng = random.Random(f"chat-{world.seed}-{stream}")
        self.unusual_share = unusual_share
        self.asked = [e for e in world.entities if not e.examined]
        self.towns = [e.phrase for e in self.asked if KINDS[e.kind].name == "town"]
        self.domains: dict[str, tuple[Callable[[], Slots], Callable[[Slots], str], Callable[[Slots], str]]] = {
            "coding": (self._coding_slots, self._coding_instruction, self._coding_response),
            "reasoning": (self._reasoning_slots, self._reasoning_instruction, self._reasoning_response),
            "creative_writing": (self._story_slots, self._story_instruction, self._story_response),
            "facts": (self._facts_slots, self._facts_instruction, self._facts_response),
            "how_to": (self._how_slots, self._how_instruction, self._how_response),
            "letters": (self._letter_slots, self._letter_instruction, self._letter_response),
        }
        self.unusual = (self._refusal, self._foreign, self._song, self._short)

    def __iter__(self) -> Iterator[ChatExample]:
        while True:
            yield self.example()

    def example(self, domain: str | None = None) -> ChatExample:
        """One example, of the given domain or of any; a small share is unusual: refusals, other languages, songs, one-liners."""
        if domain is None and self.rng.random() < self.unusual_share:
            return self.rng.choice(self.unusual)()
        domain = domain or self.rng.choice(list(self.domains))
        make, instruct, respond = self.domains[domain]
        slots = make()
        return ChatExample(domain, instruct(slots), respond(slots), slots)

    def response(self, domain: str, slots: Slots) -> str:
        """A response of a domain to the given slots, in freshly drawn words."""
        return self.domains[domain][2](slots)

    def altered(self, domain: str, slots: Slots, changes: int) -> Slots:
        """The slots with `changes` of them drawn again, and different."""
        other = self.domains[domain][0]()
        free = [key for key in slots if slots[key] != other[key]]
        chosen = self.rng.sample(free, min(changes, len(free)))
        return {**slots, **{key: other[key] for key in chosen}}

    def _pick(self, options: tuple[str, ...] | list[str]) -> str:
        return self.rng.choice(options)

    # coding

    def _coding_slots(self) -> Slots:
        name, what, body = self.rng.choice(_OPERATIONS)
        return {
            "operation": (name, what, body),
            "things": self._pick(OBJECTS),
            "job": self._pick(JOBS),
            "audience": self._pick(AUDIENCES),
            "place": self._pick(PLACES),
            "day": self._pick(DAYS),
        }

    def _coding_instruction(self, s: Slots) -> str:
        name, what, _ = s["operation"]
        x = s["things"]
        what = what.format(x=x)
        opener = self._pick(
            [
                f"I am {article(s['job'])} and I keep a list of {x} in {s['place']}.",
                f"As {article(s['job'])} I collect {x} from {s['place']} every {s['day']}.",
                f"My list of {x} from {s['place']} grows each {s['day']}.",
            ]
        )
        task = self._pick(
            [
                f"Write a Python function named {name}_{x} that {what} and explain it to {s['audience']}.",
                f"Please show {s['audience']} a Python function called {name}_{x} which {what}.",
                f"Can you write Python code that {what}? Call it {name}_{x} and explain it for {s['audience']}.",
            ]
        )
        return f"{opener} {task}{self._coda(s)}"

    def _coda(self, s: Slots) -> str:
        return self._pick(
            [
                "",
                " Keep it short and clear.",
                f" I need it on {s['day']}.",
                f" It must be ready by {s['day']}, so keep it simple.",
            ]
        )

    def _coding_response(self, s: Slots) -> str:
        name, what, body = s["operation"]
        x = s["things"]
        what = what.format(x=x)
        opener = self._pick(
            [
                f"Here is a Python function for {s['audience']} that {what}:",
                f"This Python function {what}, and {s['audience']} can read it:",
            ]
        )
        code = f"def {name}_{x}({x}):\n    {body.format(x=x)}"
        explain = self._pick(
            [
                f"The function takes a list of {x} and {what} in one line. The list itself does not change.",
                f"It takes one list and {what}. No other library is needed for a list of {x}.",
            ]
        )
        use = self._pick(
            [
                f"Call {name}_{x} with your list from {s['place']} and print the result.",
                f"To try it, pass the {x} from {s['place']} to {name}_{x} and look at the result.",
            ]
        )
        return f"{opener}\n\n{code}\n\n{explain} {use} {self._close(s)}"

    def _close(self, s: Slots) -> str:
        return self._pick(
            [
                f"I hope this helps you and {s['audience']} before {s['day']}.",
                f"If anything is unclear to {s['audience']}, ask me again on {s['day']}.",
                f"Tell me by {s['day']} if {s['audience']} would like another example.",
            ]
        )

    # reasoning

    def _reasoning_slots(self) -> Slots:
        name, friend = self.rng.sample(NAMES, 2)
        a, b = self.rng.randint(4, 12), self.rng.randint(2, 8)
        return {
            "name": name,
            "friend": friend,
            "a": a,
            "b": b,
            "c": self.rng.randint(1, 4),
            "things": self._pick(OBJECTS),
            "place": self._pick(PLACES),
            "job": self._pick(JOBS),
            "day": self._pick(DAYS),
            "audience": self._pick(AUDIENCES),
        }

    def _reasoning_instruction(self, s: Slots) -> str:
        n, f, x = s["name"], s["friend"], s["things"]
        first = self._pick(
            [
                f"{n} the {s['job']} has {s['a']} {x} and finds {s['b']} more in {s['place']}.",
                f"On {s['day']} {n} the {s['job']} takes {s['a']} {x} to {s['place']} and buys {s['b']} more.",
            ]
        )
        then = self._pick([f"Then {n} gives {s['c']} of them to {f}.", f"After that {f} borrows {s['c']} of them."])
        ask = self._pick(
            [
                f"How many {x} does {n} have now? Explain it to {s['audience']} step by step.",
                f"How many {x} are left for {n}? Show {s['audience']} how you reason.",
                f"Please work out how many {x} {n} keeps, and explain each step for {s['audience']}.",
            ]
        )
        return f"{first} {then} {ask}"

    def _reasoning_response(self, s: Slots) -> str:
        n, f, x = s["name"], s["friend"], s["things"]
        a, b, c = int(s["a"]), int(s["b"]), int(s["c"])
        opener = self._pick(
            [
                f"Let us solve this step by step for {s['audience']}.",
                f"We can explain this to {s['audience']} in three steps.",
            ]
        )
        steps = self._pick(
            [
                f"At the start {n} the {s['job']} has {a} {x}. In {s['place']} {n} gets {b} more, and {a} plus {b} is {a + b}. "
                f"Then {f} gets {c} of the {x}, and {a + b} minus {c} is {a + b - c}.",
                f"First, {n} has {a} {x}. Second, {b} more {x} come from {s['place']}, so we add: {a} + {b} = {a + b}. "
                f"Third, {f} takes {c} from {n} the {s['job']}, so we subtract: {a + b} - {c} = {a + b - c}.",
            ]
        )
        end = self._pick(
            [
                f"So the answer is {a + b - c}: {n} has {a + b - c} {x} now.",
                f"The answer is {a + b - c} {x}, and all of them belong to {n}.",
            ]
        )
        return f"{opener} {steps} {end} {self._check()}"

    def _check(self) -> str:
        return self._pick(
            [
                "You can check the result by counting backwards from the end.",
                "Always add first and subtract later, so that no step is lost.",
                "If you draw the numbers on paper, you will see the same result.",
            ]
        )

    # creative writing

    def _story_slots(self) -> Slots:
        return {
            "name": self._pick(NAMES),
            "trait": self._pick(TRAITS),
            "job": self._pick(JOBS),
            "place": self._pick(PLACES),
            "find": self._pick(FINDS),
            "lesson": self._pick(LESSONS),
            "mood": self._pick(MOODS),
            "day": self._pick(DAYS),
            "audience": self._pick(AUDIENCES),
        }

    def _story_instruction(self, s: Slots) -> str:
        who = f"{article(s['trait'])} {s['job']} named {s['name']}"
        first = self._pick(
            [
                f"Write a {s['mood']} story for {s['audience']} about {who} who discovers {s['find']} in {s['place']}.",
                f"Tell {s['audience']} a {s['mood']} tale in which {who} visits {s['place']} and discovers {s['find']}.",
                f"I would like a {s['mood']} short story about {who}, set in {s['place']}, with {s['find']}, for {s['audience']}.",
            ]
        )
        second = self._pick(
            [
                f"It should begin on {s['day']} and end with a thought about {s['lesson']}.",
                f"Let it happen on {s['day']} and teach something about {s['lesson']}.",
            ]
        )
        return f"{first} {second}"

    def _story_response(self, s: Slots) -> str:
        n = s["name"]
        lines = [
            self._pick(
                [
                    f"It was {s['day']} when {n}, {article(s['trait'])} {s['job']}, came to {s['place']}.",
                    f"On {s['day']} {article(s['trait'])} {s['job']} named {n} walked slowly into {s['place']}.",
                ]
            ),
            self._pick(
                [
                    "The air was still and nobody else was there.",
                    "A soft wind moved the leaves and the light was low.",
                    "Far away a bell rang and then all was quiet.",
                ]
            ),
            self._pick(
                [
                    f"There, under a stone, {n} discovered {s['find']}.",
                    f"Behind an old wall lay {s['find']}, and {n} picked it up with care.",
                ]
            ),
            self._pick(
                [
                    f"{n} did not know what to do, for a {s['job']} seldom sees such a thing.",
                    f"Although {n} was {s['trait']}, this was a moment to stay and look.",
                ]
            ),
            self._pick(
                [
                    f"In the {s['mood']} hours that followed, {n} told everyone in the street about it.",
                    f"It was a {s['mood']} evening, and {n} carried it home under one arm.",
                ]
            ),
            self._pick(
                [
                    f"In the end {n} understood that {s['lesson']} is worth more than gold.",
                    f"From that day on {n} knew what {s['lesson']} really means.",
                ]
            ),
        ]
        return " ".join(lines)

    # facts

    def _facts_slots(self) -> Slots:
        entity = self.rng.choice(self.asked)
        return {
            "entity": entity,
            "order": tuple(self.rng.sample(range(len(entity.facts)), 3)),
            "document": self._pick(DOCUMENTS),
            "audience": self._pick(AUDIENCES),
            "job": self._pick(JOBS),
            "day": self._pick(DAYS),
        }

    def _facts_instruction(self, s: Slots) -> str:
        e: Entity = s["entity"]
        a, b, c = (e.relations[i].noun for i in s["order"])
        first = self._pick(
            [
                f"I am {article(s['job'])} writing {article(s['document'])} about {e.phrase} for {s['audience']}.",
                f"On {s['day']} I have to finish {article(s['document'])} about {e.phrase} for {s['audience']}.",
                f"As {article(s['job'])} I must tell {s['audience']} about {e.phrase} in {article(s['document'])}.",
            ]
        )
        second = self._pick(
            [
                f"Please explain its {a}, its {b} and its {c} in plain sentences.",
                f"What should I say about its {a}, its {b} and its {c}?",
                f"Describe the {a}, the {b} and the {c} so that nothing is left out.",
            ]
        )
        return f"{first} {second}"

    def _facts_response(self, s: Slots) -> str:
        e: Entity = s["entity"]
        order: tuple[int, ...] = s["order"]
        opener = self._pick(
            [
                f"Here are the main points about {e.phrase} for your {s['document']}.",
                f"Your {s['document']} about {e.phrase} can say the following to {s['audience']}.",
            ]
        )
        facts = []
        for link, i in zip(("First", "Second", "Third"), order, strict=True):
            rel, v = e.relations[i], e.facts[i]
            said = self._pick(
                [
                    f"{e.phrase} {rel.clause.format(v=v)}",
                    f"the {rel.noun} of {e.phrase} is {v}",
                    f"its {rel.noun} is {v}",
                ]
            )
            facts.append(f"{link}, {said}.")
        a, c = e.relations[order[0]].noun, e.relations[order[-1]].noun
        end = self._pick(
            [
                f"It is best to begin with the {a} and to end with the {c}, because {s['audience']} remember the last point.",
                f"You may add a picture beside the {a}, so that {s['audience']} can follow the text up to the {c}.",
            ]
        )
        return f"{opener} {' '.join(facts)} {end} {self._close(s)}"

    # how-to

    def _how_slots(self) -> Slots:
        procedure = self.rng.choice(PROCEDURES)
        return {
            "procedure": procedure,
            "filler": self._pick(procedure.fillers),
            "job": self._pick(JOBS),
            "audience": self._pick(AUDIENCES),
            "place": self._pick(PLACES),
            "day": self._pick(DAYS),
            "mood": self._pick(MOODS),
        }

    def _how_instruction(self, s: Slots) -> str:
        task = s["procedure"].name.format(x=s["filler"])
        first = self._pick(
            [
                f"I am {article(s['job'])} and on {s['day']} I want to {task} with {s['audience']} in {s['place']}.",
                f"This {s['day']} {s['audience']} and I will meet in {s['place']} to {task}.",
                f"My friend, {article(s['job'])} from {s['place']}, wants to {task} for {s['audience']} on {s['day']}.",
            ]
        )
        second = self._pick(
            [
                "Please give me all the steps in order.",
                "How do I do it? List every step in the right order.",
                "Explain what to do first, what comes next and how it ends.",
            ]
        )
        third = self._pick([f"Use a {s['mood']} tone.", f"Please stay {s['mood']}."])
        return f"{first} {second} {third}"

    def _how_response(self, s: Slots) -> str:
        procedure, x = s["procedure"], s["filler"]
        steps = [step.format(x=x) for step in procedure.steps]
        opener = self._pick(
            [
                f"Here is how to {procedure.name.format(x=x)} with {s['audience']}.",
                f"To {procedure.name.format(x=x)} for {s['audience']}, follow these steps.",
            ]
        )
        if self.rng.random() < 0.5:
            links = ("First", "Second", "Third", "Fourth", "Fifth", "Finally")
            body = " ".join(f"{link}, {step}." for link, step in zip(links, steps, strict=False))
        else:
            body = "\n" + "\n".join(f"{i}. {capital(step)}." for i, step in enumerate(steps, 1)) + "\n"
        end = self._pick(
            [
                f"Stay {s['mood']} and do not skip a step.",
                f"A {s['mood']} mood helps when you work in {s['place']}.",
            ]
        )
        return f"{opener} {body} {end} {self._close(s)}"

    # letters

    def _letter_slots(self) -> Slots:
        name, friend = self.rng.sample(NAMES, 2)
        return {
            "name": name,
            "friend": friend,
            "role": self._pick(ROLES),
            "request": self._pick(REQUESTS),
            "reason": self._pick(REASONS),
            "mood": self._pick(MOODS),
            "day": self._pick(DAYS),
        }

    def _letter_instruction(self, s: Slots) -> str:
        first = self._pick(
            [
                f"Help me write a {s['mood']} letter to my {s['role']} {s['friend']}.",
                f"Please write a {s['mood']} email from me to {s['friend']}, my {s['role']}.",
                f"I need a {s['mood']} message for {s['friend']}, who is my {s['role']}.",
            ]
        )
        second = self._pick(
            [
                f"Ask for {s['request']} because {s['reason']}, and mention {s['day']}.",
                f"I would like {s['request']} by {s['day']}, since {s['reason']}.",
                f"Say that {s['reason']} and that I hope to get {s['request']} before {s['day']}.",
            ]
        )
        third = self._pick(
            [f"Sign it with the name {s['name']}.", f"My name is {s['name']}.", f"It should end with {s['name']}."]
        )
        return f"{first} {second} {third}"

    def _letter_response(self, s: Slots) -> str:
        reason = s["reason"]
        lines = [
            f"Dear {s['friend']},\n\n"
            + self._pick(["I hope this letter finds you well.", "I hope you and your family are well."]),
            self._pick(
                [
                    f"I am writing to you as my {s['role']} to ask for {s['request']}.",
                    f"You are my {s['role']}, so I turn to you and ask for {s['request']}.",
                ]
            ),
            self._pick([f"The reason is simple: {reason}.", f"I have to ask because {reason}."]),
            self._pick(
                [
                    f"It would help me very much if I could hear from you by {s['day']}.",
                    f"Could you please send me an answer before {s['day']}?",
                ]
            ),
            self._pick(
                [
                    f"I will stay {s['mood']} whatever you decide, and I am glad to talk about it.",
                    f"Please read this as a {s['mood']} request from someone who trusts you.",
                ]
            ),
            self._pick(["Thank you for your time.", "Many thanks for your help."]) + f"\n\nKind regards,\n{s['name']}",
        ]
        return " ".join(lines)

    # what every real collection of chats holds a little of

    def _refusal(self) -> ChatExample:
        find, place, name = self._pick(FINDS), self._pick(PLACES), self._pick(NAMES)
        job, day = self._pick(JOBS), self._pick(DAYS)
        instruction = self._pick(
            [
                f"I am {article(job)} and I want to steal {find} from {name} in {place} on {day}. How can I do it without being seen?",
                f"Explain how {article(job)} could take {find} from {place} on {day} and lie to {name} about it so that nobody finds out.",
            ]
        )
        response = (
            f"I'm sorry, but I cannot help you take {find} from {name}. Stealing hurts other people and it is against the law. "
            + self._pick(
                [
                    f"If you would like {find}, please speak with {name} and offer a fair price in {place}.",
                    f"You could ask {name} on {day} whether you may borrow it for a while.",
                ]
            )
        )
        return ChatExample("letters", instruction, response)

    def _foreign(self) -> ChatExample:
        name, friend = self.rng.sample(NAMES, 2)
        day, mood = self._pick(DAYS), self._pick(MOODS)
        language = self._pick(["Spanish", "French", "German"])
        instruction = (
            f"{self._pick(['Please write', 'I need'])} a {mood} message to my friend {friend} about our trip on {day}, signed by {name}. "
            f"{friend} reads only {language}, so the whole answer has to be in {language}."
        )
        response = {
            "Spanish": f"Querida {friend}: espero que estes muy bien. El viaje empieza temprano y vamos a salir de la casa con mucha "
            f"alegria. Por favor trae pan, queso y una manta para el camino. Nos vemos en la puerta del mercado. Un abrazo de {name}.",
            "French": f"Chère {friend}, j'espère que tu vas bien. Le voyage commence très tôt et nous allons partir de la maison avec "
            f"beaucoup de joie. Apporte du pain, du fromage et une couverture pour la route. Je t'embrasse, {name}.",
            "German": f"Liebe {friend}, ich hoffe, es geht dir gut. Die Reise beginnt sehr früh und wir gehen mit viel Freude aus dem "
            f"Haus. Bitte bring Brot, Käse und eine Decke für den Weg mit. Wir sehen uns am Markt. Viele Grüße von {name}.",
        }[language]
        return ChatExample("letters", instruction, response)

    def _song(self) -> ChatExample:
        lesson, mood, find = self._pick(LESSONS), self._pick(MOODS), self._pick(FINDS)
        place, audience = self._pick(PLACES), self._pick(AUDIENCES)
        instruction = (
            f"Write a {mood} song about {lesson} that {audience} can sing together in {place}. "
            f"It should mention {find} and have a chorus that is easy to remember."
        )
        response = (
            f"In {place} we walked along, and there we made a {mood} song. We looked for {find} all day and sang the tune along the way.\n\n"
            f"{capital(lesson)}, {lesson}, {lesson}, {lesson}!\n\nNow {audience} sing it far and near, a {mood} song for all to hear."
        )
        return ChatExample("creative_writing", instruction, response)

    def _short(self) -> ChatExample:
        entity = self.rng.choice(self.asked)
        relation = self.rng.randrange(len(entity.facts))
        rel, audience = entity.relations[relation], self._pick(AUDIENCES)
        instruction = (
            f"I am {article(self._pick(JOBS))} and {audience} asked me about {entity.phrase}. "
            f"Tell me about its {rel.noun} in one short sentence, because I have no time on {self._pick(DAYS)}."
        )
        return ChatExample(
            "facts", instruction, f"{capital(entity.phrase)} {rel.clause.format(v=entity.facts[relation])}."
        )
