"""Each rule that cuts text into documents, and what a user sees when a corpus cannot be read."""

import json
import sys
from pathlib import Path

import datasets
import pytest

from sae_nfm.data import corpora
from sae_nfm.data.corpora import HuggingFaceCorpus, TextCorpus
from sae_nfm.data.docstrings import DocstringCorpus

HEADING = r"\s*= (?!= ).+(?<! =) =\s*$"
LONG = "A docstring that says something at length. " * 6
WIKITEXT = """ 
 = Homarus gammarus = 
 
 A lobster .
 
 = = Habitat = = 
 
 The sea , x = y .
 
 = M @-@ 82 ( Michigan highway ) = 
 
 A road .
 = = = History = = = 
 Long .
"""
ARTICLES = [
    "= Homarus gammarus = \n \n A lobster .\n \n = = Habitat = = \n \n The sea , x = y .",
    "= M @-@ 82 ( Michigan highway ) = \n \n A road .\n = = = History = = = \n Long .",
]


def texts(corpus):
    return [document.text for document in corpus.documents()]


def text_corpus(path, separator=None, document="blank_line"):
    return TextCorpus(str(path) if isinstance(path, Path) else path, separator, document, HEADING)


def hub_corpus(path, **changes):
    settings = {
        "name": None,
        "split": "train",
        "text_column": "text",
        "revision": None,
        "streaming": True,
        "heading": None,
        "data_files": None,
    }
    return HuggingFaceCorpus(str(path), **(settings | changes))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that cannot be imported without being noticed."""
    folder = tmp_path / "site" / "undersea"
    (folder / "tests").mkdir(parents=True)
    (folder / "__init__.py").write_text(f'"""{LONG}"""\nraise RuntimeError("imported")\n')
    (folder / "fish.py").write_text(
        f'"""Short."""\nclass Cod:\n    """{LONG}Cod."""\n    def swim(self):\n        """{LONG}Swim."""\n'
        f'\ntry:\n    pass\nexcept OSError as error:\n    async def drift():\n        """{LONG}Drift."""\n'
    )
    (folder / "copy.py").write_text(f'def swim():\n    """{LONG}Swim."""\n')
    (folder / "broken.py").write_text(f'"""{LONG}Broken."""\ndef (:\n')
    (folder / "test_fish.py").write_text(f'"""{LONG}Test."""\n')
    (folder / "tests" / "deep.py").write_text(f'"""{LONG}Deep."""\n')
    monkeypatch.syspath_prepend(tmp_path / "site")
    return folder


def test_separator_is_found_across_chunks_and_wins_over_the_rule(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "_CHUNK", 3)
    path = tmp_path / "stories.txt"
    path.write_text("\nOne\n\nday\n<|endoftext|>\nTwo <|x|>\n<|endoftext|><|endoftext|> \nThree\n")
    for document in ("blank_line", "heading", "file"):
        assert texts(text_corpus(path, "<|endoftext|>", document)) == ["One\n\nday", "Two <|x|>", "Three"]


def test_blank_lines_separate(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\nstill one\r\n\r\n \t\r\ntwo\r\n")
    assert texts(text_corpus(path)) == ["one\nstill one", "two"]


def test_only_first_level_headings_open_an_article(tmp_path):
    path = tmp_path / "wiki.txt"
    path.write_text(WIKITEXT)
    assert texts(text_corpus(path, document="heading")) == ARTICLES


def test_files_are_found_by_glob_and_list_once_each_and_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("deep").mkdir()
    for name in ("b.txt", "a.txt", "deep/[c].txt"):
        Path(name).write_text(f"{name}\n\nmore")
    found = [f"{name}\n\nmore" for name in ("a.txt", "b.txt", "deep/[c].txt")]
    assert texts(text_corpus("**/*.txt", document="file")) == found
    assert texts(text_corpus(["deep/[c].txt", "*.txt", "a.txt"], document="file")) == found


def test_key_follows_the_text_alone(tmp_path):
    (tmp_path / "a.txt").write_text("same\n\nother")
    (tmp_path / "b.txt").write_text("same")
    keys = [document.key for document in text_corpus(tmp_path / "*.txt").documents()]
    assert keys[0] == keys[2] != keys[1]


def test_text_signature_follows_content_and_rule_but_not_the_place(tmp_path):
    for folder, text in (("here", "x"), ("there", "x"), ("else", "y")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(text)
    here, there, other = (text_corpus(tmp_path / name / "a.txt") for name in ("here", "there", "else"))
    assert here.signature() == there.signature() != other.signature()
    assert here.signature() != text_corpus(tmp_path / "here" / "a.txt", "-").signature()
    json.dumps(here.signature())


def test_errors_of_a_text_corpus_name_the_key_and_what_is_allowed(tmp_path):
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "empty.txt").write_text(" \n\n")
    with pytest.raises(ValueError, match=r"path=.*none\*\.txt: it matches no file .*allowed are a text file"):
        text_corpus(tmp_path / "none*.txt")
    with pytest.raises(ValueError, match=r"corpus\.path=.*latin\.txt is not UTF-8 text .*allowed"):
        texts(text_corpus(tmp_path / "latin.txt"))
    with pytest.raises(ValueError, match=r"corpus\.path=.*empty\.txt: it holds no document; allowed"):
        texts(text_corpus(tmp_path / "empty.txt"))
    with pytest.raises(ValueError, match="document=page: allowed are blank_line, heading, file"):
        text_corpus(tmp_path / "empty.txt", document="page")
    with pytest.raises(ValueError, match='separator="": allowed are null and text'):
        text_corpus(tmp_path / "empty.txt", separator="")
    with pytest.raises(ValueError, match=r"heading=\(: .*allowed are regular expressions"):
        TextCorpus(str(tmp_path / "empty.txt"), None, "heading", "(")


def test_a_separator_that_no_file_holds_is_named_and_one_that_some_hold_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr("sae_nfm.data.corpora._CHUNK", 4)  # the separator lies across two reads
    (tmp_path / "a.txt").write_text("one document")
    (tmp_path / "b.txt").write_text("two<eos>documents")
    assert len(texts(text_corpus(tmp_path / "*.txt", separator="<eos>"))) == 3
    with pytest.raises(
        ValueError, match=r"corpus\.separator=<end>: it is nowhere in the 2 files .*document=file"
    ):
        texts(text_corpus(tmp_path / "*.txt", separator="<end>"))
    with pytest.raises(ValueError, match=r"corpus\.separator=<eos>: it is nowhere in the 1 files"):
        texts(text_corpus(tmp_path / "a.txt", separator="<eos>"))


def test_docstrings_are_read_without_importing(package):
    corpus = DocstringCorpus(["undersea", "not_installed_anywhere"], min_chars=200)
    found = {document.key: document.text for document in corpus.documents()}
    assert found == {
        "undersea/__init__.py:": LONG.strip(),
        "undersea/copy.py:swim": f"{LONG}Swim.",  # and not once more from fish.py
        "undersea/fish.py:Cod": f"{LONG}Cod.",
        "undersea/fish.py:drift": f"{LONG}Drift.",
    }
    assert "undersea" not in sys.modules
    assert [*corpus.documents()] == [*corpus.documents()]


def test_docstring_signature_follows_the_files(package):
    corpus = DocstringCorpus(["undersea"], min_chars=200)
    before = corpus.signature()
    assert before["packages"]["undersea"]["version"] is None
    (package / "tests" / "more.py").write_text("x = 1")
    assert corpus.signature() == before
    (package / "more.py").write_text("x = 1")
    assert corpus.signature() != before


def test_docstrings_of_a_real_package_and_of_none():
    corpus = DocstringCorpus(["email"], min_chars=200)
    documents = list(corpus.documents())
    assert len(documents) > 20
    assert all(len(document.text) > 200 for document in documents)
    with pytest.raises(
        ValueError, match=r"corpus\.packages=\['not_installed'\]: it holds no document; allowed"
    ):
        texts(DocstringCorpus(["not_installed"], min_chars=200))


def test_standard_library_is_a_package_of_its_own():
    packages = DocstringCorpus(["stdlib"], min_chars=200).signature()["packages"]
    assert packages["stdlib"]["version"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")


@pytest.mark.parametrize("streaming", [True, False])
def test_rows_of_a_local_folder(tmp_path, monkeypatch, streaming):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "folder"
    folder.mkdir()
    datasets.Dataset.from_dict({"body": ["one", None, " ", "two"]}).to_parquet(folder / "train.parquet")
    corpus = hub_corpus(folder, text_column="body", streaming=streaming)
    assert texts(corpus) == ["one", "two"]


def test_rows_that_are_lines_become_articles(tmp_path):
    path = tmp_path / "wiki.jsonl"
    rows = [line if line.strip() else "" for line in WIKITEXT.splitlines(keepends=True)]
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    corpus = hub_corpus("json", data_files=str(path), heading=HEADING)
    assert texts(corpus) == [article.replace("\n \n", "\n\n") for article in ARTICLES]


@pytest.mark.parametrize("heading", [None, HEADING])
@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"label": 0, "body": "x", "title": "y"}, "type int; allowed are body, title"),
        ({"label": ["x"], "body": "y"}, "type list; allowed are body"),
        ({"label": 1.5}, "type float; allowed are columns of text, of which it has none"),
    ],
)
def test_a_column_that_holds_no_text_is_named_with_those_that_do(tmp_path, heading, row, said):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    corpus = hub_corpus("json", data_files=str(path), text_column="label", heading=heading)
    with pytest.raises(ValueError, match=rf"corpus\.text_column=label: its values are of {said}$"):
        texts(corpus)


def test_dataset_signature_follows_local_content_but_not_the_place(tmp_path):
    for name, text in (("here", "x"), ("there", "x"), ("else", "y")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(text)
    here, there, other = (hub_corpus(tmp_path / name).signature() for name in ("here", "there", "else"))
    assert here == there != other
    hub = hub_corpus("someone/something", revision="v1").signature()
    assert (hub["path"], hub["revision"]) == ("someone/something", "v1")


def test_errors_of_a_dataset_name_the_key_and_what_is_allowed(tmp_path, monkeypatch):
    def unreachable(*arguments, **settings):
        raise ConnectionError("Couldn't reach 'someone/something' on the Hub\nand a long story")

    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match=r"corpus\.text_column=body: it is no column .*; allowed are text"):
        texts(hub_corpus(tmp_path, text_column="body"))
    with pytest.raises(ValueError, match=r"corpus\.path=.*: it cannot be loaded: Bad split"):
        texts(hub_corpus(tmp_path, split="nothing"))
    (tmp_path / "scripted").mkdir()
    (tmp_path / "scripted" / "scripted.py").write_text("")
    with pytest.raises(
        ValueError, match=r"corpus\.path=.*: it cannot be loaded: Dataset scripts .* scripted\.py;"
    ):
        texts(hub_corpus(tmp_path / "scripted"))
    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        ValueError, match=r"corpus\.path=someone/something: it cannot .*; allowed are .* hub"
    ) as error:
        texts(hub_corpus("someone/something"))
    assert "long story" not in str(error.value)
