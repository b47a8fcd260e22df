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
    nav: list[dict[str, object]] = [{"Documentation": "index.md"}]
    for part in re.split(r"^## ", (ROOT / "docs" / "index.md").read_text(encoding="utf-8"), flags=re.MULTILINE):
        heading, _, text = part.partition("\n")
        links = [in_site(target) for target in LINK.findall(text)]
        if links:
            nav.append({heading if not heading.startswith("#") else "Start": list(dict.fromkeys(links))})
    config.nav = nav


def in_site(target: str) -> str:
    """Return where a link of index.md leads inside the site."""
    return "examples/README.md" if "examples/" in target else target


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the folder of examples: its list, and a page for each program, which the list leads to."""
    folder = ROOT / "examples"
    listed = PROGRAM.sub(r"](\1.md)", (folder / "README.md").read_text(encoding="utf-8"))
    files.append(File.generated(config, "examples/README.md", content=listed))
    for path in sorted(folder.glob("*.py")):
        code = f"# {path.name}\n\n```python\n{path.read_text(encoding='utf-8')}```\n"
        page = File.generated(config, f"examples/{path.stem}.md", content=code, inclusion=InclusionLevel.NOT_IN_NAV)
        files.append(page)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to the folder of examples to its place in the site."""
    up = "../" * page.file.src_uri.count("/")
    return OUTSIDE.sub(lambda found: f"]({up}examples/{found[1].replace('.py', '.md') or 'README.md'})", markdown)
