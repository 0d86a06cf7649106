"""The word lists of the quality score: closed classes of English, and the verbs requests start with."""

from __future__ import annotations


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that say nothing about a topic: function words, then the words requests are phrased in.
STOP_WORDS = _set(
    """a about above after again all also am an and any are as at be because been before being below between both but
    by can could did do does doing don down during each even every few for from further get give given go had has have
    having he her here hers him his how i if in into is it its itself just let like ll make many may me might more most
    much must my need no nor not now of off on once one only or other our out over own please re same shall she should
    since so some such t than that the their them then there these they this those through to too two under until up us
    use used using ve very want was we well were what when where which while who whom whose why will with without would
    yes you your
    answer describe detail detailed explain example examples list name provide sentence sentences short simple step
    steps tell things three way ways word words write"""
)
QUESTION_WORDS = _set(
    "what which who whom whose when where why how is are was were do does did can could would will should has have"
)
REQUEST_VERBS = _set(
    """add analyze analyse answer arrange break brainstorm build calculate categorize change check choose cite classify
    clean combine compare compile complete compose compute conclude condense consider construct contrast convert
    correct count create critique debug decide define demonstrate derive describe design detail determine develop
    devise discuss divide draft draw edit elaborate estimate evaluate examine expand explain explore express extract
    factor fill find fix format formulate generate give group guess help highlight identify illustrate imagine
    implement improve infer interpret introduce invent judge justify label list make match name narrate optimize order
    organize outline paraphrase plan point predict prepare present produce proofread propose prove provide rank rate
    read recommend refactor rephrase replace reply respond rewrite say select share show simplify simulate sketch solve
    sort spell state subtract suggest summarize summarise support take teach tell test think trace transform translate
    turn use verify walk weigh work write"""
)

# Of these verbs and question words, the ones that open sentences in other languages too ("Was ist ...?", "Compare
# os ..."), and words that say that one of them is English by following it.
OPENERS_ELSEWHERE = _set(
    """analyse are arrange can change check cite combine compare compile complete compose condense convert
    critique decide define derive describe design detail determine divide do examine explore extract fill format group
    guess had has have help imagine implement improve interpret introduce is justify label list make match name narrate
    optimize order organize plan point prepare present produce propose rank rate say select state take tell test turn
    use was will work"""
)
ENGLISH_FOLLOWERS = _set("the this these those that my your you it its how what why which each every there")

# Words no sentence ends with.
NEVER_LAST = _set("a an the and or but of to in for with by from as at my your our their its")

# Words that cannot directly follow. The comparison minds the follower's case, for "the IT team"; "for", "if", "and" and
# "while" are absent for "a for loop", "the if statement", "with and without".
_AFTER_DETERMINER = _set(
    "a an the my your our their of to is are was were be has had they he she we from by than because at which can will"
)
_AFTER_PREPOSITION = _set("of is are was were has had they he she we can will would than because")
_AFTER_PRONOUN = _set("a an the my your our their its of from to by than at he she they we")
_AFTER_VERB = _set("is are was were has had than can will would")
IMPOSSIBLE_AFTER = {
    **dict.fromkeys(_set("a an the my your our their every"), _AFTER_DETERMINER),
    **dict.fromkeys(_set("of from with into at by for to"), _AFTER_PREPOSITION),
    **dict.fromkeys(_set("i we they he she"), _AFTER_PRONOUN),
    **dict.fromkeys(_set("is are was were be"), _AFTER_VERB),
}

# Capitalised, these open a sentence; in the middle of one they are out of place.
OPENERS = _set("The A An This It In And But They We He She If As When For To That These Is Are")
ABBREVIATIONS = _set("e.g. i.e. etc. vs. approx. a.m. p.m. no. fig. dr. mr. mrs. ms. st.")
