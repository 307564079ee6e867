"""The bitstream command: a project that is complete, and bad input.

Testpoints: the project holds Verilog with DSP48E2 and all scripts, runs against the stubs of Vivado, and its manifest
names the Verilog and the clock; the result says that Vivado was not run; a wrong clock or config is one line and leaves
no folder.
"""

import json
from pathlib import Path

import pytest
from vivado_design import run_build

from bitstreams.manifest import Manifest
from heatvit import cli
from hw.config import CONFIGS
from hw.vivado.project import SCRIPTS, SETTINGS_NAME


def test_a_project_is_complete(tmp_path: Path) -> None:
    folder, result_file = tmp_path / "project", tmp_path / "result.json"
    words = ["bitstream", "--config", "tiny", "--out", str(folder), "--clock-mhz", "200", "--json", str(result_file)]
    assert cli.main(words) == 0
    result = json.loads(result_file.read_text())
    assert {Path(script).name for script in result["scripts"]} == {*SCRIPTS, SETTINGS_NAME}
    assert all(Path(path).is_file() for path in (*result["verilog"], *result["scripts"]))
    assert any("DSP48E2 #(" in Path(path).read_text() for path in result["verilog"])
    assert result["status"].startswith("not run here")
    build = run_build(CONFIGS["tiny"], folder)
    assert not build.error
    manifest = Manifest.load(folder / "overlay" / "manifest.json")
    assert manifest.verilog_sha256 == result["verilog_sha256"] and manifest.config_hash == result["config_hash"]
    assert manifest.clock_mhz == pytest.approx(200 - 0.0025)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--clock-mhz", "900"], "6.25..333, not 900"),
        (["--clock-mhz", "nan"], "not nan"),
        (["--config", "huge"], "tiny"),
    ],
)
def test_bad_input(words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bitstream", "--config", "tiny", "--out", str(tmp_path / "project"), *words]) == 2
    line = capsys.readouterr().err
    assert line.startswith("heatvit: ") and message in line and line.count("\n") == 1
    assert not (tmp_path / "project").exists()
