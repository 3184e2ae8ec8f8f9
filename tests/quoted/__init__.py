"""What the documents quote from the committed records, one module per part of a document."""

from quoted import goyal, hoffer, you

SECTIONS = [*hoffer.SECTIONS, *goyal.SECTIONS, *you.SECTIONS]
