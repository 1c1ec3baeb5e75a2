"""Stop-words, which augmentation never replaces."""

from __future__ import annotations

from schemas.core.errors import DataError
from schemas.core.paths import local_path
from schemas.core.regular_files import check_regular
from schemas.data.augmentation import Augmentation
from stages.data.files.limits import MAX_ROW_BYTES

# The closed classes of English, as in Porter's list for Snowball, which TinyBERT's authors use; and the parts of
# contractions that an apostrophe splits (`don't` into don and t, `does n't` into n and t).
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
_FIELD = "augmentation.stop_words"


def stop_words(config: Augmentation) -> frozenset[str]:
    """Return the words that are never replaced, in lower case.

    Raises:
        ConfigError: no file can have the configured name.
        DataError: the file does not exist, or is no list of words.
    """
    source = config.stop_words
    if source == "english":
        return ENGLISH
    return frozenset(word.lower() for word in (read_words(source) if isinstance(source, str) else source))


def read_words(name: str) -> list[str]:
    """Return the words of a file with one word per line.

    Raises:
        ConfigError: no file can have that name.
        DataError: the file does not exist, or is no list of words; with the line.
    """
    path = local_path(name, _FIELD)
    check_regular(path, _FIELD)
    try:
        if path.stat().st_size > MAX_ROW_BYTES:
            raise DataError(
                f"{_FIELD}: {path} is larger than {MAX_ROW_BYTES >> 20} MB, too large for a list of stop-words; give "
                "another file"
            )
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(
            f"{_FIELD}: {path} cannot be read ({error.strerror}); give english, a list of words, or a file with one "
            "word per line"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{_FIELD}: {path} is not UTF-8 (byte {error.start:,}); convert it: iconv -f latin1 -t utf-8"
        ) from None
    for number, line in enumerate(lines, start=1):
        if len(line.split()) > 1:
            raise DataError(f"{_FIELD}: {path}: line {number} holds {len(line.split())} words; write one word per line")
    return [line.strip() for line in lines if line.strip()]
