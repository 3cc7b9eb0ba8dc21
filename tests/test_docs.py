"""What the documents show is what the code does."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_page_about_the_lifecycle_is_drawn_from_its_table():
    drawn = runpy.run_path(str(ROOT / "docs" / "make_lifecycle.py"))["page"]()
    assert (ROOT / "docs" / "lifecycle.md").read_text() == drawn, "run python docs/make_lifecycle.py"


def test_the_readmes_first_program_is_the_example():
    readme = (ROOT / "README.md").read_text()
    (shown,) = re.findall(r"<!-- examples/quickstart.py -->\n```python\n(.*?)```", readme, re.DOTALL)
    assert shown == (ROOT / "examples" / "quickstart.py").read_text()


@pytest.mark.parametrize("page", ["pika-to-live-pages.md", "pika-to-live-pages.zh.md"])
def test_what_the_page_about_pika_shows_is_in_the_examples(page):
    programs = [
        file.read_text() for file in (ROOT / "examples" / "classic").iterdir() if file.suffix in (".py", ".html")
    ]
    shown = re.findall(r"```(?:python|js)\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    pieces = [piece for block in shown for piece in re.split(r"\n{2,}", block.strip()) if len(piece.splitlines()) > 1]
    assert len(pieces) > 5
    for piece in pieces:
        assert any(as_shown(piece) in as_shown(program) for program in programs), piece


def as_shown(text):
    """However far it is indented, and whatever it says meanwhile."""
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if not line.startswith("print("))


def test_every_page_that_is_linked_exists():
    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("spec/*.md"), *ROOT.glob("examples/**/*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
