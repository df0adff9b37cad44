"""Cheap, noisy sources for film reviews. Each looks at one habit of critics, and abstains where it is absent.

A source may often be wrong. It should be right more often than not, and not wrong where all others are.
"""

import functools
import re

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from training.sources import ABSTAIN, labelling_function

NEGATIVE, POSITIVE = "negative", "positive"

# A source should take time in proportion to the text, however long the text is: so every repetition in
# a pattern below has an upper bound, and the lexicon reads no more than the beginning.
LEXICON_READS = 2_000  # characters


def phrases(listed):
    """A compiled pattern, for lower-case text, of phrases separated by commas.

    `*` after letters is any ending (tedi* finds tedious and tedium); alone, it is up to two words.
    """
    pattern = "|".join(re.escape(" ".join(phrase.split())) for phrase in listed.split(","))
    pattern = pattern.replace(r"\ \*\ ", r"(?:\s\S{1,15}){0,2}\s").replace(r"\*", r"\w{0,8}")
    pattern = pattern.replace(r"\ ", r"\s").replace("'", "['’]")
    return re.compile(rf"\b(?:{pattern})\b")


NOT = r"\b(?:not|no|never|hardly|barely|neither|nor|without|less|\w{2,6}n['’]t)"
NEGATED = re.compile(rf"{NOT}(?:\s\S{{1,12}}){{0,2}}\s$")


def mentions(pattern, text):
    """Whether the pattern occurs."""
    return pattern.search(text.lower()) is not None


def affirms(pattern, text):
    """Whether the pattern occurs with no "not", "never" or "isn't" in the three words before it."""
    text = text.lower()
    return any(not NEGATED.search(text, max(0, found.start() - 40), found.start())
               for found in pattern.finditer(text))


@functools.cache
def lexicon():
    """The sentiment lexicon, read from its file when it is first needed."""
    return SentimentIntensityAnalyzer()


def lean(text, least):
    """The side to which the words of the lexicon lean, if their tone (-1 to 1) is `least` from the middle."""
    tone = lexicon().polarity_scores(text[:LEXICON_READS])["compound"]
    return POSITIVE if tone >= least else NEGATIVE if tone <= -least else ABSTAIN


# ── What critics write when they like a film ──────────────────────────────────────────────────────────

PRAISE = phrases("""
    brilliant*, wonderful*, terrific*, superb*, excellent*, masterpiece*, masterful*, outstanding,
    remarkab*, extraordinar*, magnificent*, exhilarating, fascinating, gorgeous*, beautiful*, stunning*,
    dazzling*, breathtaking*, great, impressive*, amazing*, unforgettable, memorable, triumph*, gem,
    delight, a treat, joy*, first-rate, perfect*, superior, marvelous*, splendid*, fantastic*, incredible,
    incredibly, glorious*
""")


@labelling_function(evidence="The text praises outright: brilliant, superb, a gem.")
def words_of_praise(row):
    return POSITIVE if affirms(PRAISE, row.text) else ABSTAIN


FEELING = phrases("""
    moving, movingly, touching, poignan*, heartfelt, heart-*, heartwarming, heartbreaking, tender*, warm,
    warmth, honest*, compassion*, humane, humanity, sincer*, intima*, affecting, affection*, bittersweet,
    gentle, gently, haunting*, powerful*, sensitiv*, wistful*, uplifting, inspir*, sweet, sweetness,
    passion*, grace*, lyrical*, emotionally, soulful, delicate*
""")


@labelling_function(evidence="The critic was moved: touching, tender, honest, haunting.")
def words_of_feeling(row):
    return POSITIVE if affirms(FEELING, row.text) else ABSTAIN


PLEASURE = phrases("""
    hilarious*, enjoy*, entertaining*, entertains, engaging*, engross*, fun, delightful*, charm*, witty,
    gripping, riveting, absorbing, compelling*, lively, exciting, thrilling, thrills, suspenseful,
    playful*, amusing*, spirited, crowd-pleas*, enthralling, captivating, infectious*, exuberan*, likable,
    likeable, irresistibl*, refreshing*, laugh-out-loud, feel-good, appealing, satisfying, pleasure*, good
    time
""")


@labelling_function(evidence="The critic had a good time: charming, gripping, hilarious, fun.")
def words_of_pleasure(row):
    return POSITIVE if affirms(PLEASURE, row.text) else ABSTAIN


CRAFT = phrases("""
    well-*, finely, deft*, exquisite*, subtle, subtly, subtlety, nuance*, intelligent*, smart*,
    thoughtful*, thought-provoking, insight*, elegan*, complex*, provocative*, imaginative*, inventive*,
    original, originality, assured, accomplished, rich, richly, taut, vivid*, stylish*, wry, wryly,
    layered, skill*, solid*, intriguing*, ambitious*, observant, mature*, fresh*, quirk*, unique*, rare,
    strong performance*, evocative*
""")


@labelling_function(evidence="The text credits the craft: subtle, well-acted, inventive, taut.")
def words_of_craft(row):
    return POSITIVE if affirms(CRAFT, row.text) else ABSTAIN


GIVING = phrases("""
    delivers, captures, offers, provides, manages, succeeds, transcends, transports, achieves, celebrates,
    explores, reveals, illuminates, evokes, rewards, examines, resonates, soars, shines, sparkles, gives
    us, gives you, reminds us, makes us, makes you, makes for a, makes up for, proves, pulls it off, pulls
    off, keeps us, keeps you, keeps the, holds us, takes us, takes you, grows on you, stays with, works
    because, it works, draws us, draws you
""")


@labelling_function(evidence="A verb says what the film gives or achieves: delivers, captures, rewards.")
def verbs_of_giving(row):
    return POSITIVE if affirms(GIVING, row.text) else ABSTAIN


ADVICE = phrases("""
    worth * seeing, worth * watching, worth * look, worth the, worth your, worthwhile, worthy, must-see,
    must see, a must, don't miss, not to be missed, see it, highly, recommended, you'll, will * enjoy,
    should * please, should * enjoy, will * love, can't help but, can't wait, be rewarded, rewarding, of
    all ages, edge of your seat, welcome, one of the * best, one of the * most, one of the * finest, one
    of the greatest, among the best, the best * film*, the best * movie*, best * of the year, of the
    year's best, at its best, tour de force, ever made, in years, most * and
""")


@labelling_function(evidence="The film is recommended or ranked high: worth seeing, one of the best.")
def recommendation(row):
    return POSITIVE if affirms(ADVICE, row.text) else ABSTAIN


RESPECT = phrases("""
    portrait, portrayal, meditation, character study, coming-of-age, documentary, journey, glimpse,
    tribute, celebration, reminder, testament, exploration, ode to, love story, love letter, look at, tale
    of, culture*, human, humans, wit, soul, spirit, imagination, beauty, history, lives, truth*, courage*,
    art, poetry, poetic*
""")


@labelling_function(evidence="The film is taken seriously: a portrait, a meditation, a glimpse of lives.")
def words_of_respect(row):
    return POSITIVE if affirms(RESPECT, row.text) else ABSTAIN


# ── What they write when they do not ──────────────────────────────────────────────────────────────────

SCORN = phrases("""
    awful*, terribl*, horribl*, dreadful*, bad, badly, worst, worse, lousy, lame, stupid*, dumb*, idiot*,
    inept*, ridiculous*, ludicrous*, preposterous*, laughabl*, atrocious*, abysmal*, crude, crudely, ugly,
    cheesy, sloppy, silly, annoying*, irritating*, obnoxious*, insult*, offensive, pathetic*, pointless*,
    mindless*, witless*, unfunny, unpleasant*, cheap*, trash*, junk*, crap*, garbage, suck, sucks, stinks,
    hate, hated, painful*, amateurish*, clums*, inane, tasteless, vulgar, moronic
""")


@labelling_function(evidence="The text is scornful: awful, lame, inept, pointless.")
def words_of_scorn(row):
    return NEGATIVE if affirms(SCORN, row.text) else ABSTAIN


BOREDOM = phrases("""
    dull*, bore, bores, bored, boring, boredom, tedi*, tiresome, slow, slack, plodding, bland*, flat,
    lifeless*, listless*, sluggish*, uninspired, uninteresting, uninvolving, unengaging, forgettable,
    pretentious*, monotonous, dreary, stale, tired, wooden, hollow, empty, emptiness, shallow*,
    superficial*, thin, pedestrian, lackluster, soggy, leaden, turgid, inert, dry, cold, mediocre,
    mediocrity, repetiti*, murky, muddled, snooze, asleep, sleep, yawn*, drag, drags, sour, weak, limp,
    humorless, meandering, meanders, ponderous, lethargic
""")


@labelling_function(evidence="The critic was bored: dull, tedious, lifeless, flat.")
def words_of_boredom(row):
    return NEGATIVE if affirms(BOREDOM, row.text) else ABSTAIN


FAILURE = phrases("""
    mess, messy, disaster*, failure*, disappoint*, waste, wasted, wastes, wasting, misfire*, flop, dud,
    bomb, mistake*, problem, problems, unfortunately, sadly, alas, fail, fails, failed, sinks, falls flat,
    falls short, falls apart, collapses, suffers, loses, wrong, unconvincing*, unsatisfying, implausib*,
    incoheren*, contrived, contrivance*, strained, forced, misguided, ill-*, poor, poorly, bogs down,
    bogged down, wears thin, flaw, flaws, flawed, stumbles, comes off as, undermines, derails, never
    quite, never really, never rises, never comes, never gets
""")


@labelling_function(evidence="Something went wrong: a mess, a waste, it fails, it falls flat.")
def words_of_failure(row):
    return NEGATIVE if affirms(FAILURE, row.text) else ABSTAIN


NOTHING_NEW = phrases("""
    predictab*, formula*, clich*, derivative, generic, retread*, rip-off*, ripoff, recycl*, rehash*,
    by-the-numbers, by the numbers, cookie-cutter, paint-by-*, unoriginal, imitation*, knock-off,
    knockoff, warmed-over, conventional*, stereotyp*, routine*, run-of-the-mill, hackneyed, overused,
    sitcom*, soap opera, made-for-*, straight-to-*, direct-to-*, for cable, on cable, sequel*, remake*,
    old-hat, familiar, seen it, music video, video game, we've seen, you've seen, product, gags, vehicle,
    imitates, borrowed, borrows
""")


@labelling_function(evidence="It was all seen before: predictable, formulaic, a retread, like a sitcom.")
def nothing_new(row):
    return NEGATIVE if affirms(NOTHING_NEW, row.text) else ABSTAIN


MISSING = phrases("""
    lack, lacks, lacked, lacking, devoid, bereft, absent, absence, fails to, failed to, fail to, forgets
    to, neglects, too few, few laughs, there's no, there's nothing, there's little, there is no, there is
    nothing, there is little, has no, have no, has nothing, has little, offers nothing, offers little,
    offers no, not much, not enough, nothing more, nothing new, nothing but, isn't enough, isn't much,
    isn't any, doesn't have, doesn't make, doesn't work, doesn't add, doesn't quite, didn't, wasn't, don't
    care, can't save, without * any, without much, without ever, unable to, hard to care, hard to believe,
    hard to imagine, hard to take, difficult to, missing
""")


@labelling_function(evidence="Something is missing: it lacks, has no, fails to, isn't enough.")
def something_missing(row):
    return NEGATIVE if mentions(MISSING, row.text) else ABSTAIN


GOOD = (
    "good|great|best|funny|fun|interesting|original|clever|scary|new|special|worth|well|convincing|compelling|"
    "engaging|involving|entertaining|exciting|satisfying|smart|enough|memorable|deep|fresh|believable|charm|wit"
)
DENIED = re.compile(rf"{NOT}(?:\s[\w'’-]{{1,12}}){{0,3}}\s(?:{GOOD})\b")


@labelling_function(evidence="A good word is denied: not funny, isn't very clever, hardly original.")
def praise_denied(row):
    return NEGATIVE if mentions(DENIED, row.text) else ABSTAIN


EXCESS = phrases("""
    too long, too much, too many, too-*, too * to be, too * for its, all too, way too, far too, a bit too,
    a little too, just too, is too, overlong, overly, overblown, overwrought, overdone, overstuffed,
    overcooked, overheated, overbearing, overplotted, overstays, self-indulgen*, self-conscious*,
    self-importan*, self-absorbed, self-satisfied, over-the-top, excess*, endless*, interminabl*,
    relentless*, heavy, heavy-handed*, loud, bombastic, manipulati*, schmaltz*, sappy, melodrama*,
    preachy, smug*, sentimental*, maudlin, syrupy, mawkish*, saccharine, cloying*, cutesy, shrill,
    gratuitous*, so much, hysterical*
""")


@labelling_function(evidence="It is too much: too long, overwrought, self-indulgent, syrupy.")
def too_much(row):
    return NEGATIVE if affirms(EXCESS, row.text) else ABSTAIN


SHORT = phrases("""
    could have * been, should have * been, might have * been, would have * been, could've been, should've
    been, would have, supposed to, wants to be, wanted to be, trying to, tries to, tries too, tries so,
    attempts to, attempt to, attempt at, aspires, intended, would-be, ends up, winds up, degenerates,
    descends, promises, potential, premise, if only, half-*, more like a, more like an, more of a, less
    than, rather than, instead of, little more than, no more than, just another, yet another, at best,
    mere, merely, mildly, barely, seems, seem, feels like, plays like, exercise in, sort of, pseudo-*,
    about as, as if, nearly as, equivalent of, bunch of, so-called, sit through, sitting through, at
    least, passable, only thing
""")


@labelling_function(evidence="Measured and found short: could have been, tries to, more like, at best.")
def falls_short(row):
    return NEGATIVE if mentions(SHORT, row.text) else ABSTAIN


QUESTION = re.compile(r"\?\W{0,6}$|^\W{0,4}(?:why|who|how|what)\b[^?]{0,200}\?")
MOCKERY = phrases("""
    minutes, hour, hours, your money, my money, their money, your wallet, your watch, my watch, your
    patience, bucks, bother, refund, who cares, walk out, walked out, walking out, anyone's guess, skip,
    avoid, endure, enduring, ain't, zzz*, or something
""")


@labelling_function(evidence="A rhetorical question, or the minutes and the money are counted.")
def mockery(row):
    return NEGATIVE if mentions(QUESTION, row.text) or mentions(MOCKERY, row.text) else ABSTAIN


# ── What may speak for either side ────────────────────────────────────────────────────────────────────

TURN = re.compile(r"\b(?:but|yet|however|nevertheless|nonetheless|still)\b", re.IGNORECASE)
CONCESSION = re.compile(
    r"^\W{0,9}(?:despite|in spite of|for all|though|although|while|even if|even though|if)\b[^,]{5,120},",
    re.IGNORECASE,
)


@labelling_function(family="lexicon", evidence="What follows 'but' or 'despite …,' leans to one side.")
def after_the_turn(row):
    turns = [*CONCESSION.finditer(row.text), *TURN.finditer(row.text)]
    if not turns:
        return ABSTAIN
    return lean(row.text[turns[-1].end() :], least=0.2)


@labelling_function(family="lexicon", evidence="The lexicon's words in the whole text lean to one side.")
def lexicon_tone(row):
    return lean(row.text, least=0.3)
