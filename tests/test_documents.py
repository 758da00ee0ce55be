"""The documents say what is there: their examples, commands, trees, links and pictures."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from omegaconf import MISSING
from typer.main import get_command

from memformer import cli
from memformer.attach.backbone import _FAMILIES
from training import finetune
from training.finetuning import settings
from training.finetuning.settings import Settings
from training.setup.config import read_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
COMMAND = re.compile(r"(memformer [a-z]|make [a-z]|python -m |accelerate launch )")


def blocks(language: str, page: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def commands(text: str) -> list[list[str]]:
    """The commands in shell blocks and in code between backticks, as words without comments."""
    shell = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in shell for line in block.splitlines()]
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    lines += re.findall(r"`([^`\n]+)`", prose)
    return [shlex.split(line, comments=True) for line in lines if COMMAND.match(line)]


def wrong(words: list[str]) -> str | None:
    """What a command names that is not there; None where all is."""
    match words:
        case ["make", target]:
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            return None if re.search(rf"^{target}:", makefile, re.MULTILINE) else target
        case ["memformer", name, *arguments]:
            return wrong_command(get_command(cli.app), [name, *arguments])
        case ["python", "-m", "eval.lm_harness", *_]:  # its arguments are lm_eval's
            return None
        case ["python", "-m", "training.finetune", *arguments]:
            given = get_command(finetune.app).make_context("", list(arguments)).params
            launched = given["launched"]
            if launched is not None and not (ROOT / launched).exists():
                return str(launched)
            if not (ROOT / given["config"]).exists():
                return str(given["config"])
            read_config(Settings, ROOT / given["config"], given["overrides"] or [])
            return None
        case ["python", "-m", module, *arguments]:
            spec = importlib.util.find_spec(module)
            if spec is None:
                return module
            if spec.submodule_search_locations:
                module += ".__main__"
            if module.startswith(("eval.", "training.")):
                return wrong_command(get_command(importlib.import_module(module).app), arguments)
            return None
        case ["accelerate", "launch", "-m", "training.finetune"]:  # named to say what it lacks
            return None
        case ["accelerate", "launch", "-m", *rest]:
            return wrong(["python", "-m", *rest])
        case ["accelerate", "launch", "--cpu"]:  # named to say what it does not do
            return None
    return " ".join(words)


def wrong_command(command: object, arguments: list[str]) -> str | None:
    inner = getattr(command, "commands", None)
    if inner is None or not arguments:
        return wrong_option(command, arguments)
    name, *rest = arguments
    return wrong_command(inner[name], rest) if name in inner else name


def wrong_option(command: object, arguments: list[str]) -> str | None:
    known = {option for one in getattr(command, "params") for option in one.opts}  # noqa: B009
    given = [word for word in arguments if word.startswith("-")]
    return next((word for word in given if word not in known), None)


def tree(text: str) -> dict[str, str]:
    """Path to comment of everything in a tree of files."""
    listed, folders = {}, []
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        name, _, comment = line.strip().partition(" ")
        folders = folders[: indent // 2]
        listed["".join(folders) + name] = comment.strip()
        if name.endswith("/"):
            folders.append(name)
    return listed


OPTIONS = PAGES["finetuning.md"].partition("## The config")[2].partition("\n## ")[0]
TREE = tree(PAGES["architecture.md"].partition("## The files")[2].split("```")[1].strip("\n"))
SHORT_TREE = tree(README.partition("## Where things are")[2].split("```")[1].strip("\n"))
EXAMPLES = {"README.md": blocks("python", README), "using.md": blocks("python", PAGES["using.md"])}


def test_the_examples_parse_and_import_public_names_only() -> None:
    assert [len(found) for found in EXAMPLES.values()] == [1, 3]
    for example in (one for found in EXAMPLES.values() for one in found):
        lines = [line for line in example.splitlines() if line.strip()]
        assert len(lines) <= 16
        for node in ast.walk(ast.parse(example)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                assert module.__name__ in ("transformers", "memformer")
                assert all(name.name in dir(module) for name in node.names)


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("page", EXAMPLES)
def test_the_examples_do_what_the_page_says(page: str, tmp_path: Path) -> None:
    from memformer.pretrained import DEFAULT_MODEL, local_path

    if local_path(DEFAULT_MODEL) is None:
        pytest.skip("the default model is not here; `memformer fetch` gets it")
    example = "\n".join(EXAMPLES[page])
    book = "Ahab is the captain of the ship."
    (tmp_path / "book.txt").write_text(book)
    ended = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{example}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    printed = ended.stdout.splitlines()
    text = README if page == "README.md" else PAGES[page]
    told = re.search(r"^It prints `([^`]+)`(?: and `([^`]+)`)?", text, re.MULTILINE)
    assert told
    said = [one for one in told.groups() if one is not None]
    assert [line.strip() for line in printed[: len(said)]] == said
    if page == "README.md":
        assert len(printed) == len(said) == 2
        return
    assert "cello" in printed[1]
    turns = ast.literal_eval(printed[2])
    assert [turn["text"] for turn in turns] == ["My sister Ines plays the cello.", book]
    assert (tmp_path / "ines.memory").is_file()


def test_the_readme_is_short_and_its_table_has_one_number_a_cell() -> None:
    assert len(README.splitlines()) <= 130
    results = README.partition("## Results")[2].partition("\n## ")[0]
    rows = [line for line in results.splitlines() if line.startswith("|")][2:]
    assert len(rows) == 4
    for row in rows:
        _, *cells = row.strip("| ").split(" | ")
        assert len(cells) == 3
        assert all(re.fullmatch(r"\*{0,2}\d+(\.\d+)?\*{0,2}", cell) for cell in cells)


def test_the_readme_names_the_commands_that_matter() -> None:
    named = {
        " ".join(words[:3] if words[0] == "python" else words[:2]) for words in commands(README)
    }
    assert {"make demo", "make test", "python -m eval.recall", "python -m eval.scaling"} <= named
    assert {f"memformer {name}" for name in ("chat", "ask", "attach", "fetch")} <= named


def config_commands() -> list[list[str]]:
    """The commands in the comments at the top of configs."""
    lines = [
        line.removeprefix("#").strip()
        for path in sorted((ROOT / "configs").glob("*/*.yaml"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("#")
    ]
    return [shlex.split(line) for line in lines if COMMAND.match(line)]


COMMANDS = [words for text in (README, CONTRIBUTING, *PAGES.values()) for words in commands(text)]


@pytest.mark.parametrize("words", COMMANDS + config_commands(), ids=" ".join)
def test_every_command_in_the_documents_exists(words: list[str]) -> None:
    assert wrong(words) is None


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("make coffee", "coffee"),
        ("memformer sing", "sing"),
        ("memformer chat --loudly", "--loudly"),
        ("memformer memory shout", "shout"),
        ("memformer memory show --quickly", "--quickly"),
        ("python -m eval.nothing", "eval.nothing"),
        ("python -m eval.recall --quickly", "--quickly"),
        ("python -m training.classic --quickly", "--quickly"),
        ("python -m training.data.build poems out.jsonl", "poems"),
        ("python -m training.finetune configs/none.yaml", "configs/none.yaml"),
        ("accelerate launch -m training.finetune configs/none.yaml", "configs/none.yaml"),
        (
            "python -m training.finetune configs/finetune/first.yaml --launch none.yaml",
            "none.yaml",
        ),
    ],
)
def test_a_command_that_does_not_exist_is_found(command: str, missing: str) -> None:
    (words,) = commands(f"Run `{command}`.")
    assert wrong(words) == missing


@pytest.mark.parametrize("listed", [TREE, SHORT_TREE], ids=["architecture.md", "README.md"])
def test_everything_in_a_tree_is_there_and_explained(listed: dict[str, str]) -> None:
    assert len(listed) > 20
    assert [path for path in listed if not (ROOT / path).exists()] == []
    assert [path for path, comment in listed.items() if not comment] == []


def has_code(path: Path) -> bool:
    """Whether a file is more than its docstring."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    return any(not isinstance(node, ast.Expr) for node in module.body)


@pytest.mark.parametrize("folder", ["memformer", "eval", "training", "examples"])
def test_every_file_of_the_code_is_in_the_tree(folder: str) -> None:
    files = list((ROOT / folder).rglob("*.py"))
    there = {path.relative_to(ROOT).as_posix() for path in files if has_code(path)}
    assert there and there - TREE.keys() == set()


KINDS = {
    "str": "text",
    "int": "whole number",
    "float": "number",
    "bool": "true or false",
    "dict[str, Any]": "fields",
    "list[float]": "list of numbers",
    "list[Source]": "list of sources",
    "list[Stage]": "list of stages",
}


def options_of(section: type, name: str = "") -> dict[str, tuple[str, object]]:
    """Type and default of every key of a config's section, by its name in full."""
    found: dict[str, tuple[str, object]] = {}
    for field in dataclasses.fields(section):
        key = name + field.name
        kind, optional, _ = str(field.type).partition(" | None")
        if kind not in KINDS:
            found |= options_of(getattr(settings, kind), f"{key}.")
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        found[key] = (KINDS[kind] + " or null" * bool(optional), default)
        if kind in ("list[Source]", "list[Stage]") and key != "validation.sources":
            found |= options_of(getattr(settings, kind[5:-1]), f"{key}[].")
    return found


def test_the_table_of_options_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \| (.+?) \| (.+) \|$", OPTIONS, re.MULTILINE)
    told = {}
    for key, kind, default, meaning in rows:
        assert meaning.strip() and key not in told
        value = yaml.safe_load(default.strip("`"))
        told[key] = (kind, MISSING if default == "needed" else value)
    assert told == options_of(Settings)


def test_every_link_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", README + CONTRIBUTING)
    assert "docs/how_it_works.svg" in links
    for page in PAGES.values():
        links += [f"docs/{link}" for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page)]
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def anchors(page: str) -> set[str]:
    """The anchors that headings of a page get."""
    titles = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_link_into_a_page_leads_to_a_heading() -> None:
    links = re.findall(r"\]\(docs/([\w.]+)#([^)]+)\)", README + CONTRIBUTING)
    for name, page in PAGES.items():
        found = re.findall(r"\]\(([\w.]*)#([^)]+)\)", page)
        links += [(target or name, anchor) for target, anchor in found]
    assert len(links) > 10
    assert [link for link in links if link[1] not in anchors(PAGES[link[0]])] == []


def test_the_supported_families_are_those_of_the_table() -> None:
    page = PAGES["using.md"].partition("## Supported families")[2]
    line = next(line for line in page.splitlines() if line.startswith("By `model_type`"))
    families = line.partition("`memformer.register_backbone`")[0]
    assert set(re.findall(r"`(\w+)`", families)) - {"model_type"} == set(_FAMILIES)


@pytest.mark.parametrize("name", ["how_it_works", "architecture"])
def test_a_picture_is_drawn_and_is_the_one_in_the_repository(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    fresh = tmp_path / f"{name}.svg"
    command = [sys.executable, ROOT / "docs" / "picture.py", name, fresh]
    subprocess.run(command, check=True, cwd=tmp_path)
    kept = ROOT / "docs" / f"{name}.svg"
    drawn, committed = (ElementTree.parse(path).getroot() for path in (fresh, kept))
    assert drawn.tag == "{http://www.w3.org/2000/svg}svg"

    # outlines may differ between versions of matplotlib; the parts and the words do not
    def parts(root: ElementTree.Element) -> list[str | None]:
        return [one.get("id") for one in root.iter("{http://www.w3.org/2000/svg}g")]

    def words(path: Path) -> list[str]:
        return re.findall(r"<!-- (.*?) -->", path.read_text(encoding="utf-8"))

    assert parts(drawn) == parts(committed)
    assert words(fresh) == words(kept) != []
