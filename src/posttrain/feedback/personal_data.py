"""Personal data in text, found and blotted out: `redact("write to a@b.org")` is `write to [EMAIL]`, one EMAIL.

Only what its form gives away with few false alarms: e-mail addresses, phone numbers, payment cards (ISO/IEC 7812 and
its Luhn digit), IBANs (ISO 13616, mod 97), IP addresses, US social security numbers, passwords in addresses, keys and
tokens of known services, and streets with a number. Names, birthdays and whatever is told in words stay: no pattern
finds those. Pure functions; the time grows with the length of the text, whatever is in it; what is redacted once is not
changed by a second time.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from posttrain.feedback.phone_numbers import PHONE, is_phone

KINDS = ("SECRET", "CREDENTIALS", "EMAIL", "IBAN", "CARD", "SSN", "IP", "PHONE", "ADDRESS")
MAX_PASSES = 4  # what is blotted out can lay bare what stood beside it
# Lengths of the ISO 13616 registry.
IBAN_COUNTRIES = {
    15: "NO",
    16: "BE",
    18: "DK FI FO GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ LT LU XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "BI DJ FR GR IT MC SM",
    28: "AL AZ BY CY DO EG GT HU LB NI PL SV",
    29: "BR PS QA UA",
    30: "JO KW MU",
    31: "MT SC",
    32: "LC",
    33: "RU",
}
PICTURES = ("png", "jpg", "jpeg", "gif", "svg", "webp")  # icon@2x.png is a file

SECRET = re.compile(
    # To its end, or, where it was cut, as far as its lines go. None of it is read twice.
    r"-----BEGIN (?:[A-Z]{1,12} ){0,3}PRIVATE KEY-----(?:"
    r"(?>[^-]*(?:-(?!----)[^-]*)*)-----END (?:[A-Z]{1,12} ){0,3}PRIVATE KEY-----|(?:\s*+[A-Za-z0-9+/=]{32,}+)++)"
    r"|(?<![\w-])(?:"
    r"sk-(?:ant-|proj-|or-|svcacct-)?[A-Za-z0-9_-]{20,200}"  # OpenAI, Anthropic, OpenRouter
    r"|[sr]k_(?:live|test)_[A-Za-z0-9]{16,128}"  # Stripe
    r"|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_\w{22,255}"
    r"|glpat-[\w-]{20,64}|npm_[A-Za-z0-9]{36}|hf_[A-Za-z0-9]{30,64}|pypi-[\w-]{50,255}"
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,255}"  # Slack
    r"|(?:AKIA|ASIA)[0-9A-Z]{16}|AIza[\w-]{35}"  # AWS, Google
    r"|eyJ[\w-]{8,2000}\.eyJ[\w-]{8,4000}\.[\w-]{16,2000}"  # a JSON web token
    r")(?![\w-])"
)
# The name stays, what it is set to goes. What a program computes (a call, an attribute, a variable) is no secret.
SET_TO = re.compile(
    r"(?i)(?<![a-z0-9])(?P<name>(?:pass(?:word|wd|phrase)|pwd|api[_ -]?key|secret(?:[_ -]?key)?|"
    r"(?:access|auth)[_ -]?token)"
    r"[\"']?(?:[ ]?(?:[:=]|=>|is)[ ]?)[\"']?)(?P<value>[A-Za-z0-9_+/=!@#$%^&*~-]{8,128})(?![\w(.\[])"
)
BEARER = re.compile(r"(?i)(?<!\w)(?P<name>bearer )(?P<value>[A-Za-z0-9._~+/-]{20,2000}=?)(?!\w)")
CREDENTIALS = re.compile(
    r"(?<![\w+.-])(?P<name>[A-Za-z][A-Za-z0-9+.-]{1,20}://)(?P<value>[^\s/@:\[]{1,128}:[^\s/@\[]{1,128})(?=@)"
)
EMAIL = re.compile(
    r"(?<![\w.%+-])(?P<local>[\w%+-][\w.%+-]{0,63})@(?:[^\W_][\w-]{0,62}\.){1,8}(?P<top>[^\W\d_]{2,24})(?![\w@])"
)
IBAN = re.compile(
    r"(?i)(?<!\w)(?=[A-Z]{2}\d\d)(?:"
    + "|".join(
        rf"(?:{names.replace(' ', '|')})\d\d(?:[ ]?[A-Z0-9]){{{length - 4}}}"
        for length, names in IBAN_COUNTRIES.items()
    )
    + r")(?!\w)"
)
CARD = re.compile(
    r"(?<![\w.+-])(?:\d{4}([ -]?)\d{4}\1\d{4}\1\d{1,4}(?:\1\d{3})?|3\d{3}([ -]?)\d{6}\2\d{4,5})"
    r"(?![\w-])(?!\.\d)"
)
SSN = re.compile(r"(?<![\w.-])(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\w-])(?!\.\d)")
IPV4 = re.compile(
    r"(?i)(?<![\w.=])(?<!version )(?<!section )(?<!release )(?<!chapter )(?<![a-z]/)"
    r"\d{1,3}(?:\.\d{1,3}){3}(?![\w-])(?!\.\w)"
)
IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{1,4}(?::{1,2}[0-9A-Fa-f]{1,4}){2,7}(?![\w:])(?!\.\w)")
STREET = (
    r"Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Terrace|Square|Sq|Parkway|Pkwy|Crescent"
)
ADDRESS = re.compile(
    rf"(?<![\w.,$€£-])(?:\d{{1,5}}[A-Za-z]? (?:[NSEW]\.? )?(?:[A-Z][a-z'’]{{1,20}}\.? ){{1,3}}(?:{STREET})\b\.?"
    r"(?: (?:NW|NE|SW|SE|[NSEW])\b)?(?:,? (?:Apt|Apartment|Suite|Unit|Flat)\.? ?#?\w{1,5})?"
    r"(?:, (?:[A-Z][a-z]{1,20} ?){1,3}, [A-Z]{2}(?: \d{5}(?:-\d{4})?)?)?"
    r"|[A-ZÄÖÜ][a-zäöüß-]{1,30}(?:straße|strasse|str\.|gasse|allee) \d{1,4}[a-z]?(?:, \d{5} [A-ZÄÖÜ][a-zäöüß-]{1,30})?"
    rf")(?!\w)"
)
# A match never touches a placeholder: else one blotted out would free the next, and a text could ask for as many
# passes as it has words.
PLACEHOLDER = re.compile(rf"\[(?:{'|'.join(KINDS)})\]")
LONGEST = max(map(len, KINDS)) + 2
YEAR = re.compile(r"(?:1[5-9]|20)\d\d ")
YEAR_BEFORE = re.compile(r"(?i)\b(?:in|by|of|since|until|till|from|year|early|late) \Z")


@dataclass(frozen=True, slots=True)
class Redacted:
    """Text without personal data, and how many of each kind were in it: `{"EMAIL": 2}`."""

    text: str
    counts: dict[str, int] = field(default_factory=dict)


def redact(text: str) -> Redacted:
    """The text with `[KIND]` in the place of every piece of personal data."""
    counts: Counter[str] = Counter()
    for _ in range(MAX_PASSES):
        before = text
        for kind, pattern, is_one in RULES:
            text = _blotted(text, kind, pattern, is_one, counts)
        if text == before:
            break
    return Redacted(text, {kind: counts[kind] for kind in KINDS if counts[kind]})


def redact_value(value: Any, counts: Counter[str]) -> Any:
    """A JSON value with all its texts redacted, the keys of objects too, and the finds added to `counts`. A number that
    is written like a card or a phone number becomes its placeholder."""
    if isinstance(value, str):
        done = redact(value)
        counts.update(done.counts)
        return done.text
    if isinstance(value, dict):
        return {redact_value(key, counts): redact_value(item, counts) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_value(item, counts) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**11:
        done = redact(str(value))
        counts.update(done.counts)
        return done.text if done.counts else value
    return value


def _blotted(
    text: str, kind: str, pattern: re.Pattern[str], is_one: Callable[[re.Match[str]], bool], counts: Counter[str]
) -> str:
    def blot(match: re.Match[str]) -> str:
        if not is_one(match) or _touches(match):
            return match.group()
        counts[kind] += 1
        return f"{match.groupdict().get('name', '')}[{kind}]"

    return pattern.sub(blot, text)


def _touches(match: re.Match[str]) -> bool:
    """Whether a placeholder stands right before or behind."""
    text, start, end = match.string, match.start(), match.end()
    if PLACEHOLDER.match(text, end):
        return True
    before = text[max(start - LONGEST, 0) : start]
    return before.endswith("]") and PLACEHOLDER.fullmatch(before, before.rfind("[")) is not None


def luhn(digits: str) -> bool:
    """Whether the last digit checks the others: every second digit from the right doubled, the digits of all added up,
    a multiple of ten (ISO/IEC 7812-1)."""
    doubled = (int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits)))
    return sum(number - 9 if number > 9 else number for number in doubled) % 10 == 0


def iban_checks(iban: str) -> bool:
    """Whether the check digits fit: the first four characters behind the rest, letters as 10 to 35, the whole modulo 97
    is 1 (ISO 13616)."""
    return int("".join(str(int(letter, 36)) for letter in iban[4:] + iban[:4])) % 97 == 1


def _is_card(match: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", match.group())
    brands = (
        digits[0] == "4" and len(digits) in (13, 16, 19),  # Visa
        51 <= int(digits[:2]) <= 55 and len(digits) == 16,  # Mastercard
        2221 <= int(digits[:4]) <= 2720 and len(digits) == 16,
        digits[:2] in ("34", "37") and len(digits) == 15,  # American Express
        digits[:2] in ("30", "36", "38", "39") and len(digits) == 14,  # Diners
        digits[:2] in ("60", "62", "64", "65") and 16 <= len(digits) <= 19,  # Discover, UnionPay, RuPay
        3528 <= int(digits[:4]) <= 3589 and len(digits) == 16,  # JCB
    )
    return any(brands) and luhn(digits)


def _is_ipv4(match: re.Match[str]) -> bool:
    """Not the machine itself, a mask or a network, nor a number such as 3.1.4.2 that sections and versions have."""
    parts = [int(part) for part in match.group().split(".")]
    written_so = all(str(part) == text for part, text in zip(parts, match.group().split("."), strict=True))
    plain = parts[0] in (0, 127, 255) or parts[-1] == 0 or max(parts) < 10
    return written_so and max(parts) < 256 and not plain


def _is_ipv6(match: re.Match[str]) -> bool:
    text = match.group()
    if not any(letter.isdigit() for letter in text):  # names in a program
        return False
    try:
        return not ipaddress.IPv6Address(text).is_link_local
    except ValueError:
        return False


def _is_iban(match: re.Match[str]) -> bool:
    return iban_checks(match.group().replace(" ", "").upper())


def _is_email(match: re.Match[str]) -> bool:
    return match["local"] != "git" and not match["local"].endswith(".") and match["top"].lower() not in PICTURES


def _is_street(match: re.Match[str]) -> bool:
    """Not "in 2019 Main Street": a year behind a word that years stand behind."""
    before = match.string[max(match.start() - 7, 0) : match.start()]
    return not (YEAR.match(match.group()) and YEAR_BEFORE.search(before))


def _is_mixed(match: re.Match[str]) -> bool:
    """Letters and digits both: a word is more likely a type or a variable."""
    value = match["value"]
    return any(letter.isdigit() for letter in value) and any(letter.isalpha() for letter in value)


def _always(_: re.Match[str]) -> bool:
    return True


# In this order: what is longer and surer first.
RULES: tuple[tuple[str, re.Pattern[str], Callable[[re.Match[str]], bool]], ...] = (
    ("SECRET", SECRET, _always),
    ("CREDENTIALS", CREDENTIALS, _always),
    ("SECRET", BEARER, _is_mixed),
    ("SECRET", SET_TO, _is_mixed),
    ("EMAIL", EMAIL, _is_email),
    ("IBAN", IBAN, _is_iban),
    ("CARD", CARD, _is_card),
    ("SSN", SSN, _always),
    ("IP", IPV4, _is_ipv4),
    ("IP", IPV6, _is_ipv6),
    ("PHONE", PHONE, is_phone),
    ("ADDRESS", ADDRESS, _is_street),
)
