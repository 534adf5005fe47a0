"""What the tiny models can see and say: the concepts, their names, and the grammar of captions.

A caption follows from its scene without choice (no synonyms), so that a greedy answer can be scored
word for word:

    a dog on a blue background              one thing
    two dogs at the beach                   the same thing n times
    a dog to the left of a cat at night     two things; "above" where that is the longer way
    two red apples, a dog and a bus ...     from left to right; equal ones at their first place

Easy to get wrong
- A name is looked up whole: "hot dog" is no dog. parse() goes by noun phrases, never by words.
- Mass words need a head noun ("a loaf of bread"), and the plural goes to it: "two loaves of bread".
- The order of CONCEPTS fixes which pairs are held out: append, never insert.
"""

# name, or name/plural where the rule of plural() fails, and the sprite's code point
TABLE = """
dog 1f436, cat 1f431, mouse/mice 1f42d, rabbit 1f430, fox 1f98a, bear 1f43b, panda 1f43c,
tiger 1f42f, lion 1f981, cow 1f42e, pig 1f437, frog 1f438, monkey 1f435, rooster 1f413,
penguin 1f427, bird 1f426, duck 1f986, owl 1f989, bat 1f987, horse 1f434, unicorn 1f984,
bee 1f41d, caterpillar 1f41b, butterfly/butterflies 1f98b, snail 1f40c, ladybug/ladybugs 1f41e,
spider 1f577-fe0f, turtle 1f422, snake 1f40d, dinosaur 1f996, octopus 1f419, crab 1f980,
fish/fish 1f420, dolphin 1f42c, whale 1f433, crocodile 1f40a, zebra 1f993, elephant 1f418,
hippo 1f99b, camel 1f42b, giraffe 1f992, sheep/sheep 1f411, flamingo 1f9a9, swan 1f9a2,
peacock 1f99a, parrot 1f99c, hedgehog 1f994, wolf/wolves 1f43a, cactus 1f335,
christmas tree 1f384, tree 1f333, palm tree 1f334, mushroom 1f344, rose 1f339, tulip 1f337,
sunflower 1f33b, clover 1f340, red apple 1f34e, green apple 1f34f, pear 1f350, lemon 1f34b,
banana 1f34c, watermelon 1f349, bunch of grapes 1f347, strawberry/strawberries 1f353,
cherry/cherries 1f352, peach 1f351, pineapple 1f34d, tomato/tomatoes 1f345, eggplant 1f346,
avocado 1f951, head of broccoli 1f966, carrot 1f955, ear of corn 1f33d, pepper 1f336-fe0f,
cucumber 1f952, onion 1f9c5, loaf of bread/loaves of bread 1f35e, croissant 1f950,
pretzel 1f968, piece of cheese 1f9c0, egg 1f95a, hamburger 1f354, box of fries 1f35f,
slice of pizza 1f355, hot dog 1f32d, taco 1f32e, ice cream 1f366, donut 1f369, cookie 1f36a,
cake 1f382, cupcake 1f9c1, lollipop 1f36d, honey pot 1f36f, cup of coffee 2615,
glass of wine 1f377, glass of beer 1f37a, glass of milk 1f95b, car 1f697, taxi 1f695, bus 1f68c,
ambulance 1f691, fire truck 1f692, truck 1f69a, tractor 1f69c, bicycle 1f6b2,
motorcycle 1f3cd-fe0f, airplane 2708-fe0f, helicopter 1f681, rocket 1f680, sailboat 26f5,
ship 1f6a2, train 1f682, ufo 1f6f8, traffic light 1f6a5, house 1f3e0, tent 26fa, castle 1f3f0,
church 26ea, volcano 1f30b, sun 2600-fe0f, moon 1f319, star 2b50, cloud 2601-fe0f,
rainbow 1f308, snowman/snowmen 26c4, umbrella 2602-fe0f, snowflake 2744-fe0f, fire 1f525,
soccer ball 26bd, basketball 1f3c0, tennis racket 1f3be, trophy/trophies 1f3c6, balloon 1f388,
gift 1f381, teddy bear 1f9f8, kite 1fa81, guitar 1f3b8, trumpet 1f3ba, drum 1f941, piano 1f3b9,
watch 231a, clock 23f0, phone 1f4f1, laptop 1f4bb, camera 1f4f7, television 1f4fa,
light bulb 1f4a1, candle 1f56f-fe0f, book 1f4d5, pencil 270f-fe0f, pair of scissors 2702-fe0f,
lock 1f512, hammer 1f528, magnet 1f9f2, bell 1f514, crown 1f451, hat 1f3a9, shirt 1f455,
dress 1f457, shoe 1f45f, boot 1f462, diamond 1f48e, bed 1f6cf-fe0f, chair 1fa91, door 1f6aa,
bathtub 1f6c1, microscope 1f52c, die/dice 1f3b2, letter 2709-fe0f, box 1f4e6, backpack 1f392,
robot 1f916, heart 2764-fe0f
"""

COLOURS = {
    "red": (205, 40, 40), "orange": (245, 140, 30), "yellow": (250, 220, 50),
    "green": (60, 165, 70), "blue": (50, 100, 215), "purple": (130, 60, 170),
    "pink": (250, 165, 195), "brown": (125, 80, 45),
    "gray": (140, 140, 140), "black": (22, 22, 22), "white": (246, 246, 246),
}
LANDSCAPES = {                       # phrase: colour above the horizon, colour below
    "in a meadow": ((150, 205, 245), (95, 180, 80)),
    "at the beach": ((140, 205, 245), (238, 214, 160)),
    "on the sea": ((185, 220, 245), (40, 110, 185)),
    "in the snow": ((170, 190, 215), (245, 248, 252)),
    "in the desert": ((245, 190, 120), (205, 140, 75)),
    "at night": ((18, 22, 60), (35, 45, 40)),
}
NUMBERS = {2: "two", 3: "three"}
LEFT_OF, ABOVE = " to the left of ", " above "


def plural(name):
    """The rule; the head noun is the word before " of ", else the last one."""
    head, of, rest = name.partition(" of ")
    return head + ("es" if head.endswith(("s", "x", "ch", "sh")) else "s") + of + rest


def read_table():
    names, plurals, sprites = [], [], []
    for entry in " ".join(TABLE.split()).split(", "):
        words, code = entry.rsplit(" ", 1)
        name, _, irregular = words.partition("/")
        names.append(name)
        plurals.append(irregular or plural(name))
        sprites.append(code)
    return names, plurals, sprites


CONCEPTS, PLURALS, SPRITES = read_table()
BACKGROUNDS = [f"on a{'n' * (c == 'orange')} {c} background" for c in COLOURS] + list(LANDSCAPES)


def article(name):
    vowel = name[0] in "aeiou" and name not in ("unicorn", "ufo")
    return "an" if vowel else "a"


def phrase(concept, count=1):
    """"a dog", "two dogs"."""
    if count == 1:
        return f"{article(CONCEPTS[concept])} {CONCEPTS[concept]}"
    return f"{NUMBERS[count]} {PLURALS[concept]}"


PHRASES = {phrase(c, n): (c, n) for c in range(len(CONCEPTS)) for n in (1, 2, 3)}


def mentions(concepts):
    """Concepts from left to right, equal ones counted at their first place: [(concept, count)]."""
    return [(c, concepts.count(c)) for c in dict.fromkeys(concepts)]


def caption(groups, background, relation=", "):
    """groups: what mentions() gives, or the two of a relation in its order."""
    nouns = [phrase(c, n) for c, n in groups]
    if relation == ", ":
        text = " and ".join(filter(None, [", ".join(nouns[:-1]), nouns[-1]]))
    else:
        text = relation.join(nouns)
    return f"{text} {BACKGROUNDS[background]}"


def parse(text):
    """The inverse of caption(): ([(concept or None, count)], relation, background or None).
    Any text is taken; a noun phrase that is none of ours becomes (None, 1)."""
    background = next((i for i, b in enumerate(BACKGROUNDS) if text.endswith(" " + b)), None)
    if background is not None:
        text = text[:-len(BACKGROUNDS[background]) - 1]
    relation = next((r for r in (LEFT_OF, ABOVE) if r in text), ", ")
    nouns = [n.strip() for n in text.replace(relation, ", ").replace(" and ", ", ").split(", ")]
    return [PHRASES.get(n, (None, 1)) for n in nouns if n], relation, background


def held_out(a, b):
    """One pair of concepts in ten is never shown together in training: two concepts are compatible
    with training unless this says so. Symmetric; a concept is no pair with itself."""
    a, b = min(a, b), max(a, b)
    return a != b and (7919 * a + 104729 * b) % 10 == 0
