"""Templates of forty word problems: per topic three of one step, three of two steps, two of three.

`{x} {y} {z} {w}` are small numbers (factors), `{a} {b} {c}` larger ones (addends), `{n} {m}` names, `{o}` things.
A plan lists the steps; `_` is the result of the step before, `1` and `2` those of the first and second.
"""

NAMES = [
    "Ada",
    "Bo",
    "Cleo",
    "Dev",
    "Ema",
    "Finn",
    "Gia",
    "Hugo",
    "Ines",
    "Jon",
    "Kai",
    "Lena",
    "Max",
    "Nora",
    "Otto",
    "Pam",
]
THINGS = {
    "shop": ["lamps", "bowls", "maps", "pens", "rings", "socks", "scarves", "plates"],
    "farm": ["hens", "cows", "goats", "ducks", "sheep", "pigs", "rabbits", "horses"],
    "time": ["pages", "laps", "songs", "letters", "puzzles", "drills", "lessons", "chores"],
    "food": ["pies", "rolls", "tarts", "muffins", "cakes", "buns", "waffles", "cookies"],
    "game": ["points", "stars", "coins", "medals", "badges", "tokens", "gems", "tickets"],
}
DISTRACTORS = (
    "{n} is {d} years old. ",
    "Bus number {d} drives by. ",
    "It is day {d} of the month. ",
    "{d} birds sit on the roof. ",
)

TEMPLATES: dict[str, tuple[tuple[str, str], ...]] = {
    "shop": (
        ("{n} buys {x} {o} that cost {y} dollars each. How many dollars does {n} pay?", "x*y"),
        ("{n} owns {a} {o} and buys {b} more. How many {o} does {n} own now?", "a+b"),
        ("{n} has {a} dollars and pays {b} dollars for {o}. How many dollars are left?", "a-b"),
        (
            "{n} buys {x} {o} for {y} dollars each and a bag for {a} dollars. How many dollars does {n} pay in total?",
            "x*y _+a",
        ),
        ("{n} has {a} dollars and buys {x} {o} for {y} dollars each. How many dollars are left?", "x*y a-_"),
        (
            "A shop sells {x} {o} on Monday and {y} {o} on Friday for {z} dollars each. "
            "How many dollars does the shop take?",
            "x+y _*z",
        ),
        (
            "{n} has {a} dollars, buys {x} {o} for {y} dollars each and then gets {b} dollars as a gift. "
            "How many dollars does {n} have now?",
            "x*y a-_ _+b",
        ),
        (
            "A shop sells {x} {o} on Monday and {y} {o} on Friday for {z} dollars each, and pays {a} dollars of rent. "
            "How many dollars remain?",
            "x+y _*z _-a",
        ),
    ),
    "farm": (
        ("A farm has {x} stables with {y} {o} in each. How many {o} does the farm have?", "x*y"),
        ("A farm has {a} {o} and buys {b} more. How many {o} does the farm have now?", "a+b"),
        ("A farmer has {a} {o} and sells {b} of them. How many {o} remain?", "a-b"),
        ("A farmer has {a} {o}, sells {b} and then buys {c}. How many {o} does the farmer have now?", "a-b _+c"),
        ("A farm has {x} stables with {y} {o} in each, and sells {a} {o}. How many {o} remain?", "x*y _-a"),
        (
            "{x} young {o} and {y} old {o} each eat {z} bags of corn. How many bags of corn do they eat in total?",
            "x+y _*z",
        ),
        (
            "A farm has {x} stables with {y} {o} in each. It buys {a} {o} and sells {b}. "
            "How many {o} does the farm have now?",
            "x*y _+a _-b",
        ),
        (
            "A farmer has {x} {o} and sells {y}. The others each eat {z} bags of corn, and the dog eats {a} bags. "
            "How many bags is that in total?",
            "x-y _*z _+a",
        ),
    ),
    "time": (
        ("{n} finishes {x} {o} a day. How many {o} does {n} finish in {y} days?", "x*y"),
        ("{n} finishes {a} {o} in the morning and {b} at night. How many {o} is that?", "a+b"),
        ("{n} plans {a} {o} for this week and has finished {b}. How many {o} are left?", "a-b"),
        (
            "{n} finishes {a} {o} on Monday, and on Tuesday {b} more than on Monday. "
            "How many {o} does {n} finish on both days?",
            "a+b a+_",
        ),
        ("{n} plans {a} {o} and finishes {x} a day for {y} days. How many {o} are left?", "x*y a-_"),
        (
            "{n} plans {x} {o} for each day but skips {y} of them. How many {o} does {n} finish in {z} days?",
            "x-y _*z",
        ),
        (
            "{n} finishes {x} {o} in the morning and {y} at night, for {z} days, and {a} more on Sunday. "
            "How many {o} is that in total?",
            "x+y _*z _+a",
        ),
        (
            "{n} plans {a} {o} and then {b} extra ones, and finishes {x} a day for {y} days. How many {o} are left?",
            "a+b x*y 1-2",
        ),
    ),
    "food": (
        ("{n} fills {x} trays with {y} {o} each. How many {o} is that?", "x*y"),
        ("{n} bakes {a} {o} and {m} bakes {b}. How many {o} do they bake together?", "a+b"),
        ("{n} bakes {a} {o} and the guests eat {b} of them. How many {o} are left?", "a-b"),
        ("{n} bakes {x} trays of {y} {o}, and {m} bakes {a} {o}. How many {o} is that in total?", "x*y _+a"),
        ("{n} bakes {a} {o} and {m} bakes {b}. They give away {c}. How many {o} are left?", "a+b _-c"),
        ("{n} bakes {x} trays of {y} {o}, and {m} bakes {z} times as many. How many {o} does {m} bake?", "x*y _*z"),
        (
            "{n} bakes {x} trays of {y} {o}, and {m} bakes {a} {o}. The guests eat {b} of them. How many {o} are left?",
            "x*y _+a _-b",
        ),
        (
            "{n} bakes {x} {o} and {m} bakes {y}. They eat {z} and sell the others for {w} dollars each. "
            "How many dollars do they get?",
            "x+y _-z _*w",
        ),
    ),
    "game": (
        ("{n} wins {x} {o} in each round. How many {o} does {n} win in {y} rounds?", "x*y"),
        ("{n} has {a} {o} and {m} has {b} more than {n}. How many {o} does {m} have?", "a+b"),
        ("{n} has {a} {o} and loses {b}. How many {o} does {n} have now?", "a-b"),
        ("{n} has {a} {o}, wins {b} and then loses {c}. How many {o} does {n} have now?", "a+b _-c"),
        ("{n} wins {x} {o} in each of {y} rounds and then loses {a}. How many {o} does {n} have?", "x*y _-a"),
        (
            "{n} has {x} {o} and loses {y}. {m} has {z} times as many as {n} then. How many {o} does {m} have?",
            "x-y _*z",
        ),
        (
            "{n} starts with {a} {o}, wins {x} in each of {y} rounds and then loses {b}. How many {o} does {n} have?",
            "x*y a+_ _-b",
        ),
        (
            "{n} wins {x} {o} and loses {y} in each of {z} rounds, and had {a} before. How many {o} does {n} have now?",
            "x-y _*z _+a",
        ),
    ),
}
