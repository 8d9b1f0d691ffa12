"""Phone numbers in text. With a country's code they are known by themselves (E.164: at most 15 digits), North American
and zero-led ones by their groups; other runs of digits only behind a word such as "phone" or "Tel."."""

import re

# Digits in groups, at most one space, dot, slash or hyphen (or a bracket) between two of them.
PHONE = re.compile(
    r"(?<![\w./=#$€£%^*+-])(?<!\d[,:])(?:\+|00(?=[1-9]))?(?:\(\d{1,5}\)[ ]?)?\d{1,15}"
    r"(?:(?:[ ./-]|[ ]?\(|\)[ ]?|[ ]-[ ])\d{1,12}){0,7}"
    r"(?![\w%€$°^*/=-])(?![.:]\d)(?!,\d\d\d(?!\d))"
)
NANP = re.compile(r"(?:\+?1[ .-]?)?(?:\([2-9]\d\d\)[ ]?|[2-9]\d\d([.-]))[2-9]\d\d(?(1)\1|[ .-])\d{4}")
ZERO_LED = re.compile(r"\(?0[1-9]\d{1,4}\)?[ /-]\d{3,8}(?:[ -]\d{2,6}){0,3}")
SAID_BEFORE = re.compile(
    r"(?i)(?<!\[)\b(?:phone|tele?phone|tel|telefon|t[ée]l[ée]phone|tel[ée]fono|t[ée]l|mobile|cell(?:phone)?|handy|whatsapp|sms|fax|"
    r"call|ring|text|reach|dial|appelez?|anrufen|ruf|ll[aá]ma(?:me|r)?|"
    r"(?:phone |mobile |my |mein\w* )(?:number|nummer)|"
    r"rufnummer|num[ée]ro|n[úu]mero)\b[^\d\n]{0,24}\Z"
)
LOOK_BACK = 48  # characters in which the word may stand
# Codes that ITU-T E.164 gives to no country.
NO_COUNTRY = re.compile(
    r"21[0479]|25[9]|28|38[348]|42[2-9]|69[3-9]|80[12345679]|83|85[147]|89|87[1-79]|88[3-79]|96[9]|97[8]|99[0179]"
)


def is_phone(match: re.Match[str]) -> bool:
    """Whether these groups of digits are a phone number."""
    text = match.group()
    digits = re.sub(r"\D", "", text)
    if not 7 <= len(digits) <= 15 or len(set(digits)) == 1:
        return False
    if text.startswith("+"):
        return _is_international(digits)
    if text.startswith("00"):
        return len(digits) >= 11 and bool(re.search(r"\D", text)) and _is_international(digits[2:])
    if NANP.fullmatch(text):
        return True
    if ZERO_LED.fullmatch(text) and 9 <= len(digits) <= 12:
        return True
    before = match.string[max(match.start() - LOOK_BACK, 0) : match.start()]
    return bool(SAID_BEFORE.search(before)) and not _is_date(text)


def _is_international(digits: str) -> bool:
    if digits[0] == "1":
        return len(digits) == 11
    if digits[0] == "7":
        return len(digits) == 11
    return digits[0] != "0" and 8 <= len(digits) <= 15 and not NO_COUNTRY.match(digits)


def _is_date(text: str) -> bool:
    return bool(re.fullmatch(r"(?:19|20)\d\d[-/. ]\d{1,2}[-/. ]\d{1,2}|\d{1,2}[-/. ]\d{1,2}[-/. ](?:19|20)\d\d", text))
