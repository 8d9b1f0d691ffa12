"""Text as guards see it: folded, so that letters which look alike to a reader are alike to a rule, with the place of
every folded character in the text that it came from."""

import unicodedata
from functools import lru_cache

# Marks that a reader skips over: accents, Arabic and Hebrew points. Those of other scripts are letters of their own.
_ACCENTS = (
    (0x0300, 0x036F), (0x1AB0, 0x1AFF), (0x1DC0, 0x1DFF), (0x20D0, 0x20FF), (0xFE20, 0xFE2F),
    (0x0591, 0x05C7), (0x0610, 0x061A), (0x064B, 0x065F), (0x0670, 0x0670), (0x06D6, 0x06ED),
)  # fmt: skip
# Default-ignorable code points beside those of category Cf (DerivedCoreProperties), and the empty braille cell.
_UNSEEN = ((0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2065, 0x2065), (0x2800, 0x2800), (0x3164, 0x3164),
           (0xFE00, 0xFE0F), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0xE0000, 0xE0FFF))  # fmt: skip


def _dropped(char: str) -> bool:
    code = ord(char)
    if unicodedata.category(char) in ("Cf", "Cc", "Cs") and not char.isspace():
        return True
    return any(low <= code <= high for low, high in (*_ACCENTS, *_UNSEEN))


@lru_cache(maxsize=1 << 17)
def fold_char(char: str) -> str:
    """One character folded: its compatibility decomposition (NFKD) without case, accents and what is not seen; white
    space of any kind is a blank. '' where nothing is left.

    Of each character alone, so that a text folds the same however it is cut. Texts that are equal under NFKC fold to
    the same, marks that stand in another order apart.

    >>> fold_char("É"), fold_char("ﬁ"), fold_char("\\u200b"), fold_char("\\n")
    ('e', 'fi', '', ' ')
    """
    if char.isspace():
        return " "
    found = char
    for _ in range(2):  # folding the case of some letters (İ, ᾳ) makes new ones to decompose
        found = unicodedata.normalize("NFKD", found).casefold()
    return "".join(" " if part.isspace() else part for part in found if not _dropped(part))


def fold(text: str) -> str:
    """A whole text folded; every run of white space is one blank.

    >>> fold("Bad  \\u200b Wo\\u200brd")
    'bad word'
    """
    folder = Folder()
    folder.add(text)
    return folder.text


class Folder:
    """A text that grows, folded. `text`: the folded characters that are still looked at; `places[i]`: which character
    of all that was added `text[i]` came from."""

    def __init__(self) -> None:
        self.text = ""
        self.places: list[int] = []
        self._num_added = 0
        self._after_blank = False

    def add(self, text: str) -> None:
        """More text at the end."""
        first = self._num_added
        self._num_added += len(text)
        if text.isascii() and text.isprintable() and "  " not in text and not (self._after_blank and text[:1] == " "):
            if text:
                self.text += text.lower()
                self.places.extend(range(first, self._num_added))
                self._after_blank = text[-1] == " "
            return
        found = []
        for place, char in enumerate(text, first):
            for part in fold_char(char):
                if part == " " and self._after_blank:
                    continue
                self._after_blank = part == " "
                found.append(part)
                self.places.append(place)
        self.text += "".join(found)

    def forget(self, count: int) -> None:
        """The first `count` folded characters are looked at no more."""
        if count > 0:
            self.text = self.text[count:]
            del self.places[:count]
