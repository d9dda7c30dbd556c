"""The words of English that a sentence's structure shows itself by."""


def word_set(text: str) -> frozenset[str]:
    """The words of a text, each once."""
    return frozenset(text.split())


_REGULAR = """
accept acquire act add adopt advise announce appear appoint approve arrange arrive assign attack
attend attract award ban base believe belong border call capture carry cause celebrate chair
change claim coin collaborate collect command commission compete complete compose connect
conquer contain continue control cost cover create cross cure declare decide defeat define
deliver demolish describe design destroy develop devise die direct discover divide donate donote
earn edit educate elect emerge employ enable end enter establish examine exceed exhibit expand
explain explore export express extend feature finance finish follow form formulate found fund
gain generate govern graduate guard hate head help host house identify illustrate import improve
include increase influence inherit inhabit initiate inspire install intend introduce invade
invent invest involve join kill land last launch lecture like link live locate love maintain
manage manufacture mark marry measure mentor merge migrate name need nominate observe occupy
offer open operate oppose orbit order organize oversee own paint participate pass patent perform
phone photograph pioneer plan plant play populate possess praise precede predict prefer prepare
present preserve prevent produce promote propose protect prove provide publish purchase pursue
raise reach receive recognize record reduce reform regard reject relate release remain remove
rename renovate replace report represent rescue research reside resign restore retire return
reveal review rule sail save score separate serve settle share sign solve specialize sponsor
staff star start stay stem study succeed suffer suggest supply support suspect surround teach
tour train transfer transform translate travel treat turn unify unite use value visit vote want
warn weigh widen work employ flow consist stretch merge renounce author voice coach captain
premiere debut house assemble demonstrate isolate invade liberate register license mine harvest
brew bottle farm fish hunt breed narrate conduct compile curate restore excavate map chart
survey test drain irrigate
"""
_IRREGULAR = """
be am is are was were been being; have has had having; do does did done doing; bear bore borne;
beat beats beaten beating; become becomes became becoming; begin begins began begun beginning;
break breaks broke broken; bring brings brought; build builds built building; buy buys bought
buying; choose chooses chose chosen; come comes came coming; cut cuts cutting; draw draws drew
drawn drawing; drive drives drove driven; eat eats ate eaten; fall falls fell fallen; fight
fights fought; fly flies flew flown; get gets got; give gives gave given giving; go goes went
gone going; grow grows grew grown growing; hold holds held holding; know knows knew known; lead
leads led leading; leave leaves left leaving; lose loses lost losing; lie lies lay lain lying;
make makes made making; meet meets met meeting; overlook overlooks overlooked; put puts; read
reads reading; rise rises rose risen rising; run runs ran running; say says said; see sees saw
seen; sell sells sold selling; send sends sent; set sets; shoot shoots shot; sing sings sang
sung; sit sits sat; speak speaks spoke spoken; spend spends spent; stand stands stood standing;
swim swims swam; take takes took taken taking; teach teaches taught teaching; tell tells told;
think thinks thought; win wins won winning; write writes wrote written writing; born; feed feeds
fed; find finds finding; keep keeps kept; mean means meant; oversee oversees oversaw overseen;
undergo undergoes underwent; withdraw withdraws withdrew withdrawn; wear wears wore worn; lend
lends lent; weave weaves wove woven; spin spins spun; sink sinks sank sunk; strike strikes
struck; show shows showed shown
"""


def _inflected(verb: str) -> list[str]:
    """Base, third person, past, and present participle of a regular verb."""
    if verb.endswith("e"):
        return [verb, verb + "s", verb + "d", verb[:-1] + "ing"]
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return [verb, verb[:-1] + "ies", verb[:-1] + "ied", verb + "ing"]
    if verb in _DOUBLED:
        return [verb, verb + "s", verb + verb[-1] + "ed", verb + verb[-1] + "ing"]
    third = verb + ("es" if verb.endswith(("s", "sh", "ch", "x", "z")) else "s")
    return [verb, third, verb + "ed", verb + "ing"]


_DOUBLED = word_set("ban stem star map transfer permit refer plan travel control prefer fit")
_TABLE = [line.split() for line in _IRREGULAR.split(";")] + [
    _inflected(verb) for verb in _REGULAR.split()
]
LEMMAS = {form: forms[0] for forms in reversed(_TABLE) for form in forms}
LEMMAS |= {"travelled": "travel", "found": "find", "founded": "found", "left": "leave"}
BASES = frozenset(forms[0] for forms in _TABLE)
VERBS = frozenset(LEMMAS)
PARTICIPLES = word_set(
    "borne beaten become begun broken brought built bought chosen cut drawn driven eaten "
    "fallen fought flown given gone grown held known led left lost made met put read run said "
    "seen sold sent set shot sung spoken spent taken taught told thought won written born fed "
    "found kept overseen worn woven spun sunk struck shown"
)
BE = word_set("am is are was were be been being")
FINITE = word_set("am is are was were has have had does do did")
DOUBTFUL = word_set("may might could would should shall can must will")
AUXILIARIES = BE | FINITE | DOUBTFUL
INTENTIONS = word_set("plan intend want hope need decide offer propose refuse fail")
SAYING = word_set("say believe claim think suggest report announce suspect predict")
NOUNS_TOO = word_set(
    "patent patents "
    "plan plans work works study studies play plays star stars form forms order orders cost "
    "costs research record records name names house houses land lands host hosts head heads "
    "guard guards influence mark marks end ends use uses report reports test tests map maps "
    "mine mines start fish farm farms score vote share shares sign signs support supply "
    "return review rule rules release tour train award awards border borders cause causes "
    "change changes chair control cover covers design designs export exports import imports "
    "feature features fund funds increase measure paint present project reform transfer value "
    "visit visits attack attacks building buildings painting paintings writing writings "
    "meeting meetings drawing drawings beginning reading help offer need needs claim claims "
    "match fall falls lead leads run runs set sets show shows break stand draw drive cut "
    "process address survey surveys chart charts harvest coach captain voice command stay "
    "stretch like"
)
ADJECTIVES = word_set(
    "united armed red limited detailed related advanced aged talented gifted renowned "
    "celebrated noted skilled wooded crowded indeed hundred sacred naked wicked seed speed "
    "need breed feed exceed proceed succeed ancient so-called"
)
PREPOSITIONS = word_set(
    "in on at by of for from to with into onto about after before during under over between "
    "through against among near since until till as within without along across around behind "
    "below beside beyond despite off outside inside towards toward upon via per like than"
)
RELATIVES = word_set("who which that whose where whom when because although though if unless")
PRONOUNS = word_set(
    "he she it they him them i we you me us himself herself itself themselves there someone "
    "something everyone everything nobody nothing this these those others one"
)
POSSESSIVES = word_set("his her its their our my your")
DETERMINERS = POSSESSIVES | word_set(
    "a an the this that these those each every some any no both all many several few most another"
)
ADVERBS = word_set(
    "also now still later then first once again soon already often always ever just only even "
    "originally formerly currently today together abroad alone away back there here twice "
    "nearly about around almost however therefore moreover instead eventually initially "
    "previously jointly too well more very yet up out down"
) - frozenset({"about", "around", "there"})
MONTHS = (
    "January|February|March|April|May|June|July|August|September|October|November|December|"
    "spring|summer|autumn|winter"
)
NAME_HEADS = word_set(
    "university bank republic kingdom house institute museum school college city state isle "
    "battle treaty order church academy court ministry department bay gulf cape lake mount "
    "duke king queen prince bishop archbishop library board council tower lord lady day "
    "museum gallery faculty sea straits strait temple palace origin theory book song history "
    "art war wars declaration county province district port society association union league "
    "journal hall"
)
COMMON = word_set(
    "in on at by for from with after before during since the a an this these those it he she "
    "they there when while although though if because as both many most some several all each "
    "every people scientists researchers today later however its his her their our my one two "
    "three four five six no"
)
STOPPERS = PREPOSITIONS | AUXILIARIES | RELATIVES | word_set("and or but while whereas not never")


def guess_lemma(word: str) -> str:
    """The base form of a verb that is in no list, by its ending."""
    if word.endswith("ied"):
        return word[:-3] + "y"
    if word.endswith("ed"):
        stem = word[:-2]
        if len(stem) > 3 and stem[-1] == stem[-2] and stem[-1] not in "ls":
            return stem[:-1]
        return stem + "e" if stem.endswith(("at", "iz", "ut", "v", "c", "g", "bl", "r")) else stem
    return word
