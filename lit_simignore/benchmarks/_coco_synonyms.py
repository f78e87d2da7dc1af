"""Words that people use for COCO's 80 categories, gathered here from the categories' names and everyday English.

This is NOT the table of the CHAIR release, which has no licence and is not reproduced: it was written without it, and
how far the scores of the two differ was never measured. Give the release's own ``synonyms.txt`` as
``benchmark.synonyms`` to score with that. The rule here: a word is listed if a person who uses it of a photograph means
an object of the category, in the singular and without an adjective; words that as often mean something else are not
("pitcher", "cook", "glass", "trunk").
"""

from __future__ import annotations

SYNONYMS: dict[str, tuple[str, ...]] = {
    "person": (
        "people", "man", "woman", "boy", "girl", "child", "kid", "baby", "toddler", "infant", "adult", "guy", "lady",
        "gentleman", "teenager", "teen", "youngster", "pedestrian", "passenger", "driver", "rider", "cyclist",
        "bicyclist", "biker", "motorcyclist", "skier", "snowboarder", "surfer", "skateboarder", "skater", "swimmer",
        "player", "athlete", "batter", "catcher", "umpire", "referee", "fan", "spectator", "crowd", "audience",
        "couple", "family", "friend", "mother", "father", "mom", "dad", "parent", "son", "daughter", "brother",
        "sister", "husband", "wife", "bride", "groom", "grandmother", "grandfather", "worker", "chef", "waiter",
        "waitress", "policeman", "policewoman", "officer", "fireman", "firefighter", "soldier", "student", "teacher",
        "farmer", "fisherman", "cowboy", "jockey", "vendor", "shopper", "customer", "tourist", "businessman",
        "businesswoman", "doctor", "nurse", "pilot", "dancer", "musician", "human",
    ),
    "bicycle": ("bike", "cycle", "tricycle", "unicycle"),
    "car": ("automobile", "sedan", "suv", "minivan", "hatchback", "convertible", "taxi", "cab", "jeep", "limousine"),
    "motorcycle": ("motorbike", "motor bike", "motor cycle", "scooter", "moped", "dirt bike", "vespa"),
    "airplane": ("plane", "aeroplane", "aircraft", "jet", "jetliner", "airliner", "biplane", "jumbo jet", "seaplane"),
    "bus": ("minibus", "double decker", "trolley bus"),
    "train": ("locomotive", "railcar", "subway train", "tram", "streetcar"),
    "truck": ("pickup", "pickup truck", "lorry", "semi", "tow truck", "fire truck", "fire engine", "dump truck"),
    "boat": ("ship", "sailboat", "yacht", "canoe", "kayak", "ferry", "raft", "rowboat", "motorboat", "speedboat"),
    "traffic light": ("stoplight", "stop light", "traffic signal", "street light"),
    "fire hydrant": ("hydrant",),
    "stop sign": (),
    "parking meter": (),
    "bench": ("park bench",),
    "bird": (
        "pigeon", "seagull", "gull", "duck", "duckling", "goose", "swan", "owl", "parrot", "sparrow", "eagle", "hawk",
        "chicken", "rooster", "hen", "turkey", "ostrich", "flamingo", "pelican", "peacock", "crow", "dove", "robin",
        "penguin", "heron", "hummingbird", "finch", "woodpecker", "parakeet",
    ),
    "cat": ("kitten", "kitty", "tabby"),
    "dog": (
        "puppy", "pup", "canine", "hound", "poodle", "bulldog", "beagle", "labrador", "terrier", "dachshund",
        "retriever", "collie", "dalmatian", "pug", "chihuahua", "corgi", "husky",
    ),
    "horse": ("pony", "foal", "colt", "mare", "stallion", "mule", "donkey"),
    "sheep": ("lamb", "ram", "ewe"),
    "cow": ("cattle", "bull", "calf", "ox", "oxen", "steer", "heifer", "bison", "buffalo"),
    "elephant": (),
    "bear": ("panda", "grizzly", "polar bear"),
    "zebra": (),
    "giraffe": (),
    "backpack": ("knapsack", "rucksack", "back pack", "book bag"),
    "umbrella": ("parasol",),
    "handbag": ("purse", "hand bag", "pocketbook", "tote bag"),
    "tie": ("necktie", "bow tie", "bowtie"),
    "suitcase": ("luggage", "baggage", "suit case", "briefcase"),
    "frisbee": ("flying disc",),
    "skis": ("ski",),
    "snowboard": ("snow board",),
    "sports ball": (
        "ball", "baseball", "basketball", "football", "soccer ball", "volleyball", "tennis ball", "golf ball",
        "softball",
    ),
    "kite": (),
    "baseball bat": (),
    "baseball glove": ("baseball mitt", "catcher mitt"),
    "skateboard": ("skate board",),
    "surfboard": ("surf board", "longboard", "bodyboard", "boogie board", "paddleboard"),
    "tennis racket": ("racket", "racquet", "tennis racquet"),
    "bottle": ("wine bottle", "beer bottle", "water bottle"),
    "wine glass": ("wineglass", "goblet", "champagne glass"),
    "cup": ("mug", "teacup", "coffee cup", "tea cup", "coffee mug"),
    "fork": (),
    "knife": ("butter knife",),
    "spoon": ("tablespoon", "teaspoon", "ladle"),
    "bowl": (),
    "banana": ("plantain",),
    "apple": (),
    "sandwich": ("burger", "hamburger", "cheeseburger", "sub", "panini", "toastie"),
    "orange": ("tangerine", "mandarin", "clementine"),
    "broccoli": (),
    "carrot": (),
    "hot dog": ("hotdog", "frankfurter", "corn dog"),
    "pizza": (),
    "donut": ("doughnut", "bagel"),
    "cake": ("cupcake", "cheesecake", "birthday cake", "wedding cake", "shortcake"),
    "chair": ("seat", "stool", "armchair", "recliner", "rocking chair", "high chair", "office chair"),
    "couch": ("sofa", "loveseat", "futon", "settee"),
    "potted plant": ("houseplant", "plant", "pot plant", "flowerpot"),
    "bed": ("mattress", "bunk", "crib", "cot"),
    "dining table": ("table", "kitchen table", "coffee table", "dinner table", "picnic table"),
    "toilet": ("urinal", "commode", "toilet bowl"),
    "tv": ("television", "television set", "tv set", "monitor", "flatscreen"),
    "laptop": ("notebook computer", "laptop computer", "macbook", "netbook"),
    "mouse": ("computer mouse",),
    "remote": ("remote control", "controller", "game controller"),
    "keyboard": ("computer keyboard",),
    "cell phone": ("cellphone", "mobile phone", "phone", "smartphone", "smart phone", "telephone", "iphone"),
    "microwave": ("microwave oven",),
    "oven": ("stove", "stovetop", "stove top oven", "range oven"),
    "toaster": ("toaster oven",),
    "sink": ("washbasin", "wash basin", "basin"),
    "refrigerator": ("fridge", "freezer"),
    "book": ("textbook", "paperback", "novel"),
    "clock": ("wall clock", "alarm clock", "clock tower"),
    "vase": (),
    "scissors": ("scissor",),
    "teddy bear": ("teddy", "stuffed bear"),
    "hair drier": ("hair dryer", "hairdryer", "blow dryer"),
    "toothbrush": ("tooth brush",),
}  # fmt: skip
"""Other words for each category, beside its own name."""

ONLY_RELEASED: dict[str, tuple[str, ...]] = {"dining table": ("desk",), "tie": ("bow",)}
"""Words that the release counts and that more often mean something else."""

NEVER_RELEASED = ("motor bike", "cheesecake")
"""Words that never match in the release, for a blank stands before them in its table."""
