"""What `mkdocs build` asks of this folder: the navigation from index.md, and the examples as pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File, InclusionLevel

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\(([^)#\s]+\.md|[./]*examples/[^)#\s]*)")
PROGRAM = re.compile(r"\]\((\w+)\.py\)")
OUTSIDE = re.compile(r"\]\((?:\.\./)+examples/([^)\s]*)\)")


def on_config(config: MkDocsConfig) -> None:
    """Make the navigation of what index.md leads to, under its headings and in its order."""
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    config.nav = [{"Documentation": "index.md"}, *sections(index, "## ", "Start")]


def sections(text: str, mark: str, first: str | None) -> list[object]:
    """Return the links of a text, those below a heading as a group of that name."""
    nav: list[object] = []
    for number, part in enumerate(re.split(rf"^{mark}", text, flags=re.MULTILINE)):
        heading, _, below = part.partition("\n") if number else (first, "", part)
        links = sections(below, "### ", None) if mark == "## " else pages(below)
        nav.extend(links if heading is None else [{heading: links}] if links else [])
    return nav


def pages(text: str) -> list[str]:
    """Return the pages that a text leads to, each once."""
    return list(dict.fromkeys(in_site(target) for target in LINK.findall(text)))


def in_site(target: str) -> str:
    """Return where a link of index.md leads inside the site."""
    return "examples/README.md" if "examples/" in target else target


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the folder of examples: its list, and a page for each program, which the list leads to."""
    folder = ROOT / "examples"
    listed = PROGRAM.sub(r"](\1.md)", (folder / "README.md").read_text(encoding="utf-8"))
    files.append(File.generated(config, "examples/README.md", content=listed))
    for path in sorted(folder.glob("*.ipynb")):
        files.append(File.generated(config, f"examples/{path.name}", abs_src_path=str(path)))
    for path in sorted(folder.glob("*.py")):
        code = f"# {path.name}\n\n```python\n{path.read_text(encoding='utf-8')}```\n"
        page = File.generated(config, f"examples/{path.stem}.md", content=code, inclusion=InclusionLevel.NOT_IN_NAV)
        files.append(page)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to the folder of examples to its place in the site."""
    up = "../" * page.file.src_uri.count("/")
    return OUTSIDE.sub(lambda found: f"]({up}examples/{found[1].replace('.py', '.md') or 'README.md'})", markdown)
