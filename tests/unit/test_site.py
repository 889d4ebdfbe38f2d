"""The tools that build and check the site; `make docs` runs them on the site itself."""

import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import factlab as fl

ROOT = Path(__file__).parent.parent.parent
POLICY = """<meta http-equiv="Content-Security-Policy" content="default-src 'self'">"""
CLEAN = {
    "index.html": f'{POLICY}<a href="more/page.html#here">more</a><a href="#top" id="top">up</a>',
    "more/page.html": f'{POLICY}<h2 id="here">x</h2><link rel="stylesheet" href="../a.css">',
    "a.css": "body { background: url(data:image/png;base64,00) }",
}


@pytest.fixture
def links(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "docs"))
    import links

    return links


def site(folder: Path, **changed: str) -> Path:
    for name, text in {**CLEAN, **changed}.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def test_a_whole_site_has_no_problems(links, tmp_path):
    assert list(links.problems(site(tmp_path))) == []


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ('<a href="none.html">', "links to none.html, which is not there"),
        ('<a href="more/page.html#gone">', "a page without that anchor"),
        ('<a href="#gone">', "a page without that anchor"),
        ('<img src="none.png">', "fetches none.png, which is not there"),
        ('<img src="https://example.org/a.png">', "from another host"),
        ('<img srcset="a.css 1x, //example.org/a.png 2x">', "from another host"),
        ('<script src="https://example.org/a.js">', "from another host"),
        ('<link rel="preconnect" href="https://example.org">', "from another host"),
        ("<style>@import 'https://example.org/a.css'</style>", "from another host"),
        ('<p style="background: url(https://example.org/a.png)">', "from another host"),
    ],
)
def test_what_is_wrong_with_a_page_is_said(links, tmp_path, added, said):
    page = CLEAN["index.html"] + added
    (problem,) = links.problems(site(tmp_path, **{"index.html": page}))
    assert problem.startswith("index.html") and said in problem


def test_a_link_to_another_host_may_be_clicked_on(links, tmp_path):
    page = CLEAN["index.html"] + '<a href="https://example.org">'
    assert not list(links.problems(site(tmp_path, **{"index.html": page})))


def test_styles_and_policies_are_read(links, tmp_path):
    changed = {"a.css": "@font-face { src: url('https://example.org/f') }", "more/page.html": "x"}
    problems = "\n".join(links.problems(site(tmp_path, **changed)))
    assert "a.css fetches https://example.org/f from another host" in problems
    assert "more/page.html does not keep the browser from asking other hosts" in problems


def test_every_namespace_has_a_page_of_the_reference():
    listed = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    for name in fl.__all__:
        if isinstance(getattr(fl, name), ModuleType):
            page = ROOT / "docs" / "reference" / f"{name}.md"
            assert f"[[names factlab.{name}" in page.read_text(encoding="utf-8")
            assert f'"reference/{name}.md"' in listed


def test_every_page_is_in_the_navigation():
    settings = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))
    listed = str(settings["project"]["nav"])
    for page in (ROOT / "docs").rglob("*.md"):
        assert f"'{page.relative_to(ROOT / 'docs').as_posix()}'" in listed


def converted(text: str, monkeypatch) -> str:
    markdown = pytest.importorskip("markdown", reason="make docs installs it")
    pytest.importorskip("latex2mathml", reason="make docs installs it")
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "docs"))
    return markdown.markdown(text, extensions=["mathml", "fenced_code"])


def test_formulas_become_mathml(monkeypatch):
    page = converted("The key $k_*$, and\n\n$$v = W k$$\n\nbut `$x$` and 5 $ or 6 $.", monkeypatch)
    assert page.count("<math") == 2
    assert 'display="block"' in page and "<code>$x$</code>" in page and "5 $ or 6 $" in page


def test_a_formula_that_browsers_do_not_show_ends_the_build(monkeypatch):
    with pytest.raises(ValueError, match="Browsers do not show"):
        converted(r"$\mathbb P$", monkeypatch)


def test_the_command_line_is_read_off_the_program(monkeypatch):
    pytest.importorskip("markdown", reason="make docs installs it")
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "docs"))
    import commands

    text = commands.reference()
    assert "### `trace` { #trace }" in text and "### `data build` { #data-build }" in text
    assert "`--subject` <code>&lt;text&gt;</code>" in text
    assert "$ factlab trace" in text


def test_names_are_read_off_the_stubs(monkeypatch):
    pytest.importorskip("griffe", reason="make docs installs it")
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "docs"))
    import names

    assert set(names.public_names("factlab")) == set(fl.__all__) - {"__version__"}
    assert "::: factlab.editing.rome\n" in names.reference("factlab.editing")
    top = names.reference("factlab")
    assert "[`fl.rome`][factlab.editing.rome]" in top and "::: factlab.Fact" in top
    assert "::: factlab.rome" not in top
