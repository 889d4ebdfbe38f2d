"""What a built site points to: every page and anchor must be there, and nothing on another host.

    python scripts/docs/links.py [site]

Read are `href`, `src` and their like in HTML, `url()` and `@import` in styles. A link that a reader
may click on can lead anywhere; what a browser fetches by itself must be in the site.
"""

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_SITE = Path(__file__).parent.parent.parent / "site"
# What a browser fetches without being asked, and which attribute says where from.
_FETCHED = {
    ("audio", "src"), ("embed", "src"), ("iframe", "src"), ("image", "href"), ("img", "src"),
    ("img", "srcset"), ("input", "src"), ("link", "href"), ("object", "data"), ("script", "src"),
    ("source", "src"), ("source", "srcset"), ("use", "href"), ("video", "poster"), ("video", "src"),
}  # fmt: skip
_OF_STYLES = re.compile(r"""(?:url\(|@import\s)\s*["']?([^"')\s]+)""")


class Page(HTMLParser):
    """Ids of one page, where its links lead, and what it fetches.

    Attributes:
        ids: targets of anchors.
        links: what a reader may click on.
        fetched: what the browser fetches by itself.
        policy: the content security policy.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.policy = ""
        self._is_style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note ids and addresses."""
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        self._is_style = tag == "style"
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values.get("content", "")
        if tag == "link" and values.get("rel") in ("canonical", "prev", "next"):
            self.links.append(values["href"])
            return
        self.fetched += _OF_STYLES.findall(values.get("style", ""))
        for name, value in values.items():
            if (tag, name) in _FETCHED:
                self.fetched += [part.split()[0] for part in value.split(",")] \
                    if name == "srcset" else [value]  # fmt: skip
            elif name == "href":
                self.links.append(value)

    def handle_data(self, data: str) -> None:
        """Note the addresses in a style sheet of the page's own."""
        if self._is_style:
            self.fetched += _OF_STYLES.findall(data)


def problems(site: Path) -> Iterator[str]:
    """A sentence for each thing that is wrong with a site."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    if not pages:
        yield f"{site} holds no page."
    for path, page in pages.items():
        name = path.relative_to(site)
        if "default-src 'self'" not in page.policy:
            yield f"{name} does not keep the browser from asking other hosts."
        for address in page.fetched:
            yield from _fetched(address, path, site)
        for address in page.links:
            yield from _link(address, path, site, pages)
    for path in sorted(site.rglob("*.css")):
        for address in _OF_STYLES.findall(path.read_text(encoding="utf-8")):
            yield from _fetched(address, path, site)


def _fetched(address: str, path: Path, site: Path) -> Iterator[str]:
    if address.startswith(("data:", "#")):
        return
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        yield f"{path.relative_to(site)} fetches {address} from another host."
    elif not _target(parts.path, path, site).is_file():
        yield f"{path.relative_to(site)} fetches {address}, which is not there."


def _link(address: str, path: Path, site: Path, pages: dict[Path, Page]) -> Iterator[str]:
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return
    target = _target(parts.path, path, site) if parts.path else path
    target = target / "index.html" if target.is_dir() else target
    if not target.is_file():
        yield f"{path.relative_to(site)} links to {address}, which is not there."
    elif parts.fragment and unquote(parts.fragment) not in pages[target].ids:
        yield f"{path.relative_to(site)} links to {address}, a page without that anchor."


def _target(address: str, path: Path, site: Path) -> Path:
    start = site if address.startswith("/") else path.parent
    return (start / unquote(address).lstrip("/")).resolve()


def main(site: Path) -> int:
    """Print what is wrong; 1 if anything is."""
    found = list(problems(site.resolve()))
    sys.stdout.write(
        "\n".join([*found, ""]) if found else "Every link of the site leads somewhere.\n"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else _SITE))
