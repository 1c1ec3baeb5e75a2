"""Words that augmentation never replaces: they carry a sentence's build, not its matter."""

from __future__ import annotations

from schemas.core.errors import DataError
from schemas.core.paths import local_path
from schemas.core.regular_files import check_regular
from schemas.data.augmentation import Augmentation
from stages.data.files.limits import MAX_ROW_BYTES

# The closed classes of English, as in Porter's list for Snowball, which TinyBERT's authors use; and what is left of a
# contraction where an apostrophe ends a word (`don't` is don and t, `does n't` is n and t).
_ENGLISH = """
i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers herself it its
itself they them their theirs themselves what which who whom this that these those
am is are was were be been being have has had having do does did doing can will just should would could ought might
must shall may cannot
a an the and but if or because as until while of at by for with about against between into through during before after
above below to from up down in out on off over under again further then once here there when where why how
all any both each few more most other some such no nor not only own same so than too very now
s t n d ll m o re ve y don won ain aren couldn didn doesn hadn hasn haven isn ma mightn mustn needn shan shouldn wasn
weren wouldn
"""
ENGLISH = frozenset(_ENGLISH.split())
_PLACE = "augmentation.stop_words"


def stop_words(config: Augmentation) -> frozenset[str]:
    """The words that stay, in lower case.

    Raises:
        ConfigError: no file can have the name that is given.
        DataError: the file is not there or is no list of words, with the line.
    """
    given = config.stop_words
    words = _listed(given) if isinstance(given, str) and given != "english" else given
    return ENGLISH if words == "english" else frozenset(word.lower() for word in words)


def _listed(given: str) -> list[str]:
    path = local_path(given, _PLACE)
    check_regular(path, _PLACE)
    try:
        if path.stat().st_size > MAX_ROW_BYTES:
            raise DataError(
                f"{_PLACE}: {path} is larger than {MAX_ROW_BYTES >> 20} MB, which no list of stop-words is; give "
                "another file"
            )
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(
            f"{_PLACE}: {path} cannot be read ({error.strerror}); give english, a list of words, or a file with a "
            "word a line"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{_PLACE}: {path} is not UTF-8 (byte {error.start:,}); convert it: iconv -f latin1 -t utf-8"
        ) from None
    for number, line in enumerate(lines, start=1):
        if len(line.split()) > 1:
            raise DataError(f"{_PLACE}: {path}: line {number} holds {len(line.split())} words; write a word a line")
    return [line.strip() for line in lines if line.strip()]
