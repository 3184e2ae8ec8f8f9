"""Kurth 2018 in docs/reproduction.md."""

from quoted.quotes import Section

SECTIONS = [
    Section(
        "docs/reproduction.md",
        "Kurth 2018, Exascale deep learning for climate analytics",
        tuple,
        said=(
            "of 768 x 1152 in training, in 10^12",
            "16 channels | 7,801,315 | 4.188 | 4.188 |",
            "4 channels | 7,413,523 | 3.703 | 3.703 |",
            "43,718,883 and 43,669,251 | 13.02 | 14.41 |",
            "56,454,720 | 1.966 |",
            "takes 13.02, not 14.41",
            "10.6% too high by that",
            "999 PF/s in half precision are 903, and 325.8 in single precision 294.5",
        ),
    )
]
