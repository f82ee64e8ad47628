"""Checksums of files: those in a result, and the one inside a checkpoint."""

import json
from pathlib import Path

import pytest
import torch

from capsexp import records
from capsexp.callbacks import checkpoints

ID = "0123456789"
OTHER = "abcdefabcd"


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A checkpoint to resume from, with its checksum inside."""
    path = tmp_path / f"cell-{ID}" / records.RESUME_CHECKPOINT
    path.parent.mkdir(parents=True)
    torch.save({"weight": torch.arange(4096.0)}, path)
    records.seal(path, ID)
    return path


def flip(path: Path, place: int, bit: int = 6) -> None:
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(bytes(content))


def test_torch_reads_a_sealed_checkpoint_as_before(sealed: Path) -> None:
    assert torch.equal(torch.load(sealed, weights_only=True)["weight"], torch.arange(4096.0))
    assert torch.equal(checkpoints.read(sealed)["weight"], torch.arange(4096.0))
    records.seal(sealed, ID)  # has a comment already, which stays
    assert checkpoints.read(sealed).keys() == {"weight"}


def test_no_flipped_bit_of_a_sealed_checkpoint_is_read_as_another_number(sealed: Path) -> None:
    whole = sealed.read_bytes()
    for place in range(0, len(whole), 97):
        flip(sealed, place)
        with pytest.raises(
            records.DamagedError, match=rf"{records.RESUME_CHECKPOINT} is damaged: its checksum does not match"
        ):
            checkpoints.read(sealed)
        sealed.write_bytes(whole)


def test_a_checkpoint_of_another_cell_is_damaged(sealed: Path, tmp_path: Path) -> None:
    other = tmp_path / f"cell-{OTHER}" / records.RESUME_CHECKPOINT
    other.parent.mkdir(parents=True)
    other.write_bytes(sealed.read_bytes())
    with pytest.raises(records.DamagedError, match="its checksum does not match"):
        checkpoints.read(other)


def test_an_older_checkpoint_is_checked_by_the_sums_of_its_entries(tmp_path: Path) -> None:
    path = tmp_path / "best.ckpt"
    torch.save({"weight": torch.arange(4096.0)}, path)
    assert checkpoints.read(path).keys() == {"weight"}
    flip(path, path.read_bytes().index(torch.tensor([2048.0, 2049.0]).numpy().tobytes()) + 3)
    assert torch.load(path, weights_only=True)["weight"][2048] != 2048  # torch itself does not look
    with pytest.raises(records.DamagedError, match="its checksum does not match"):
        checkpoints.read(path)


@pytest.mark.parametrize("kind", ["empty", "cut", "text", "folder", "loop", "missing", "number"])
def test_what_is_no_checkpoint_is_damaged_in_one_line(sealed: Path, kind: str) -> None:
    content = sealed.read_bytes()
    sealed.unlink()
    if kind == "folder":
        sealed.mkdir()
    elif kind == "loop":
        sealed.symlink_to(sealed.name)
    elif kind == "number":
        torch.save(3, sealed)
    elif kind != "missing":
        sealed.write_bytes({"empty": b"", "cut": content[:5000], "text": b"hello"}[kind])
    with pytest.raises(records.DamagedError) as caught:
        checkpoints.read(sealed)
    assert str(sealed) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_result_knows_the_files_beside_it(tmp_path: Path) -> None:
    cell = tmp_path / f"c2-02-{ID}"
    for name in (records.BEST_CHECKPOINT, records.ARRAYS, records.METRICS, "autoencode.csv"):
        records.write_text(cell / name, name)
    records.write_result(cell, {"id": ID}, config={"seed": 3, "data": {"path": "/here"}})
    files, config = records.result_digests(cell)
    assert files is not None
    assert files.keys() == {records.BEST_CHECKPOINT, records.ARRAYS, records.METRICS, "autoencode.csv"}
    assert config == records.config_digest({"seed": 3, "data": {"path": "/there"}, "paths": {"output": "/elsewhere"}})
    assert config != records.config_digest({"seed": 4, "data": {"path": "/here"}})
    assert records.first_damaged(cell, files) is None
    flip(cell / records.METRICS, 3)
    assert records.first_damaged(cell, files) == records.METRICS
    (cell / records.BEST_CHECKPOINT).unlink()
    assert records.first_damaged(cell, files) == records.BEST_CHECKPOINT


def test_the_body_and_its_checksum_are_those_of_older_results(tmp_path: Path) -> None:
    records.write_result(tmp_path, {"id": ID})
    raw = json.loads((tmp_path / records.RESULT).read_text())
    records.write_json(tmp_path / records.RESULT, {key: raw[key] for key in ("schema", "checksum", "body")})
    assert records.read_result(tmp_path) == {"id": ID}
    assert records.result_digests(tmp_path) == (None, None)


def test_a_result_of_another_folder_counts_for_nothing(tmp_path: Path) -> None:
    cell, other, copy = (tmp_path / name for name in (f"a-{ID}", f"a-{OTHER}", "my best network"))
    for name, body in ((records.RESULT, {"id": ID}), (records.STAGE, {"metrics": {}})):
        records.write_result(cell, body, name)
        for folder in (other, copy):
            records.write_text(folder / name, (cell / name).read_text())
        assert records.read_result(cell, name) == records.read_result(copy, name) == body
        assert records.read_result(other, name) is None


def test_json_that_is_no_file_or_too_deep_is_none(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "deep").write_text("[" * 100_000)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for name in ("folder", "loop", "deep", "bytes", "missing"):
        assert records.read_json(tmp_path / name) is None
