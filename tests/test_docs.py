"""What the documents show is what the code does."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_page_about_the_lifecycle_is_drawn_from_its_table():
    drawn = runpy.run_path(str(ROOT / "docs" / "make_lifecycle.py"))["page"]()
    assert (ROOT / "docs" / "lifecycle.md").read_text() == drawn, "run python docs/make_lifecycle.py"


def test_the_readmes_first_program_is_the_example():
    readme = (ROOT / "README.md").read_text()
    (shown,) = re.findall(r"<!-- examples/quickstart.py -->\n```python\n(.*?)```", readme, re.DOTALL)
    assert shown == (ROOT / "examples" / "quickstart.py").read_text()


def test_every_page_that_is_linked_exists():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
