"""Two evaluations in one folder."""

import json

from support import drive_recording, onnx_models

from depth_ros.commands import evaluate_bag
from depth_ros.files import locked


def test_two_at_once(tmp_path, capsys):
    """The second is told who writes there, and the results that are there stay."""
    bag, out = tmp_path / 'bag', tmp_path / 'out'
    drive_recording.write(bag, truth=False, frames=3)
    model = onnx_models.save_perception(tmp_path / 'perception.onnx')
    out.mkdir()
    (out / 'metrics.json').write_text('{}')
    command = [str(bag), '--model', str(model), '--out', str(out), '--no-recording']
    with locked(out / '.lock', 'evaluate_bag'):
        assert evaluate_bag.main(command) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"'{out}' is in use by process" in error and (out / 'metrics.json').read_text() == '{}'
    assert evaluate_bag.main(command) == 0
    assert not (out / '.lock').exists()
    assert json.loads((out / 'metrics.json').read_text())['frames']['judged'] == 3
