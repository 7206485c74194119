"""No flip corrupts a caption: 100 sentences as COCO's are, with left and right in all senses."""

import re

import pytest

from input_pipeline.datasets.sides import mirrored_sentence

SAME = (
    "A man riding a wave on top of a surfboard.",
    "Two zebras standing in bright sunlight near a fence.",
    "A plate of leftover pizza on a wooden table",
    "Left-over rice and vegetables in a blue bowl.",
    "An upright piano beside a copyright notice.",
    "A woman marches for civil rights in the street.",
    "The playwright stands in front of the red curtain",
    "A cleft rock where a frightened goat hides.",
    "A first baseman stretches to catch the last ball.",
    "A giraffe eats leaves from the top of a tall tree.",
    "Some rightful owners pose with their righteous dog.",
    "1girl, solo, long hair, looking at viewer, smile",
)

# Both sentences are true, each of the mirror image of the other's photograph.
EXCHANGED = (
    ("A cat on the left and a dog on the right.", "A cat on the right and a dog on the left."),
    (
        "A laptop to the left of a cup of coffee.",
        "A laptop to the right of a cup of coffee.",
    ),
    (
        "The remote control lies on the right side of the couch",
        "The remote control lies on the left side of the couch",
    ),
    (
        "A man holds a tennis racket in his right hand.",
        "A man holds a tennis racket in his left hand.",
    ),
    (
        "A batter with his left foot raised waits for the ball",
        "A batter with his right foot raised waits for the ball",
    ),
    (
        "The woman's right arm is around the dog.",
        "The woman's left arm is around the dog.",
    ),
    ("A dog lifts its left paw up to a boy.", "A dog lifts its right paw up to a boy."),
    (
        "From left to right: an apple, a pear and a banana.",
        "From right to left: an apple, a pear and a banana.",
    ),
    (
        "Three boys are standing from the left to the right, smiling",
        "Three boys are standing from the right to the left, smiling",
    ),
    ("Five vases are lined up left to right.", "Five vases are lined up right to left."),
    (
        "Cars are parked on the left and right sides of the street.",
        "Cars are parked on the right and left sides of the street.",
    ),
    (
        "A stop sign in the top left corner of the photo",
        "A stop sign in the top right corner of the photo",
    ),
    (
        "A small bird in the bottom right-hand corner of the window.",
        "A small bird in the bottom left-hand corner of the window.",
    ),
    (
        "Left side of the picture shows a brick wall",
        "Right side of the picture shows a brick wall",
    ),
    ("A GIRAFFE ON THE RIGHT, FACING LEFT.", "A GIRAFFE ON THE LEFT, FACING RIGHT."),
    ("The man on the left is holding a kite.", "The man on the right is holding a kite."),
    (
        "The third person from the right wears a hat",
        "The third person from the left wears a hat",
    ),
    ("A train is seen from its right side.", "A train is seen from its left side."),
    (
        "On the left-hand side of the road is a herd of sheep",
        "On the right-hand side of the road is a herd of sheep",
    ),
    (
        "The leftmost kite is red and the rightmost one is blue.",
        "The rightmost kite is red and the leftmost one is blue.",
    ),
    (
        "A motorcyclist leaning left, close to the road",
        "A motorcyclist leaning right, close to the road",
    ),
    (
        "An arrow on the sign is pointing right.",
        "An arrow on the sign is pointing left.",
    ),
    (
        "A chair at the far left of a dining room",
        "A chair at the far right of a dining room",
    ),
    (
        "There is a lamp in the upper right of the room.",
        "There is a lamp in the upper left of the room.",
    ),
    (
        "To her left is a man with an umbrella",
        "To her right is a man with an umbrella",
    ),
    (
        "A cow looking towards the left while another one eats.",
        "A cow looking towards the right while another one eats.",
    ),
    (
        "A bathroom with a sink (left) and a tub (right).",
        "A bathroom with a sink (right) and a tub (left).",
    ),
    (
        "A skier moves rightward down a hill",
        "A skier moves leftward down a hill",
    ),
    (
        "Trees in the left foreground and a barn in the right background.",
        "Trees in the right foreground and a barn in the left background.",
    ),
    (
        "A boat near the right edge of the frame",
        "A boat near the left edge of the frame",
    ),
    (
        "The people’s left hands are in the air, and a ball is on the right",
        "The people’s right hands are in the air, and a ball is on the left",
    ),
    (
        "A left-facing horse stands to the right of two cows.",
        "A right-facing horse stands to the left of two cows.",
    ),
)

UNMIRRORED = (
    # The past of "leave".
    "A bench is left in the rain.",
    "An umbrella left behind on a train seat",
    "Only one slice of pizza is left on the plate.",
    "A suitcase that someone left on the sidewalk",
    "The cat left the couch and sits on the floor.",
    "There is not much cake left.",
    "A bike left leaning against a fence",
    "Toys have been left out on the lawn.",
    "A half-eaten sandwich left over from lunch",
    "A door left open in an empty house.",
    "What is left of a chocolate cake on a plate",
    "He looks at what's left and smiles",
    "People walk past a car left by the road.",
    "A woman left alone with a broken umbrella",
    "The surfer just left the water on the left.",
    "The man on the left left his bag on the bench.",
    "A bikini top left on the beach.",
    "A toilet with the lid left up",
    "The last banana left in the bowl is brown.",
    "Two plates with food left side by side on a table",
    # "Correct", "immediately", "exactly" and others.
    "A dog sits right next to a fire hydrant.",
    "A car parked right in front of a hotel",
    "The plane is right above the houses",
    "A cat right on top of a laptop keyboard.",
    "A man looks right at the camera",
    "The right way to hold a tennis racket",
    "A child puts the puzzle piece in the right place.",
    "She arrives at the right time with cake.",
    "The train is on the right track.",
    "A worker picks the right tool from a box",
    "It seems all right to sit on this bench.",
    "A pizza fresh right out of the oven.",
    "A turtle tries to get right side up",
    "The corner makes a right angle with the wall.",
    "A sign that gives buses the right of way",
    "He threw the ball to her right in front of the net.",
    "A player got off on the right foot with the coach",
    "A car with right-hand drive on a gravel road.",
    "Right now, two people are crossing the street",
    "At the right and proper moment, a goal is scored.",
    "A fish that looks right, and smells fresh.",
    "Driving on the right side of the law",
    "A protester stands for the right to vote.",
    # Sides in phrases that could mean something else, or of a direction on which text depends.
    "A no left turn sign hangs over the road",
    "A traffic sign says keep right.",
    "A left handed batter swings at a pitch",
    "Dog on left, cat on right.",
    "A bus turns right at the corner.",
    "Two elephants facing right in a dusty field",
    "A person leaning left on a motorcycle",
    "Right behind the man on the left is a tall building.",
    "The left luggage office is on the right.",
    "A clock whose hands turn counterclockwise.",
    # Other languages.
    "Ein Hund steht links neben einem roten Auto.",
    "Une femme à gauche tient un parapluie",
    "Un perro a la derecha de la mesa.",
)


def test_there_are_a_hundred_sentences_of_each_kind():
    captions = [*SAME, *(caption for caption, _ in EXCHANGED), *UNMIRRORED]
    assert len(captions) == len(set(captions)) == 100
    assert min(map(len, (SAME, EXCHANGED, UNMIRRORED))) > 10


@pytest.mark.parametrize("caption", SAME)
def test_without_sides_a_caption_stays_as_it_is(caption):
    assert mirrored_sentence(caption) == caption


@pytest.mark.parametrize(("caption", "mirrored"), EXCHANGED)
def test_sides_are_exchanged(caption, mirrored):
    assert mirrored_sentence(caption) == mirrored
    assert mirrored_sentence(mirrored) == caption


def test_names_with_a_side_in_them_stay():
    caption, other = (f"A pen is in the playwright's {side} hand." for side in ("left", "right"))
    assert mirrored_sentence(caption) == other
    assert mirrored_sentence(other) == caption


@pytest.mark.parametrize("caption", UNMIRRORED)
def test_in_any_other_sense_the_image_is_not_mirrored(caption):
    assert mirrored_sentence(caption) is None
    # Nor with the other word, so that the rule is its own inverse.
    other = re.sub("left|right", lambda side: {"left": "right"}.get(side[0], "left"), caption)
    assert mirrored_sentence(other) is None or other == caption


def test_one_ambiguous_word_spoils_a_caption(rng):
    for _ in range(50):
        clear = EXCHANGED[int(rng.integers(len(EXCHANGED)))][0]
        unclear = UNMIRRORED[int(rng.integers(len(UNMIRRORED)))]
        for both in (f"{clear} {unclear}", f"{unclear} {clear}"):
            assert mirrored_sentence(both) is None
