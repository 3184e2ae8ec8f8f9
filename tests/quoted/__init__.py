"""What the documents quote from the committed records, one module per part of a document."""

from quoted import (
    dli,
    goyal,
    hoffer,
    keskar,
    kjv,
    kurth,
    li,
    mccandlish,
    merrill,
    openclipart,
    readme,
    shallue,
    throughput,
    you,
    zhang,
)

MODULES = (
    shallue,
    kjv,
    openclipart,
    zhang,
    mccandlish,
    merrill,
    hoffer,
    keskar,
    li,
    goyal,
    you,
    kurth,
    dli,
    throughput,
    readme,
)
SECTIONS = [section for module in MODULES for section in module.SECTIONS]
