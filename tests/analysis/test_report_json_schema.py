"""The JSON schema that editors complete ``report:`` blocks with."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from capsexp.analysis.figures import kinds
from capsexp.report import main

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    folder = tmp_path_factory.mktemp("schema")
    assert main(["--schema", str(folder)]) == 0
    return json.loads((folder / "report.schema.json").read_text())


@pytest.fixture(scope="module")
def validator(schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_last_line_is_the_files_path(tmp_path, capsys):
    assert main(["--schema", str(tmp_path / "new")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'new' / 'report.schema.json'}\n"


def test_every_kind_and_every_key_is_described(schema):
    shown = schema["properties"]["report"]["properties"]["figures"]["anyOf"][0]["items"]
    assert set(shown["discriminator"]["mapping"]) == set(kinds())
    for kind, model in kinds().items():
        keys = schema["$defs"][model.__name__]["properties"]
        assert keys.keys() == model.model_fields.keys()
        assert [key for key, each in keys.items() if key != "kind" and "description" not in each] == [], kind


@pytest.mark.parametrize("file", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_experiments_fit(validator, file):
    validator.validate(yaml.safe_load(file.read_text()))


@pytest.mark.parametrize(
    "block",
    [
        {"tite": "x"},
        {"figures": [{"kind": "cube"}]},
        {"figures": [{"kind": "line", "x": "a"}]},
        {"figures": [{"kind": "surface", "x": "a", "y": "b", "metric": "m", "sigma": -1}]},
        {"compare": [{"what": "x", "metric": "m", "reduce": "median"}]},
    ],
)
def test_wrong_blocks_do_not_fit(validator, block):
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({"report": block})


@pytest.mark.parametrize("words", [[], ["DIR", "--schema", "DIR"]])
def test_a_folder_or_the_schema_is_asked_for(words, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
