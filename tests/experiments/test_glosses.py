"""The parser of WordNet's files and the similarity of senses that `experiments/glosses` goes by."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.experiments.scripts import script

LINES = """  1 This software and database is being provided to you
00000010 03 n 01 entity 0 002 ~ 00000020 n 0000 ~ 00000030 n 0000 | that which exists
00000020 05 n 02 animal 0 animate_being 0 002 @ 00000010 n 0000 + 00000099 v 0101 | a living organism; "an animal eats"
00000030 06 n 01 thing 0 001 @ 00000010 n 0000 | no animal
00000040 05 n 01 dog 0 001 @ 00000020 n 0000 | it barks; it bites
00000050 05 n 0a toy_dog 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0 j 0 002 @ 00000040 n 0000 @ 00000030 n 0000 | a dog and a thing
00000060 18 n 01 Laika 0 001 @i 00000040 n 0000 | a dog in space
"""


@pytest.fixture(scope="module")
def wordnet() -> ModuleType:
    return script("glosses/wordnet.py")


def test_nouns_are_read_with_words_glosses_and_hypernyms(wordnet: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "data.noun").write_text(LINES, encoding="latin-1")
    senses = wordnet.nouns(tmp_path)
    assert senses[1] == wordnet.Sense(("animal", "animate_being"), "a living organism", (0,))
    assert senses[3].gloss == "it barks; it bites"
    assert len(senses[4].words) == 10  # a count in hexadecimal
    assert senses[4].above == (3, 2)
    assert [sense.above for sense in senses] == [(), (0,), (0,), (1,), (3, 2), (3,)]


def test_a_folder_without_wordnet_is_told_where_to_get_it(wordnet: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(wordnet.Missing, match=r"has no data.noun; `apt-get install wordnet-base` puts it into"):
        wordnet.nouns(tmp_path)


def test_similarity_is_that_of_wu_and_palmer(wordnet: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "data.noun").write_text(LINES, encoding="latin-1")
    taxonomy = wordnet.Taxonomy(wordnet.nouns(tmp_path))
    entity, animal, thing, dog, toy, laika = range(6)
    assert [taxonomy.depth(sense) for sense in range(6)] == [1, 2, 2, 3, 3, 4]
    assert taxonomy.similarity(dog, dog) == 1.0
    assert taxonomy.similarity(animal, thing) == 2 * 1 / (2 * 1 + 1 + 1)
    assert taxonomy.similarity(laika, toy) == 2 * 3 / (2 * 3 + 1 + 1)  # below the dog
    assert taxonomy.similarity(toy, thing) == 2 * 2 / (2 * 2 + 1)
    assert taxonomy.similarity(entity, laika) == taxonomy.similarity(laika, entity) == 2 * 1 / (2 * 1 + 3)


def test_pairs_are_spread_over_the_scale_and_each_is_there_once(wordnet: ModuleType) -> None:
    taxonomy = wordnet.Taxonomy(wordnet.exceptions())
    pairs, scores = wordnet.graded(taxonomy, np.arange(60), 100, np.random.default_rng(0))
    assert len({frozenset(pair) for pair in pairs.tolist()}) == len(pairs)
    assert np.histogram(scores, 10, (0, 1))[0].max() <= 10
    assert all(taxonomy.similarity(*pair) == pytest.approx(score) for pair, score in zip(pairs, scores, strict=True))


def test_words_are_hashed_and_padded(wordnet: ModuleType) -> None:
    table = wordnet.tokens(["A dog, a Dog!", "", "one two three four five"], vocabulary=50, length=4)
    assert table.shape == (3, 4)
    assert table[0, 0] == table[0, 2]
    assert table[0, 1] == table[0, 3]
    assert table[0].min() >= 1
    assert table[1].tolist() == [0, 0, 0, 0]
    assert table.max() < 50
