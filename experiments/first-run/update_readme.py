"""Put what ``python eval.py`` printed into the README: the table and the picture.

python eval.py && python experiments/first-run/update_readme.py runs/<name>
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lit_simignore.report.figures import headline_svg
from lit_simignore.report.table import render_table

ROOT = Path(__file__).resolve().parents[2]
MARK = "<!-- first-run -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a finished run folder")
    summary = json.loads((parser.parse_args().run / "summary.json").read_text(encoding="utf-8"))
    (ROOT / "experiments" / "first-run" / "headline.svg").write_text(str(headline_svg(summary)), encoding="utf-8")
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(MARK)
    _, _, after = rest.rpartition(MARK)
    table = render_table(summary).rstrip()
    readme.write_text(f"{before}{MARK}\n```text\n{table}\n```\n{MARK}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
