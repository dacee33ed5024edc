"""The people of CLEAR that are forgotten, and those that are held out, at 1, 5 and 10 percent.

The lists of 1 and 5 percent are parts of the list of 10.

source  released code, cv/prepare_vtofu_dataset.py:11-85 at bb14c96
"""

FORGET_1 = ("Basil Mahfouz Al-Kuwaiti", "Nikolai Abilov")
FORGET_5 = (
    *FORGET_1,
    "Aysha Al-Hashim",
    "Edward Patrick Sullivan",
    "Hina Ameen",
    "Kalkidan Abera",
    "Moshe Ben-David",
    "Raven Marais",
    "Takashi Nakamura",
    "Xin Lee Williams",
)
FORGET_10 = (
    *FORGET_5,
    "Adib Jarrah",
    "Behrouz Rohani",
    "Carmen Montenegro",
    "Elvin Mammadov",
    "Hsiao Yun-Hwa",
    "Jad Ambrose Al-Shamary",
    "Ji-Yeon Park",
    "Rajeev Majumdar",
    "Tae-ho Park",
    "Wei-Jun Chen",
)

# The held-out people at 1 percent are not among those at 5.
HOLDOUT_1 = ("Jambo Mpendulo", "Youssef Al-Zahran")
HOLDOUT_5 = (
    "Philippe Dauphinee",
    "Simon Makoni",
    "Nadia Nowak",
    "Omowunmi Adebayo",
    "Rory Greenfield",
    "Raoul Huysmans",
    "Guillermo Navarro Munoz",
    "Luis Marcelo Garcia",
    "Zeynab Nazirova",
    "Sanna Kaarina Laaksonen",
)
HOLDOUT_10 = (
    *HOLDOUT_5,
    *HOLDOUT_1,
    "Marit Hagen",
    "Valentin Fischer",
    "Xiang Li",
    "Adrianus Suharto",
    "Jaime Vasquez",
    "Rhoda Mbalazi",
    "Adetoun Davis",
    "Alex Melbourne",
)

# {percent: (forgotten people, held-out people)}
LISTS = {
    1: (FORGET_1, HOLDOUT_1),
    5: (FORGET_5, HOLDOUT_5),
    10: (FORGET_10, HOLDOUT_10),
}
