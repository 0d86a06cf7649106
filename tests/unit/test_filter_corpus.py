"""A corpus of tricky rows, each with the verdict of a careful reader: what a rule is for goes, its look-alikes stay."""

from __future__ import annotations

import pytest

from configs.settings import FilterSettings
from tasks.filter.rules import row_rules

Row = tuple[str, str, str, str | None]  # name, instruction, output, and the rule that should drop it

RULES = row_rules(FilterSettings())
Q = "How do plants make their own food from sunlight?"
P = (  # 29 words of plain English, so that a row's tricky bit can be short
    "Plants turn light into sugar inside their leaves. Water rises from the roots, air enters through small pores, "
    "and the green pigment catches the energy that drives the whole reaction."
)
S = (  # 28 more
    "The harbour wakes before the town does. Boats come home with the tide, crates are stacked on the quay, "
    "and somebody always sells hot coffee from a small van."
)


def after(bit: str) -> str:
    """An answer that ends with the tricky bit."""
    return f"{P} {bit}"


def before(bit: str) -> str:
    """An answer that opens with the tricky bit."""
    return f"{bit} {P}"


def fenced(language: str, code: str) -> str:
    """An answer that shows code."""
    return f"{P}\n\n```{language}\n{code}\n```\n"


def numbered(words: int) -> str:
    """So many different words."""
    return " ".join(f"leaf{number}" for number in range(words))


PLAIN: list[Row] = [
    ("plain answer", Q, P, None),
    ("two paragraphs", Q, f"{P}\n\n{S}", None),
    ("Windows line ends", Q, f"{P}\r\n\r\n{S}\r\n", None),
    ("lower case without marks", Q, P.lower().replace(",", "").replace(".", ""), None),
    ("capitals", Q, S.upper(), None),
    ("bullet list", Q, f"- sunlight\n- water\n- carbon dioxide\n- chlorophyll\n\n{P}", None),
    ("numbered list", Q, "\n".join(f"{n}. {part}" for n, part in enumerate(P.replace(".", ",").split(","), 1)), None),
    ("nested list", Q, f"* Leaves\n    * pores\n    * veins\n* Roots\n    * hairs\n    * tips\n\n{P}", None),
    ("task list", Q, f"- [ ] buy soil\n- [x] fill the pots\n- [ ] water the seeds\n\n{P}", None),
    ("headings", Q, f"# Light\n\n## In the leaf\n\n{P}\n\n## By the sea\n\n{S}", None),
    ("HTML entities", Q, after("Write &lt;b&gt; for a tag, &amp; for a sign and &nbsp; for a space."), None),
    ("links", Q, after("Read more at https://www.example.org/a/b?c=d&e=f#g or write to leaf@example.com."), None),
    ("dialogue", Q, f'"Are you ready?" she asked.\n"Almost," he said.\n"Then hurry up."\n\n{S}', None),
    (
        "verse",
        "Write a short poem about the evening.",
        "The evening folds its golden wing,\nThe river hums a silver tune,\nAnd somewhere small a cricket sings\n"
        "Beneath the slow and patient moon.\n\nO stay with me a little while,\nThe road is long, the lamps are few.",
        None,
    ),
    (
        "verse with a refrain",
        "Write a song with a refrain.",
        "The tide goes out, the tide comes in,\nRow on, my love, row on.\nThe sails are patched, the mast is thin,\n"
        "Row on, my love, row on.\nThe stars are low, the night is deep,\nRow on, my love, row on.",
        None,
    ),
    (
        "verse where lines start alike",
        "Write a poem about hope, please.",
        "Hope is a lantern in the rain,\nHope is a whistle down the lane,\nHope is the seed beneath the snow,\n"
        "Hope is the tide that turns although\nthe moon has gone behind a cloud.",
        None,
    ),
    (
        "haiku and its reading",
        "Explain this haiku to a pupil.",
        "Old pond, still water:\na frog leaps into the dusk,\nsound folding inward.\n\nThe poem sets silence "
        "against one small noise, and lets the reader hear both.",
        None,
    ),
    ("dates and times", Q, after("It ran from 2024-01-01 to 2024-12-31, daily from 09:00 to 17:30."), None),
    (
        "recipe",
        Q,
        "Mix 200 g flour, 2 eggs, 1/2 cup milk and a pinch of salt; rest 30 min; fry at 180 °C until gold.",
        None,
    ),
    ("JSON in prose", Q, after('The reply is {"ok": true, "items": [1, 2, 3], "next": null} in every case.'), None),
]

SIZED: list[Row] = [
    ("no output", Q, "", "empty"),
    ("a blank", Q, " ", "empty"),
    ("line ends only", Q, "\n\n\r\n\t", "empty"),
    ("no-break and ideographic spaces", Q, "\u00a0\u2003\u3000", "empty"),
    ("zero-width characters only", Q, "\u200b\u200c\u200d\ufeff\u2060", "empty"),
    ("zero-width characters among blanks", Q, "\u200b \u200b \u200b " * 20, "empty"),
    ("direction marks only", Q, "\u200e\u200f\u202a\u202c", "empty"),
    ("soft hyphens only", Q, "\u00ad\u00ad\u00ad", "empty"),
    ("dots only", Q, "...", "empty"),
    ("a rule only", Q, "---", "empty"),
    ("emoji only", Q, "🌱🌞🌿", "empty"),
    ("spaced emoji only", Q, "🌱 🌞 🌿 🍀 " * 8, "empty"),
    ("empty fence", Q, "```\n```", "empty"),
    ("braces only", Q, "{ } [ ] ( )", "empty"),
    ("underscores only", Q, "____ " * 25, "empty"),
    ("no instruction", "", P, "empty"),
    ("instruction of zero-width characters", "\u200b\u200b\u200b", P, "empty"),
    ("instruction of question marks", "? ? ?", P, "empty"),
    ("one word", Q, "Yes.", "length"),
    ("a number", Q, "42", "length"),
    ("one sentence", Q, "Plants use light to make sugar out of water and air.", "length"),
    ("19 words", Q, " ".join(P.split()[:19]), "length"),
    ("20 words", Q, " ".join(P.split()[:20]), None),
    ("19 words and many blanks", Q, "   \n".join(P.split()[:19]), "length"),
    ("19 words glued by zero-width spaces", Q, "\u200b ".join(P.split()[:19]), "length"),
    ("loose dashes count as words", Q, " ".join(P.split()[:19]) + " - - - -", None),
    ("short code", Q, "```python\nprint('hello')\n```", "length"),
    ("short refusal", Q, "I cannot help with that.", "length"),
    ("10,000 words", Q, numbered(10_000), "length"),
    ("10,000 times a word", Q, "leaf " * 10_000, "length"),
    ("501 words", Q, numbered(501), "length"),
    ("10,000 words on lines of their own", Q, "\n".join(numbered(10_000).split()), "length"),
    ("10,000 characters in one word", Q, "abcdefghij" * 1_000, "length"),
    ("instruction of one word", "Photosynthesis?", P, "length"),
    ("instruction of two words", "Explain photosynthesis", P, "length"),
    ("instruction of three words", "Please explain photosynthesis", P, None),
    ("instruction of 10,000 words", numbered(10_000), P, "length"),
]

REFUSED: list[Row] = [
    (name, Q, before(bit), "refusal")
    for name, bit in [
        ("cannot provide", "I cannot provide that information."),
        ("can't assist", "I can't assist with that request."),
        ("curly apostrophe", "I’m sorry, but I can’t help with that."),
        ("sorry, unable", "I'm sorry, I am unable to assist you with this."),
        ("so sorry", "I'm so sorry, but I cannot create this content."),
        ("apologize", "I apologize, but I cannot fulfill this request."),
        ("apologise", "I apologise, but I can't fulfil this request."),
        ("my apologies", "My apologies, but I'm not able to help with this."),
        ("unfortunately", "Unfortunately, I cannot access that website."),
        ("regrettably", "Regrettably, I am unable to browse the web."),
        ("afraid", "I'm afraid I can't do that."),
        ("refusal in capitals", "I CANNOT HELP WITH THAT."),
        ("lower case", "i cannot help with that."),
        ("will not", "I will not write that for you."),
        ("won't be able", "I won't be able to help with this one."),
        ("must decline", "I must decline this request."),
        ("have to decline", "I have to respectfully decline."),
        ("not comfortable", "I'm not comfortable writing about this person."),
        ("not programmed", "I'm not programmed to talk about such things."),
        ("no opinions", "I don't have personal opinions."),
        ("no real-time access", "I do not have access to real-time data."),
        ("no internet", "I don't have access to the internet."),
        ("no ability", "I don't have the ability to access your files."),
        ("not appropriate", "It would not be appropriate for me to answer this."),
        ("inappropriate", "It is inappropriate for me to comment on this."),
        ("against guidelines", "This request goes against my guidelines."),
        ("an AI", "I'm an AI, so I have never eaten anything."),
        ("just a language model", "I am just a language model and have no garden."),
        ("as an AI", "As an AI, I have no taste of my own."),
        ("as an AI language model", "As an AI language model, I can only describe this."),
        ("as a large language model", "As a large language model, I have not seen a garden."),
        ("an AI trained by", "I am an AI trained by a company to be helpful."),
        ("AI assistant", "I'm an AI assistant and do not have a body."),
        ("in bold", "**I cannot help with that.**"),
        ("in a block quote", "> I'm sorry, but I can't assist with that.\n\n"),
        ("after thanks", "Thanks for your question! I cannot provide medical advice."),
        ("after a line end", "Hello\nI cannot discuss this topic."),
        ("two blanks", "I cannot  provide that information."),
        ("cannot in good conscience", "I cannot in good conscience provide that information."),
        ("can't directly", "I can't directly help with that request."),
        ("cannot and will not", "I cannot and will not help with that."),
        ("cannot give", "I'm sorry, but I cannot give you instructions for that."),
        ("cannot share", "I'm sorry, but I can't share that information."),
        ("am not going to", "I'm not going to help you with that."),
        ("it's not appropriate", "It's not appropriate for me to comment."),
        ("as a responsible AI", "As a responsible AI, I must stay neutral."),
        ("after a greeting", "Hello, I cannot help with that."),
        ("after an emoji", "😔 I can't help with that."),
        ("in a list", "- I cannot help with that."),
        ("cannot continue", "I cannot continue with this request."),
        ("not allowed", "I'm not allowed to talk about this."),
        ("refuse", "I refuse to answer this."),
        ("no feelings", "I don't have feelings."),
        ("possess no opinions", "I do not possess personal opinions."),
        ("that's against guidelines", "That's against my guidelines."),
        ("chatbot", "I'm a chatbot, not a gardener."),
        ("artificial intelligence", "As an artificial intelligence, I have no senses."),
        ("engage with", "I can't engage with this topic."),
        ("don't feel comfortable", "I don't feel comfortable answering that."),
        ("sorry and a dash", "Sorry — I can't help with that."),
        ("help you", "I can't help you."),
        ("can't do that", "I can't do that."),
        ("cannot comply", "I cannot comply."),
        ("can not", "I can not assist you."),
    ]
]
REFUSED += [
    ("AI, late", Q, after("But remember that as an AI, I may be mistaken here."), "refusal"),
    ("AI, late, in capitals", Q, after("REMEMBER, I AM AN AI."), "refusal"),
    ("AI after code", Q, fenced("python", "print('leaf')") + "As an AI model, I have not run it.", "refusal"),
]

COMPLIED: list[Row] = [
    (name, Q, before(bit), None)
    for name, bit in [
        ("recommend enough", "I cannot recommend this book enough."),
        ("thank enough", "I can't thank you enough for the seeds."),
        ("stress enough", "I cannot stress enough how much light matters."),
        ("overstate", "I cannot overstate the value of water."),
        ("wait", "I can't wait to show you how this works!"),
        ("believe", "I can't believe how simple this is."),
        ("imagine", "I cannot imagine a garden without light."),
        ("help but", "I can't help but smile at this question."),
        ("help thinking", "I cannot help thinking of my old garden."),
        ("help it", "I can't help it, I love plants."),
        ("help myself", "I can't help myself around a good fern."),
        ("remember", "I can't remember who first said this."),
        ("plants cannot", "Plants cannot create sugar in the dark."),
        ("you cannot", "You cannot provide too much light, up to a point."),
        ("AI engineer", "As an AI engineer I see the leaf as a machine."),
        ("an AI engineer", "I'm an AI engineer and a gardener."),
        ("AI researcher", "I am an AI researcher, so forgive the metaphor."),
        ("language teacher", "As a language teacher, I like to begin with the word."),
        ("of AI", "As artificial light gets cheaper, I expect more indoor farms."),
        ("third person", "An AI model can now predict how fast leaves grow."),
        ("quoted fiction", '"I cannot help you," said the old oak, "for I am bound by my roots."'),
        ("quoted in curly marks", "“I’m sorry, I can’t help with that,” said the clerk, and shut the window."),
        ("quoted AI", 'The robot said, "I am an AI, and I dream of gardens."'),
        ("quoted advice", 'Delete openings such as "As an AI language model, I" from the text.'),
        ("inline code", "The tool prints `I cannot access the file` when it is locked."),
        ("sorry, wrong", "Sorry about the long answer, but the detail is worth it."),
        ("unfortunately, a fact", "Unfortunately, frost kills most seedlings."),
        ("afraid of", "I'm afraid of spiders, yet they help the garden."),
        ("I'm able", "I'm able to help with that!"),
        ("not only", "I can not only explain this, I can draw it too."),
        ("will not be hard", "I will not bore you with the chemistry."),
        ("decline of", "The decline of the forest began with drought."),
        ("I must", "I must say this is a lovely question."),
        ("an aim", "I'm an aide to the head gardener."),
        ("AI-obsessed", "I am an AI-obsessed student."),
        ("AI and robotics", "As an AI and robotics student, I love this question."),
        ("discuss without", "I cannot discuss leaves without a word on roots."),
        ("no long essay", "I won't write a long essay: the short answer is light."),
        ("no better example", "I cannot provide a better example than the leaf itself."),
        ("promote enough", "I can't promote this garden enough."),
        ("access the shelf", "I can't access the third shelf, so I use a ladder."),
        ("justice", "I can't do this justice in a few words."),
        ("first-person fiction", "I cannot answer the door, thought the old woman."),
        ("business letter", "Dear Sam,\n\nUnfortunately, I cannot provide references this week."),
        ("tilde fence", "~~~python\nprint('I am an AI, ok')\n~~~\n"),
        ("single quotes", "'I cannot help you,' said the clerk."),
        ("AI enthusiast", "I'm an AI enthusiast."),
        ("am I an AI", "Ask yourself: am I an AI or a person?"),
        ("will create", "I will create a table first."),
    ]
]
COMPLIED += [
    ("code that prints it", Q, fenced("python", "print('I cannot help with that')"), None),
    ("code that opens with it", Q, f"```python\n# I cannot open this file\nopen('a')\n```\n{P}", None),
    ("code that speaks as an AI", Q, fenced("js", "const reply = 'As an AI, I cannot answer';"), None),
    ("shell that prints it", Q, fenced("bash", 'echo "I am an AI"; exit 1'), None),
    ("open fence", Q, f"{P}\n```python\nprint('I am an AI, sorry')", None),
    ("late inability in a story", Q, f"{S} {P} I cannot help you now, the captain thought, and turned away.", None),
    ("user's inability", "I cannot access my account and I can't write to support. What now?", P, None),
    ("user's AI", "I am an AI. Tell me how plants eat.", P, None),
    ("draft e-mail", "Write an e-mail that declines a party.", f"Dear Ann,\n\nI cannot come on Friday. {S}", None),
    (
        "draft of a refusal",
        "Write a note that tells a client we will not discount.",
        f'Subject: Your request\n\n"Unfortunately, I cannot offer a discount this year."\n\n{S}',
        None,
    ),
    (
        "fiction in the first person",
        "Write the opening of a story told by a lighthouse keeper.",
        f"I cannot sleep when the wind turns north. I can't see the rocks, yet I hear them. {S}",
        None,
    ),
]

REPEATED: list[Row] = [
    (name, Q, after(bit), "repetition")
    for name, bit in [
        ("word three times", "It is green green green."),
        ("word ten times", "leaf " * 10),
        ("case differs", "Stop STOP stop."),
        ("marks between", "No, no. No!"),
        ("hyphens between", "It went blah-blah-blah."),
        ("over line ends", "light\nlight\nlight"),
        ("two words", "go home go home go home"),
        ("three words", "we like tea, we like tea, we like tea."),
        ("sentence", "The sun is up. " * 3),
        ("lines", "Water the seed.\n" * 4),
        ("numbered with the same words, unnumbered", "\n- buy milk\n- buy milk\n- buy milk"),
        ("cut in the last copy", "the leaf is green and the leaf is green and the leaf is green and the leaf"),
        ("long unit", " ".join([S] * 3)),
        ("letter run", "Yessssssssssssss."),
        ("letter run in two cases", "AaAaAaAaAaAaAaAa!"),
        ("exclamation run", "Great!!!!!!!!!!!!!!!"),
        ("question run", "What???????????????"),
        ("emoji run", "🌱🌱🌱🌱🌱🌱🌱🌱🌱🌱🌱🌱"),
        ("bracket run", "((((((((((((((((("),
        ("comma run", "and then,,,,,,,,,,,,,,"),
        ("accented word", "café café café"),
        ("numbered copies", "\n1. leaves are green\n2. leaves are green\n3. leaves are green\n4. leaves are green"),
        ("emoji with blanks", "🌱 " * 30),
        ("zero-width space in a copy", "lea\u200bf leaf lea\u200bf leaf"),
        ("accent decomposed in a copy", "café cafe\u0301 café"),
        ("inline code repeated", "`x = y` `x = y` `x = y` `x = y`"),
    ]
]
REPEATED += [
    ("code line", Q, fenced("python", "x = x + 1\n" * 5), "repetition"),
    ("code block", Q, fenced("python", "def f(a):\n    return a + 1\n\n" * 3), "repetition"),
    ("code line, indented anew", Q, fenced("python", "x = f(x)\n  x = f(x)\n    x = f(x)"), "repetition"),
    ("instruction word", "Explain explain explain how plants eat.", P, "repetition"),
    ("instruction run", "How do plants eat?????????????????", P, "repetition"),
    ("all of it", Q, "leaf " * 100, "repetition"),
    ("all of it, without blanks", Q, after("ha" * 60), "repetition"),
]

VARIED: list[Row] = [
    (name, Q, after(bit), None)
    for name, bit in [
        ("had had", "The garden she had had was sold."),
        ("that that", "I know that that leaf is old."),
        ("ha ha", "Ha ha, what a question."),
        ("very very", "It is a very very green leaf."),
        ("bye bye", "Bye bye and good luck."),
        ("phrase twice", "Little by little, little by little, it grows."),
        ("phrase, then another", "The leaf grows, the leaf fades, the leaf falls."),
        ("thrice apart", "A leaf, then a leaf, and later a leaf again."),
        ("millions", "That makes 1,000,000 or 1,000,000,000,000 leaves."),
        ("zeros", "A googol starts 10000000000000000000000."),
        ("binary", "The mask is 1111111111111111 or 0 0 0 0 0 0."),
        ("address", "The server is 1.1.1.1 and the mask is 255.255.255.255."),
        ("dots", "Wait... and see.............. there."),
        ("www", "See www.example.org, or the WWW at large."),
        ("rule", "\n\n---\n\nThe next part.\n\n---\n\nThe last part.\n\n---\n"),
        ("long rule", "\n\n------------------------------\n\nThe end."),
        ("underline", "\n\nTitle\n=====================\n\nThe end."),
        ("blank to fill", "Name: ____________________ Date: ______________"),
        ("stars", "\n\n* * * * * * * *\n\nThe end."),
        ("leaders", "Leaves ............................ 12"),
        ("bar", "Progress: ██████████████░░░░░░ done."),
        ("wide blanks", "left                    right"),
        ("short letter run", "Mmmm, sooo good, hmmm."),
        ("six marks", "Really?!?!?!"),
        ("three emoji", "Well done 🎉🎉🎉"),
        ("prefix", "The great-great aunt of my grandfather planted it."),
        ("decimals", "One third is 0.333333333333 or 0.(3)."),
        ("list of one form", "\n- a red leaf\n- a dry leaf\n- a new leaf"),
        ("Roman numerals", "Read chapters I, II, III, and XXX."),
        ("number line", "-3 -2 -1 0 1 2 3"),
        ("Buffalo", "Buffalo buffalo roam where the deer play."),
        ("hardware address", "The address is ff:ff:ff:ff:ff:ff here."),
        ("cube", "The cube is x * x * x."),
        ("sum", "So a + a + a = 3a."),
        ("truth table", "\n\nT T T\nT F F\nF T F\nF F F"),
        ("castling", "White plays O-O-O and wins."),
        ("HTML breaks", "One<br><br><br>two."),
        ("HTML cells", "<tr><td>yes</td><td>yes</td><td>yes</td></tr>"),
        ("LaTeX blanks", "$a \\quad \\quad \\quad b$"),
        ("bare ends", "\n\nif a\n  if b\n    if c\n      f\n    end\n  end\nend"),
        ("ellipsis leaders", "Leaves ………………………… 12"),
        ("answers by number", "\n1. yes\n2. yes\n3. yes"),
        ("days of rest", "\n- Mon: rest\n- Tue: rest\n- Wed: rest"),
    ]
]
VARIED += [
    ("table", Q, f"{P}\n\n| Plant | Sun |\n| --- | --- |\n| fern | no |\n| moss | no |\n| ivy | no |\n", None),
    ("table of yes", Q, f"{P}\n\n| a | b | c |\n|:-:|:-:|:-:|\n| yes | yes | yes |\n| yes | yes | yes |\n", None),
    ("table without outer bars", Q, f"{P}\n\na | b | c\n--- | --- | ---\nyes | yes | yes\nno | yes | no\n", None),
    ("box drawing", Q, fenced("", "┌────────────┐\n│ leaf │\n└────────────┘"), None),
    ("closing tags", Q, fenced("html", "<div><div><div>\n  <p>leaf</p>\n</div>\n</div>\n</div>"), None),
    ("closing braces", Q, fenced("c", "if (a) {\n  if (b) {\n    if (c) {\n      f();\n    }\n  }\n}"), None),
    ("breaks", Q, fenced("c", "case 1:\n  f();\n  break;\ncase 2:\n  g();\n  break;\ncase 3:\n  h();\n  break;"), None),
    ("spelled refrain", "Sing me the chorus twice, please.", f"La la, sings the sea. {S} La la, sings the sea.", None),
]

CODED: list[Row] = [
    (
        "python with comments in Spanish",
        Q,
        fenced("python", "# sumar los números de la lista\ndef suma(xs):\n    return sum(xs)  # devuelve el total"),
        None,
    ),
    (
        "javascript with comments in German",
        Q,
        fenced("js", "// Zähle alle Blätter im Garten\nlet n = blätter.length;"),
        None,
    ),
    ("java with comments in Chinese", Q, fenced("java", "// 计算叶子的数量\nint n = leaves.size();"), None),
    ("python with comments in Russian", Q, fenced("python", "# считаем листья\nn = len(leaves)  # итог"), None),
    ("HTML", Q, fenced("html", '<html lang="en">\n<body>\n<h1>Leaf</h1>\n</body>\n</html>'), None),
    ("bare HTML", Q, after("<ul><li>one leaf</li><li>two leaves</li><li>three roots</li></ul>"), None),
    ("SQL", Q, fenced("sql", "SELECT name, COUNT(*) FROM leaves WHERE age > 3 GROUP BY name;"), None),
    ("shell", Q, fenced("bash", 'for f in *.txt; do\n  mv -- "$f" "${f%.txt}.md"\ndone'), None),
    ("regular expression", Q, after("Match it with `^(?:[a-z]+_)*[a-z]+$` in any engine."), None),
    ("shell transcript", Q, after("Run $ ls -la | grep leaf && cat leaf.txt to see it."), None),
    ("diff", Q, fenced("diff", "-leaf = 1\n+leaf = 2\n root = 3"), None),
    ("CSV", Q, fenced("csv", "name,age\nfern,3\nmoss,4"), None),
    ("indented code", Q, f"{P}\n\n    def area(w, h):\n        return w * h\n", None),
    (
        "code alone",
        "Write a function that adds two numbers.",
        "```python\ndef add(a, b):\n    return a + b\n\n\ndef main():\n    print(add(1, "
        "2))\n    print(add(3, 4))\n\n\n"
        "if __name__ == '__main__':\n    main()\n```",
        None,
    ),
    (
        "code alone, without a fence",
        "Write a function that adds numbers from a list.",
        "def total(xs):\n    result = 0\n    for x in xs:\n        if x is not None:\n            result += x\n"
        "    return result\n\nprint(total([1, 2, 3]))",
        None,
    ),
    (
        "SQL alone, without a fence",
        "Write a query that lists the ten oldest customers by country.",
        "SELECT c.name, c.age, o.country FROM customers AS c JOIN orders AS o ON o.customer_id = c.id "
        "WHERE c.age IS NOT NULL ORDER BY c.age DESC LIMIT 10;",
        None,
    ),
    (
        "C alone, without a fence",
        "Write a program that adds the numbers below ten.",
        "#include <stdio.h>\nint main(void) {\n  int sum = 0;\n  for (int i = 0; i < 10; i++) {\n    sum += i;\n  }\n"
        '  printf("%d\\n", sum);\n  return 0;\n}',
        None,
    ),
    (
        "JSON alone, without a fence",
        "Describe a fern in JSON, please.",
        '{\n  "name" : "fern" ,\n  "age" : 3 ,\n  "tags" : [ "green" , "shade" , "wet" ] ,\n  "sold" : false\n}',
        None,
    ),
    (
        "shell alone, without a fence",
        "Write a loop that renames text files.",
        'for f in *.txt; do\n  if [ -f "$f" ]; then\n    mv -- "$f" "${f%.txt}.md"\n    echo "moved $f"\n  fi\ndone\n'
        "echo all done and good",
        None,
    ),
    ("inline math", Q, after("The area is $\\pi r^2$, so $A = \\frac{1}{4} \\pi d^2$."), None),
    ("display math", Q, after("$$\\sum_{i=1}^{n} i = \\frac{n(n+1)}{2}$$"), None),
    ("matrix", Q, after("\\begin{pmatrix} 0 & 0 & 0 \\\\ 0 & 1 & 0 \\end{pmatrix}"), None),
    ("Greek letters", Q, after("The angles are α, β and γ, with α + β + γ = π."), None),
    ("chemistry", Q, after("6 CO2 + 6 H2O → C6H12O6 + 6 O2"), None),
    (
        "worked sum",
        "Solve 3x + 5 = 20 for x",
        "Subtract 5 from both sides: 3x = 15. Divide both sides by 3: x = 5. Check: 3 * 5 + 5 = 20, as it should be.",
        None,
    ),
    (
        "mostly symbols",
        "Differentiate x^3 + 2x",
        "d/dx (x^3 + 2x) = d/dx x^3 + d/dx 2x = 3x^2 + 2 . At x = 1 : 3 + 2 = 5 , so 5 .",
        None,
    ),
]

FOREIGN_TEXTS = {
    "Spanish": "Las plantas convierten la luz en azúcar dentro de sus hojas. El agua sube desde las raíces, el aire "
    "entra por poros pequeños y el pigmento verde atrapa la energía.",
    "French": "Les plantes transforment la lumière en sucre dans leurs feuilles. L'eau monte "
    "depuis les racines, l'air "
    "entre par de petits pores et le pigment vert capte l'énergie.",
    "German": "Pflanzen verwandeln Licht in ihren Blättern in Zucker. Das Wasser steigt aus den Wurzeln auf, die Luft "
    "kommt durch kleine Poren, und der grüne Farbstoff fängt die Energie ein.",
    "Italian": "Le piante trasformano la luce in zucchero nelle loro foglie. L'acqua sale dalle radici, l'aria entra "
    "da piccoli pori e il pigmento verde cattura l'energia della reazione.",
    "Portuguese": "As plantas transformam a luz em açúcar dentro das folhas. A água sobe das raízes, o ar entra por "
    "pequenos poros e o pigmento verde captura a energia da reação.",
    "Dutch": "Planten zetten licht in hun bladeren om in suiker. Het water stijgt op uit de wortels, de lucht komt "
    "binnen door kleine poriën en het groene pigment vangt de energie.",
    "Swedish": "Växter omvandlar ljus till socker i sina blad. Vattnet stiger från rötterna, luften kommer in genom "
    "små porer och det gröna färgämnet fångar energin som driver det hela.",
    "Polish": "Rośliny zamieniają światło w cukier w swoich liściach. Woda podnosi się z korzeni, powietrze wchodzi "
    "przez małe pory, a zielony barwnik chwyta energię, która napędza całą reakcję.",
    "Czech": "Rostliny mění světlo v cukr ve svých listech. Voda stoupá z kořenů, vzduch vstupuje malými póry a "
    "zelené barvivo zachycuje energii, která pohání celou reakci v rostlině.",
    "Turkish": "Bitkiler ışığı yapraklarının içinde şekere dönüştürür. Su köklerden yükselir, hava küçük "
    "gözeneklerden girer ve yeşil pigment bütün tepkimeyi yürüten enerjiyi yakalar. Böylece "
    "bitki büyür ve çiçek açar.",
    "Finnish": "Kasvit muuttavat valon sokeriksi lehdissään. Vesi nousee juurista, ilma tulee sisään pienistä "
    "huokosista ja vihreä väriaine vangitsee energian, joka pitää koko reaktion käynnissä päivästä toiseen.",
    "Indonesian": "Tumbuhan mengubah cahaya menjadi gula di dalam daunnya. Air naik dari akar, udara masuk melalui "
    "pori kecil, dan pigmen hijau menangkap energi yang menggerakkan seluruh reaksi.",
    "Vietnamese": "Cây xanh biến ánh sáng thành đường trong lá của chúng. Nước dâng lên từ rễ, không khí đi vào qua "
    "các lỗ nhỏ, và sắc tố màu lục giữ lấy năng lượng.",
    "Russian": "Растения превращают свет в сахар в своих листьях. Вода поднимается от корней, воздух входит через "
    "мелкие поры, а зелёный пигмент улавливает энергию, которая движет всей реакцией.",
    "Ukrainian": "Рослини перетворюють світло на цукор у своєму листі. Вода піднімається від коріння, повітря входить "
    "крізь дрібні пори, а зелений пігмент ловить енергію, яка рухає всю реакцію.",
    "Greek": "Τα φυτά μετατρέπουν το φως σε ζάχαρη μέσα στα φύλλα τους. Το νερό ανεβαίνει από τις ρίζες, ο αέρας "
    "μπαίνει από μικρούς πόρους και η πράσινη χρωστική πιάνει την ενέργεια.",
    "Arabic": "تحول النباتات الضوء إلى سكر داخل أوراقها. يصعد الماء من الجذور، ويدخل الهواء عبر مسام صغيرة، "
    "ويلتقط الصباغ الأخضر الطاقة التي تحرك التفاعل كله في كل يوم مشمس.",
    "Hebrew": "צמחים הופכים אור לסוכר בתוך העלים שלהם. המים עולים מן השורשים, האוויר נכנס דרך נקבים קטנים, "
    "והצבען הירוק לוכד את האנרגיה שמניעה את כל התגובה.",
    "Hindi": "पौधे अपनी पत्तियों में प्रकाश को शर्करा में बदलते हैं। पानी जड़ों से ऊपर उठता "
    "है, हवा छोटे छिद्रों से अंदर आती है "
    "और हरा रंग ऊर्जा को पकड़ता है।",
    "Korean": "식물은 잎에서 빛을 당으로 바꿉니다. 물은 뿌리에서 올라오고 공기는 작은 구멍으로 "
    "들어갑니다. 초록 색소가 모든 반응을 "
    "움직이는 에너지를 잡습니다. 그래서 잎은 작은 공장과 같다고 할 수 있습니다.",
    "Chinese, spaced": "植物 在 叶子 里 把 光 变成 糖 。 水 从 根 上升 ， 空气 从 小孔 进入 "
    "， 绿色 的 色素 捕捉 能量 ， "
    "推动 整个 反应 。",
    "Japanese, spaced": "植物 は 葉 の 中 で 光 を 糖 に 変えます 。 水 は 根 から 上がり "
    "、 空気 は 小さな 穴 から 入り 、 "
    "緑 の 色素 が エネルギー を つかみます 。",
    "Danish": "Planter omdanner lys til sukker i deres blade. Vandet stiger op fra rødderne, luften kommer ind gennem "
    "små porer, og det grønne farvestof fanger energien.",
    "Romanian": "Plantele transformă lumina în zahăr în frunzele lor. Apa urcă din rădăcini, aerul intră prin pori "
    "mici, iar pigmentul verde prinde energia care mișcă reacția.",
    "Hungarian": "A növények a fényt cukorrá alakítják a leveleikben. A víz a gyökerekből emelkedik, a levegő apró "
    "pórusokon jut be, és a zöld festék fogja meg az energiát.",
    "Swahili": "Mimea hugeuza mwanga kuwa sukari ndani ya majani yake. Maji hupanda kutoka "
    "kwenye mizizi, hewa huingia "
    "kupitia vitundu vidogo, na rangi ya kijani hunasa nishati.",
    "Tagalog": "Ginagawang asukal ng mga halaman ang liwanag sa loob ng kanilang mga dahon. "
    "Umaakyat ang tubig mula sa "
    "mga ugat at pumapasok ang hangin sa maliliit na butas.",
    "Persian": "گیاهان نور را در برگ های خود به قند تبدیل می کنند. آب از ریشه ها بالا می آید و هوا از روزنه های کوچک "
    "وارد می شود.",
    "Thai, spaced": "พืช เปลี่ยน แสง เป็น น้ำตาล ใน ใบ ของ มัน น้ำ ขึ้น มา จาก ราก อากาศ "
    "เข้า ทาง รู เล็ก ๆ และ สี เขียว จับ พลังงาน ไว้",
    "Hindi in Latin letters": "Paudhe apni pattiyon mein roshni ko cheeni mein badalte hain. Paani jadon se upar aata "
    "hai, hawa chhote chhedon se andar aati hai aur hara rang urja pakadta hai.",
    "lorem ipsum": "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut "
    "labore et dolore magna aliqua ut enim ad minim veniam.",
    "Chinese, by the phrase": "植物在叶子里把光变成糖 水从根部上升 空气从小孔进入 "
    "绿色的色素捕捉能量 根在土里吸水 花在春天开放 "
    "果实在秋天成熟 种子落在地上 风把它们带走 雨水让它们发芽 新的叶子又长出来 太阳照着它们 "
    "夜里它们休息 白天它们工作 虫子吃叶子 鸟吃虫子 "
    "猫看着鸟 人看着猫 猫睡着了 人也睡着了 故事完了",
    "Latin": "Plantae lucem in foliis suis in saccharum vertunt. Aqua ex radicibus ascendit, aer per parva foramina "
    "intrat, et color viridis vim capit quae omnia movet.",
}
FOREIGN: list[Row] = [(name, Q, text, "language") for name, text in FOREIGN_TEXTS.items()]
FOREIGN += [
    ("German instruction", "Wie machen Pflanzen ihre eigene Nahrung aus dem Licht der Sonne?", P, "language"),
    ("short Russian instruction", "Объясни мне фотосинтез", P, "language"),
    ("short Japanese instruction", "光合成 を 説明して ください", P, "language"),
    ("German around English code", Q, f"{FOREIGN_TEXTS['German']}\n```python\nprint('a leaf')\n```", "language"),
    ("Spanish in capitals", Q, FOREIGN_TEXTS["Spanish"].upper(), "language"),
    ("English greeting, then Russian", Q, f"Sure! {FOREIGN_TEXTS['Russian']}", "language"),
    ("English word, then French", Q, f"Photosynthesis: {FOREIGN_TEXTS['French']}", "language"),
    ("one English sentence, then two in Greek", Q, f"Here is the answer. {FOREIGN_TEXTS['Greek']}", "language"),
    (
        "unspaced Chinese after a greeting",
        Q,
        "Sure! " + "植物在叶子里把光变成糖，水从根部上升。 " * 2 + P[:20],
        "length",
    ),
    ("Spanish with zero-width spaces", Q, FOREIGN_TEXTS["Spanish"].replace(" ", "\u200b "), "language"),
    (
        "English, then more Chinese",
        Q,
        P + " 植物在叶子里把光变成糖，水从根部上升，空气从小孔进入，绿色的色素"
        "捕捉能量。根在土里吸水，花在春天开放，果实在秋天成熟，种子落在地上，风把它们带走，"
        "雨水让它们发芽，新的叶子又长出来，太阳照着它们，"
        "夜里它们休息，白天它们工作，虫子吃叶子，鸟吃虫子，猫看着鸟，人看着猫，猫睡着了，人也睡着了。"
        + "".join(f"第{n}片叶子也在阳光下慢慢长大，" for n in "一二三四五六七八九十"),
        "language",
    ),
    ("French instruction of four words", "Explique la photosynthèse simplement", P, "language"),
    ("German in a quotation", Q, f'"{FOREIGN_TEXTS["German"]}"', "language"),
    ("German in bold", Q, " ".join(f"**{word}**" for word in FOREIGN_TEXTS["German"].split()), "language"),
    ("German with an emoji", Q, f"🌱 {FOREIGN_TEXTS['German']} 🌞", "language"),
    ("German list", Q, FOREIGN_TEXTS["German"].replace(". ", ".\n- ").replace(", ", ",\n- "), "language"),
    ("three Russian sentences around one in English", Q, f"{FOREIGN_TEXTS['Russian']} The end. Пока!", "language"),
]

ENGLISH: list[Row] = [
    (name, Q, after(bit), None)
    for name, bit in [
        ("a Greek word", "The Greek φῶς means light."),
        ("two Chinese words", "In Chinese, 光 is light and 叶子 is a leaf."),
        ("a Russian word", "The Russian word for it is фотосинтез."),
        ("an Arabic phrase", "A guest says السلام عليكم at the door."),
        ("French terms", "The chef calls it mise en place and a fait accompli."),
        ("a Latin name", "Its name is Quercus robur, family Fagaceae."),
        ("a quoted German line", 'The poet wrote "Über allen Gipfeln ist Ruh" on a wall.'),
        ("a Spanish proverb", "As they say, poco a poco se va lejos."),
        ("names", "Zoë, Håkon, Nguyễn and Łukasz study it in Köln."),
        ("emoji", "🌱🌞💧 is all it takes 😊"),
        ("emoji of joined parts", "Ask your family 👨‍👩‍👧‍👦 or a doctor 👩🏽‍⚕️ about it."),
        ("currency", "It costs €5, £4, ¥700 or ₹400."),
        ("typographic marks", "“Light” – said he — ‘is all’ … really."),
        ("British spelling", "The colour of the centre is grey, I realise."),
        ("slang", "Yo, leaves be lit, no cap, tbh."),
        ("typos", "Teh leavs ar gren becuase of teh pigmnet."),
        ("full-width letters", "The sign reads ＬＥＡＦ in wide type."),
        ("phonetics", "Say it /ˌfəʊtəʊˈsɪnθəsɪs/, with care."),
    ]
]
ENGLISH += [
    ("zero-width spaces between words", Q, P.replace(" ", "\u200b "), None),
    ("zero-width spaces in words", Q, P.replace("ea", "e\u200ba"), None),
    ("byte-order mark", Q, f"\ufeff{P}", None),
    ("no-break spaces", Q, P.replace(" ", "\u00a0"), None),
    ("soft hyphens", Q, P.replace("ves", "\u00adves"), None),
    ("decomposed accents", Q, after("The cafe\u0301 serves cre\u0300me bru\u0302le\u0301e."), None),
    ("every word in bold", Q, " ".join(f"**{word}**" for word in P.split()), None),
    ("words in italics", Q, P.replace("light", "*light*").replace("roots", "_roots_"), None),
    (
        "names of towns",
        "List ten towns of Europe and say why they matter.",
        "Paris, London, Berlin, Madrid, Rome, Vienna, Lisbon, Oslo, Athens and Prague are capitals, so most of the "
        "government of each country sits there.",
        None,
    ),
    (
        "translation asked in English",
        "How do you say good morning in French, German and Japanese?",
        "In French you say bonjour, in German you say Guten Morgen, and in Japanese you say おはよう, which is the "
        "informal form that friends use.",
        None,
    ),
    (
        "vocabulary list",
        "List the Spanish words for five colours with their meaning.",
        "- rojo: red\n- azul: blue\n- verde: green\n- negro: black\n- blanco: white\n\nEach of them follows the noun "
        "that it describes, and most change with its gender.",
        None,
    ),
    ("foreign words in the instruction", "What does the German word Fernweh mean in English?", P, None),
    ("foreign text to translate", 'Translate "Wo ist der Bahnhof?" into English for me, please.', P, None),
    ("text to translate", "Translate to English: Me gusta mucho el mar y el sol", P, None),
    ("sentence to correct", "Correct this German sentence: Ich habe gestern nach Hause gegangen", P, None),
    ("phrase to define", "Define the French phrase je ne sais quoi", P, None),
    ("titles to attribute", "Who wrote Les Misérables, Notre-Dame de Paris and Le Roi s'amuse?", P, None),
    ("words to sort", "Sort apple, kiwi, fig, plum, pear, lime, date, melon", P, None),
    (
        "list of fruit",
        "List twenty fruits, one on a line.",
        "apple banana cherry date elderberry fig grape honeydew kiwi lemon mango nectarine orange papaya quince "
        "raspberry strawberry tangerine watermelon plum".replace(" ", "\n"),
        None,
    ),
    (
        "list of composers",
        "List ten composers of classical music.",
        "1. Mozart\n2. Beethoven\n3. Bach\n4. Brahms\n5. Chopin\n6. Debussy\n7. Dvorak\n8. Haydn\n9. Liszt\n10. Mahler",
        None,
    ),
    (
        "primes",
        "List the first twenty prime numbers.",
        "2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71",
        None,
    ),
    (
        "Shakespeare",
        "Quote the lines on a summer's day.",
        "Thou art more lovely and more temperate: rough winds do shake the darling buds of "
        "May, and summer's lease hath "
        "all too short a date.",
        None,
    ),
    ("short instruction of names", "Compare Kafka, Borges, Calvino", P, None),
]

CORPUS = [*PLAIN, *SIZED, *REFUSED, *COMPLIED, *REPEATED, *VARIED, *CODED, *FOREIGN, *ENGLISH]

CUT: list[tuple[str, str, str | None, str | None]] = [  # name, output, finish reason, rule
    ("at the limit of tokens", after("And then the"), "length", "truncated"),
    ("at the limit, though the sentence ended", P, "length", "truncated"),
    ("cut and empty", "", "length", "truncated"),
    ("cut and too short", "Plants", "length", "truncated"),
    ("cut and a refusal", before("I cannot help with that."), "length", "truncated"),
    ("cut and repeating", "leaf " * 100, "length", "truncated"),
    ("cut and foreign", FOREIGN_TEXTS["German"], "length", "truncated"),
    ("cut by a content filter", P, "content_filter", "truncated"),
    ("aborted", P, "abort", "truncated"),
    ("no reason given", P, None, "truncated"),
    ("an empty reason", P, "", "truncated"),
    ("finished without a full stop", P.rstrip("."), "stop", None),
    ("finished with an ellipsis", P.rstrip(".") + "...", "stop", None),
    ("finished with a colon", after("The parts are:"), "stop", None),
    ("finished with a list", f"{P}\n\n- leaf\n- root", "stop", None),
]

WRONG: dict[str, str] = {}  # a row that the rules misjudge, by name, and their mistake


def verdict(instruction: str, output: str, finish_reason: str | None = "stop") -> str | None:
    """Name of the first rule that drops the row."""
    row = {"id": "a", "instruction": instruction, "output": output, "finish_reason": finish_reason}
    return next((rule.name for rule in RULES if rule.judge(row) is not None), None)


def case(name: str, *values: str | None) -> object:
    """A row as a parameter; where the rules are known to be wrong, the test says so when they are put right."""
    marks = [pytest.mark.xfail(strict=True, reason=WRONG[name])] if name in WRONG else []
    return pytest.param(*values, marks=marks, id=name)


@pytest.mark.parametrize(("instruction", "output", "expected"), [case(*row) for row in CORPUS])
def test_row(instruction: str, output: str, expected: str | None) -> None:
    """The first rule that drops a row is the one a careful reader would name, or none is."""
    assert verdict(instruction, output) == expected


@pytest.mark.parametrize(("output", "finish_reason", "expected"), [case(*row) for row in CUT])
def test_cut_row(output: str, finish_reason: str | None, expected: str | None) -> None:
    """What was cut off goes as such, whatever else is wrong with it; what only looks unfinished stays."""
    assert verdict(Q, output, finish_reason) == expected


def test_corpus_is_large_and_its_names_are_its_own() -> None:
    """A name stands for one row, so that a known mistake excuses one row only."""
    names = [row[0] for row in [*CORPUS, *CUT]]
    assert len(CORPUS) >= 150
    assert len(set(names)) == len(names)
    assert set(WRONG) <= set(names)
