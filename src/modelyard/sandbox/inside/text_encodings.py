"""Find the encoding of texts that do not say it, or say it in themselves.

General detectors need more text than a short list of names has. Here each candidate is
judged by how common the characters are that it reads: a Chinese name read as Korean is a
row of rare signs. The measure is the likelihood of the characters, from the levels that
the national standards divide their characters into, and from the most frequent ones.

Imports nothing of ours, because it also runs inside the sandbox.
"""

import math
import re
from collections.abc import Callable

_DECLARATION = re.compile(
    rb"<meta[^>]{1,300}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.-]{1,40})"
    rb"|<\?xml[^>]{1,100}?encoding\s*=\s*[\"']([A-Za-z0-9_:.-]{1,40})",
    re.IGNORECASE,
)
_DECLARATION_BYTES = 4096
_SAMPLE_BYTES = 16_384
_CERTAIN = math.log(1000)
"""How much more likely the best candidate must be than the second."""
# Of texts that are not UTF-8, these are the most frequent.
_PRIORS: "dict[str, float]" = dict.fromkeys(
    ("gb18030", "cp1252", "cp1251"), math.log(4)
)
_ODD_NEIGHBOURS = math.log(0.01)
_RARE = 1e-7
"""The likelihood of a character that a text in an encoding hardly ever has."""

# The most frequent characters, and those of the most frequent names.
_SIMPLIFIED = (
    "的一是不了在人有我他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学对"
    "可里后小么心多天而能好都然没日于起还发成事只作当想看文无开手十用主行方又如前所本见经头面公同"
    "三已老从动两长知民样现分将外但身些与高意进把法此实回二理美点月明其种声全工己话者向情部正名定"
    "王李张刘陈杨黄赵吴周徐孙马朱胡林郭何罗梁宋郑谢韩唐冯董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛"
    "姓客户产品价格数量订单电话地址备注编号部门城市合计金额日期北京上海广州"
)
_TRADITIONAL = (
    "的一是不了在人有我他這中大來上國個到說們為子和你地出道也時年得就那要下以生會自著去之過家學對"
    "可裡後小麼心多天而能好都然沒日於起還發成事只作當想看文無開手十用主行方又如前所本見經頭面公同"
    "三已老從動兩長知民樣現分將外但身些與高意進把法此實回二理美點月明其種聲全工己話者向情部正名定"
    "王李張劉陳楊黃趙吳周徐孫馬朱胡林郭何羅梁宋鄭謝韓唐馮董蕭程曹袁鄧許傅沈曾彭呂蘇盧蔣蔡賈丁魏薛"
    "姓客戶產品價格數量訂單電話地址備註編號部門城市合計金額日期臺灣北高雄"
)
_HANGUL = (
    "이다는에의을가를은로하고지한기도사자대리어인나시정일해서아수있그라보것만과장제여주상전부성동"
    "구원와게조스니무연학소공국경진생신비들관우유화중세회김박최윤임강송안황홍문면적력들었했습까요"
    "번호이름전화주소금액합계날짜서울부산"
)
_KANJI = (
    "日一国会人年大十二本中長出三同時政事自行社見月分議後前民生連五発間対上部東者党地合市業内相方四定今"
    "回新場金員九入選立開手米力学問高代明実円関決子動京目全表戦経通外最言氏現理調体化田当八六約主題下首"
    "意法不来作性的要用制治度務強気小七成期公野協取都和統以機平総加山思家話世受区領多県続進正安設保改数"
    "太郎花鈴木佐藤渡辺井美客様品番価格量名電氏住所備考注文請求書"
)
_EAST_ASIAN_MARKS = "，。、；：？！（）“”‘’「」『』【】《》·…　～－"

Weigh = Callable[[str], float]
"""Returns the likelihood of a character in texts of an encoding."""
IsOdd = Callable[[str, str], bool]
"""Returns whether two characters hardly ever follow each other in an encoding's texts."""


def declared_label(data: bytes) -> str:
    """Return the encoding that a page or an XML document declares in itself; empty if it
    declares none."""
    match = _DECLARATION.search(data[:_DECLARATION_BYTES])
    if match is None:
        return ""
    label = (match[1] or match[2]).decode("ascii").lower()
    # Text in which the declaration can be read as ASCII is not UTF-16 (HTML standard).
    return "utf-8" if label.startswith("utf-16") else label


def guess(data: bytes) -> tuple[str, bool]:
    """Return (Python codec, whether it is certain) of a text in an unknown encoding."""
    if (wide := _wide_codec(data)) is not None:
        return wide, True
    # Apart from its escape sequences this is ASCII, which no candidate would notice.
    if b"\x1b$" in data:
        return "iso2022_jp", True
    sample = _sample(data)
    likelihoods: dict[str, float] = {}
    for codec, weigh, is_odd in _CANDIDATES:
        likelihood = _likelihood(sample, codec, weigh, is_odd) + _PRIORS.get(codec, 0.0)
        likelihoods[codec] = max(likelihood, likelihoods.get(codec, -math.inf))
    best, second = sorted(likelihoods, key=likelihoods.__getitem__, reverse=True)[:2]
    return best, likelihoods[best] - likelihoods[second] > _CERTAIN


def _wide_codec(data: bytes) -> str | None:
    """Return the codec of UTF-16 without a byte order mark; None for other texts."""
    start = data[:_SAMPLE_BYTES]
    half = len(start) // 2
    if half < 2:
        return None
    even, odd = start[0::2].count(0), start[1::2].count(0)
    # Latin text in UTF-16 has a zero in almost every second byte.
    if odd > half * 0.4 and even < half * 0.05:
        return "utf-16-le"
    if even > half * 0.4 and odd < half * 0.05:
        return "utf-16-be"
    return None


def _sample(data: bytes) -> bytes:
    """Return the lines that are not ASCII, up to a limit. No encoding that is guessed
    here has a line feed as part of a character."""
    lines: list[bytes] = []
    size = 0
    for line in data.split(b"\n"):
        if line.isascii():
            continue
        lines.append(line[: _SAMPLE_BYTES - size])
        size += len(line)
        if size >= _SAMPLE_BYTES:
            break
    return b"\n".join(lines)


def _likelihood(sample: bytes, codec: str, weigh: Weigh, is_odd: IsOdd) -> float:
    """Return the logarithm of a text's likelihood in an encoding; ASCII is neutral."""
    known: dict[str, float] = {}
    total = 0.0
    previous = "\n"
    for char in sample.decode(codec, "replace"):
        if is_odd(previous, char):
            total += _ODD_NEIGHBOURS
        previous = char
        # ASCII reads the same in all candidates, so it decides nothing.
        if char < "\x80":
            continue
        weight = known.get(char)
        if weight is None:
            weight = known[char] = math.log(max(_RARE, weigh(char)))
        total += weight
    return total


# ------------------------------------------------------------------- East Asian encodings


def _by_levels(
    codec: str,
    frequent: str,
    levels: "list[tuple[int, int, float]]",
    *,
    frequent_share: float,
) -> Weigh:
    """Return the likelihoods of an encoding of two bytes per character.

    `levels` has (first lead byte, last lead byte, likelihood of one character).
    `frequent_share` is the share of the frequent characters in a text.
    """
    common = frozenset(frequent)
    share = frequent_share / max(1, len(common))

    def weigh(char: str) -> float:
        """Return a character's likelihood."""
        if char in common:
            return share
        if char in _EAST_ASIAN_MARKS:
            return 0.1 / len(_EAST_ASIAN_MARKS)
        # Full-width letters, digits and marks.
        if "\uff01" <= char <= "\uff5e":
            return 0.01 / 94
        try:
            coded = char.encode(codec)
        except UnicodeEncodeError:
            return _RARE
        return _of_level(coded, levels)

    return weigh


def _of_level(coded: bytes, levels: "list[tuple[int, int, float]]") -> float:
    """Return the likelihood of the level that a character's bytes belong to."""
    # Characters outside the standards' plane are extensions.
    if len(coded) != 2:
        return _RARE
    for first, last, likelihood in levels:
        if first <= coded[0] <= last:
            return likelihood
    return _RARE


def _japanese(codec: str, levels: "list[tuple[int, int, float]]") -> Weigh:
    """Return the likelihoods of a Japanese encoding: half of a text is kana."""
    by_level = _by_levels(codec, _KANJI, levels, frequent_share=0.25)

    def weigh(char: str) -> float:
        """Return a character's likelihood."""
        if "\u3041" <= char <= "\u3093":
            return 0.35 / 83
        if "\u30a1" <= char <= "\u30fc":
            return 0.2 / 90
        # Half-width kana are rare in texts of today.
        if "\uff61" <= char <= "\uff9f":
            return 0.001 / 63
        return by_level(char)

    return weigh


# ------------------------------------------------------------------- one byte a character


def _letters(frequent: str, rare: str = "", marks: str = "«»“”„’–—…№€") -> Weigh:
    """Return the likelihoods of an alphabet. `frequent` has its letters in the order of
    their frequency."""
    weights = dict.fromkeys(marks, 0.01 / len(marks))
    weights |= dict.fromkeys(rare, 0.05 / max(1, len(rare)))
    ranks = {letter: 1 / (rank + 5) for rank, letter in enumerate(frequent)}
    total = sum(ranks.values())
    weights |= {letter: 0.9 * share / total for letter, share in ranks.items()}
    return lambda char: weights.get(char, 1e-5)


def _never(previous: str, char: str) -> bool:
    """Return False: in East Asian texts all characters may be neighbours."""
    del previous, char
    return False


def _breaks_alphabet(previous: str, char: str) -> bool:
    """Return whether a word changes between ASCII and another alphabet, or has a capital
    letter after a small one."""
    if not (previous.isalpha() and char.isalpha()):
        return False
    return previous.isascii() != char.isascii() or (
        previous.islower() and char.isupper()
    )


def _breaks_latin(previous: str, char: str) -> bool:
    """Return whether a word of Latin letters has two letters with accents in a row, or
    a capital letter after a small one."""
    if not (previous.isalpha() and char.isalpha()):
        return False
    return not (previous.isascii() or char.isascii()) or (
        previous.islower() and char.isupper()
    )


# The letters of each language in the order of their frequency.
_RUSSIAN = "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъ"
_RUSSIAN_RARE = _RUSSIAN.upper() + "ёЁіїєґІЇЄҐ"
_GREEK = "αοιετσνηυρπκμλςίόάγέδήωχθύφβξώζψ"
_ARABIC = "ايلمنرتوبةعدسفهكقحجشصأطخىضغذثزءظإئآؤ"
_HEBREW = "יוהלאמרתבשנםדחקפעכסגטצןזךףץ"
_THAI = "านรอกเงมยลวดทสต่้ัีิะปบคหแจพชขใไผโุูำึือ์็ถซณศธภ"
_WESTERN = {
    "French": "éèàêçùâîôûëïœ",
    "German": "üäößé",
    "Spanish": "óíáéñúü",
    "Portuguese": "ãçáéóíâõêúàô",
    "Nordic": "åäøæöéð",
    "Italian": "àèùòìé",
    "Icelandic": "áðíóöéúþýæ",
}
_CENTRAL = {
    "Czech": "íáéěýřčžšůúóťďň",
    "Slovak": "áíéýčžšúťľóôďňäŕĺ",
    "Polish": "ąęłóżśćńź",
    "Hungarian": "áéöőóüíúű",
    "Romanian": "ăîâşţ",
    "Croatian": "čžšćđ",
}
_CANDIDATES: "list[tuple[str, Weigh, IsOdd]]" = [
    (
        "gb18030",
        _by_levels(
            "gb18030",
            _SIMPLIFIED,
            [(0xB0, 0xD7, 0.5 / 3755), (0xD8, 0xF7, 0.004 / 3008)],
            frequent_share=0.45,
        ),
        _never,
    ),
    (
        "big5hkscs",
        _by_levels(
            "big5",
            _TRADITIONAL,
            [(0xA4, 0xC6, 0.5 / 5401), (0xC9, 0xF9, 0.004 / 7652)],
            frequent_share=0.45,
        ),
        _never,
    ),
    (
        "cp949",
        _by_levels(
            "euc_kr",
            _HANGUL,
            [(0xB0, 0xC8, 0.4 / 2350), (0xCA, 0xFD, 0.003 / 4888)],
            frequent_share=0.55,
        ),
        _never,
    ),
    (
        "cp932",
        _japanese("cp932", [(0x88, 0x98, 0.2 / 2965), (0x99, 0xEA, 0.005 / 3390)]),
        _never,
    ),
    (
        "euc_jp",
        _japanese("euc_jp", [(0xB0, 0xCF, 0.2 / 2965), (0xD0, 0xF4, 0.005 / 3390)]),
        _never,
    ),
    ("cp1251", _letters(_RUSSIAN, _RUSSIAN_RARE), _breaks_alphabet),
    ("koi8_r", _letters(_RUSSIAN, _RUSSIAN_RARE, "©°²·"), _breaks_alphabet),
    ("cp866", _letters(_RUSSIAN, _RUSSIAN_RARE, "№·°"), _breaks_alphabet),
    ("cp1253", _letters(_GREEK, "ΑΟΙΕΤΣΝΗΥΡΠΚΜΛΓΔΩΧΘΦΒΞΖΨΆΈΉΊΌΎΏϊϋΐΰ"), _breaks_alphabet),
    ("cp1256", _letters(_ARABIC, "پچژگ،؛؟"), _breaks_alphabet),
    ("cp1255", _letters(_HEBREW), _breaks_alphabet),
    ("cp874", _letters(_THAI, "ฉญฏฎฐฑฒฌฆฤฮฬษฯฺ฿ๆ๊๋"), _breaks_alphabet),
    *(
        ("cp1252", _letters(letters, letters.replace("ß", "").upper() + "¿¡°§²³½£"), _breaks_latin)
        for letters in _WESTERN.values()
    ),
    *(
        ("cp1250", _letters(letters, letters.upper()), _breaks_latin)
        for letters in _CENTRAL.values()
    ),
    ("cp1254", _letters("ıüşçğöâîû", "İÜŞÇĞÖÂ"), _breaks_latin),
]  # fmt: skip
"""(codec, likelihood of its characters, whether two neighbours are odd), for texts of
people who write in it."""
