"""Sentences in languages with different full stops."""

from __future__ import annotations

import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.text.sentences import STOPS, TERMINALS, split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("It cost 3.14 at example.com. He paid.", ["It cost 3.14 at example.com.", "He paid."]),
        ("J. Smith met W. B. Yeats. They spoke.", ["J. Smith met W. B. Yeats.", "They spoke."]),
        ('"Really?" she said. "No."', ['"Really?" she said.', '"No."']),
        (
            "Dr. Smith met Mrs. Jones (Prof. Ng, too). See Fig. 3.",
            ["Dr. Smith met Mrs. Jones (Prof. Ng, too).", "See Fig. 3."],
        ),
        ("A cost, e.g. Paris vs. Rome. Stop Mr.", ["A cost, e.g. Paris vs. Rome.", "Stop Mr."]),
        ("He called the dr. He is a mixedcol. Then?", ["He called the dr.", "He is a mixedcol.", "Then?"]),
        ("Well ... perhaps, i.e. never. So it is.", ["Well ... perhaps, i.e. never.", "So it is."]),
        ("(It rained.) Then (so they say!) it did not.", ["(It rained.)", "Then (so they say!) it did not."]),
        ("你好。今天天气很好！“是吗？”他问", ["你好。", "今天天气很好！", "“是吗？”", "他问"]),
        ("これは本です。あれは？", ["これは本です。", "あれは？"]),
        ("यह किताब है। वह नहीं।", ["यह किताब है।", "वह नहीं।"]),
        ("ما هذا؟ هذا كتاب۔ نعم", ["ما هذا؟", "هذا كتاب۔", "نعم"]),
        ("Ще раз. Так.", ["Ще раз.", "Так."]),
        ("สวัสดีครับ ผมชื่อสมชาย", ["สวัสดีครับ ผมชื่อสมชาย"]),
        ("  \n ", []),
        ("...", ["..."]),
    ],
)
def test_text_is_split_after_its_full_stops(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


@given(st.text('aB1.!?。 \n")é', max_size=40))
def test_splitting_loses_only_white_space(text: str) -> None:
    sentences = split_sentences(text)
    assert re.sub(r"\s", "", "".join(sentences)) == re.sub(r"\s", "", text)
    assert all(sentence.strip() == sentence != "" for sentence in sentences)


def test_terminals_have_the_unicode_property() -> None:
    regex = pytest.importorskip("regex")
    ours = re.compile(f"[{TERMINALS}{STOPS}]")
    for code in range(sys.maxunicode):
        if ours.match(chr(code)):
            assert regex.match(r"\p{Sentence_Terminal}", chr(code)), hex(code)
    for character in ".!?。！？।؟۔።။។፧֊"[:-1]:
        assert ours.match(character)
