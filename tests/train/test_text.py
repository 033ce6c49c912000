"""Byte pairs and language modelling."""

from __future__ import annotations

import itertools
import math
import pickle
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import TrainError
from nas.train.text import PIECES, BytePairs, LanguageModelling, python_corpus, split_by_file, text_files

torch.set_num_threads(1)
SAMPLE = "def low(lower):\n    return lower.lowest\n\nlow, lower, lowest = 1, 22, 4444\n"
TOKENIZER = BytePairs.train([SAMPLE * 3], 40)


@given(st.text())
def test_every_character_is_in_one_piece_and_every_text_comes_back(text):
    assert "".join(PIECES.findall(text)) == text
    clean = text.encode(errors="ignore").decode()
    assert TOKENIZER.decode(TOKENIZER.encode(clean)) == clean


def slow_merges(text, merges):
    """Byte pairs as the paper writes them: count everything anew for each merge."""
    words, found = [list(piece.encode()) for piece in PIECES.findall(text)], []
    for number in range(merges):
        counts = Counter(pair for word in words for pair in itertools.pairwise(word))
        pair = min(counts, key=lambda each: (-counts[each], each))
        found.append(pair)
        for word in words:
            place = 0
            while place < len(word) - 1:
                if (word[place], word[place + 1]) == pair:
                    word[place : place + 2] = [256 + number]
                place += 1
    return tuple(found), [token for word in words for token in word]


def test_merges_and_tokens_are_those_of_the_slow_way():
    text = SAMPLE * 3 + "aaaa aaa aaaaa"
    merges, ids = slow_merges(text, 25)
    fast = BytePairs.train([text], 25)
    assert fast.merges == merges
    assert fast.encode(text).tolist() == ids
    assert len(fast.tokens) == 256 + 25 + 1
    assert fast.tokens[fast.end] == b""


def test_training_stops_where_nothing_occurs_twice():
    assert BytePairs.train(["abcd"], 10).merges == ()


def lm(train=500, valid=100, **options):
    return LanguageModelling(
        torch.arange(train) % 97, torch.arange(valid) % 97, None, TOKENIZER, **{"context": 8, "batch": 4, **options}
    )


def test_windows_depend_on_seed_and_epoch_and_do_not_overlap():
    first, again = list(lm().train_batches(2)), list(lm().train_batches(2))
    assert len(first) == lm().steps_per_epoch
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0].inputs, next(lm().train_batches(3)).inputs)
    assert not torch.equal(first[0].inputs, next(lm(seed=1).train_batches(2)).inputs)
    task = LanguageModelling(torch.arange(300), torch.arange(20), None, TOKENIZER, context=8, batch=4)
    for epoch in range(20):
        batches = list(task.train_batches(epoch))
        assert len(batches) == task.steps_per_epoch
        tokens = torch.cat([batch.inputs for batch in batches]).flatten()
        assert len(tokens.unique()) == len(tokens)
        assert all(torch.equal(batch.targets, batch.inputs + 1) for batch in batches)


def test_bits_per_byte_is_all_bits_by_all_bytes():
    tokens = torch.from_numpy(TOKENIZER.encode(SAMPLE * 8).astype("int64"))
    task = LanguageModelling(tokens, tokens, tokens, TOKENIZER, context=7, batch=3)
    classes = len(TOKENIZER.tokens)
    measured = task.evaluate(lambda inputs: torch.zeros(*inputs.shape, classes))
    used = tokens[1 : 1 + (len(tokens) - 1) // 7 * 7]
    size = sum(len(TOKENIZER.tokens[int(token)]) for token in used)
    assert measured["loss"] == pytest.approx(math.log(classes), rel=1e-5)
    assert measured["bits_per_byte"] == pytest.approx(len(used) * math.log2(classes) / size, rel=1e-5)
    assert task.evaluate(lambda inputs: torch.zeros(*inputs.shape, classes), "test") == pytest.approx(measured)
    assert set(measured) == set(task.metric_names)


def test_an_empty_or_unknown_split_is_refused():
    with pytest.raises(TrainError, match="no test data"):
        lm().evaluate(lambda inputs: inputs, "test")
    with pytest.raises(TrainError, match="did you mean 'valid'"):
        lm().evaluate(lambda inputs: inputs, "vaild")  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"train": 30}, {"valid": 8}, {"context": 0}, {"batch": 0}])
def test_sizes_that_do_not_fit_are_refused(options):
    with pytest.raises(TrainError):
        lm(**options)


def test_files_are_split_whole_and_by_seed():
    texts = {f"f{number}": f"{number:03d}" * 10 for number in range(100)}
    splits = split_by_file(texts, None, (0.1, 0.2), 0)
    assert [len(split) for split in splits] == [70, 10, 20]
    assert sorted(text for split in splits for text in split) == sorted(texts.values())
    assert split_by_file(texts, None, (0.1, 0.2), 0) == splits
    assert split_by_file(texts, None, (0.1, 0.2), 1) != splits
    assert sum(map(len, split_by_file(texts, 10 * 30, (0.1, 0.2), 0))) == 10


def test_a_folder_of_text_becomes_a_task_and_its_tokens_are_kept(tmp_path, monkeypatch):
    folder = tmp_path / "texts"
    for number in range(20):
        (folder / str(number % 3)).mkdir(parents=True, exist_ok=True)
        (folder / str(number % 3) / f"{number}.txt").write_text(f"{SAMPLE}# {number}\n" * 4, encoding="utf-8")
    options = {"context": 16, "batch": 2, "merges": 20, "valid": 0.1, "test": 0.1, "cache": tmp_path / "kept"}
    first = text_files(folder, **options)
    assert first.tokenizer.end == 256 + 20
    assert int((first.train == first.tokenizer.end).sum()) + int((first.valid == first.tokenizer.end).sum()) == 18
    assert len(list((tmp_path / "kept").iterdir())) == 1
    monkeypatch.setattr("nas.train.text._tokenize", lambda *_: pytest.fail("tokenized again"))
    again = text_files(folder, **options)
    assert again.describe() == first.describe()
    assert again.tokenizer == first.tokenizer
    assert pickle.loads(pickle.dumps(again)).describe() == first.describe()


def test_bad_folders_get_one_sentence(tmp_path):
    with pytest.raises(TrainError, match="is not a folder"):
        text_files(tmp_path / "none")
    with pytest.raises(TrainError, match="has 0 files"):
        text_files(tmp_path)
    (tmp_path / "broken.txt").write_bytes(b"fine \xff")
    with pytest.raises(TrainError, match=r"broken.txt' is not UTF-8 text \(byte 5\)"):
        text_files(tmp_path)
    with pytest.raises(TrainError, match="nothing to train on"):
        python_corpus(valid=0.9, test=0.2)


def test_the_standard_library_is_a_corpus():
    task = python_corpus(64, 8, merges=100, limit=300_000, valid=0.1, test=0.1)
    assert task.vocabulary == 357
    sizes = [len(task.train), len(task.valid), len(task.test)]  # type: ignore[arg-type]
    assert sizes[0] > 80_000
    assert all(0.05 < size / sum(sizes) < 0.15 for size in sizes[1:])
    assert any(len(token) > 4 for token in task.tokenizer.tokens)
    assert len(pickle.dumps(task)) < 1000  # travels as the call
    assert "self" in task.tokenizer.decode(task.train[:20_000])
