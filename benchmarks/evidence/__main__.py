"""Write the tables of README.md and docs/results.md from docs/evidence/: `python -m benchmarks.evidence`.

`benchmarks.quality --evidence NAME` and `benchmarks.quickstart --write` leave a file each. The tables stand between the
marks `results:begin` and `results:end` of README.md, and `evidence:begin` and `evidence:end` of docs/results.md. A test
compares the pages with the files.
"""

from __future__ import annotations

from benchmarks.evidence.pages import pages
from benchmarks.evidence.records import read_all

if __name__ == "__main__":
    for page, text in pages(read_all()).items():
        page.write_text(text, encoding="utf-8")
